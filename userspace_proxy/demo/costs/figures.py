"""From what was measured, round by round, to what it says: medians, and how far the rounds lie apart."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Final

import msgspec

_MOST: Final = 0.99


class Work(enum.Enum):
    """What a client does."""

    CONNECTIONS = "a new connection for each request"
    REQUESTS = "all requests on one connection"


class Role(enum.Enum):
    """Whose CPU time it is. What the kernel does for somebody is in it."""

    CLIENT = "client"
    PROXY = "proxy"
    POD = "pod"


@dataclass(frozen=True, slots=True)
class Round:
    """What came of asking for a moment: how long each request took, of which there is one at least."""

    seconds: float
    latencies_seconds: Sequence[float]
    cpu_seconds: Mapping[Role, float]


class Figures(msgspec.Struct, frozen=True, rename="camel"):
    """One way and one work.

    `noise` is how far the middle half of the rounds' CPU times lie apart, as a share of their median.
    """

    way: str
    work: Work
    per_second: float
    median_seconds: float
    p99_seconds: float
    cpu_seconds: dict[Role, float]
    noise: float

    @property
    def total_cpu_seconds(self) -> float:
        """What a request costs all of them together."""
        return sum(self.cpu_seconds.values())


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """What was measured, when (an ISO 8601 date) and on which machine."""

    date: str
    machine: str
    figures: tuple[Figures, ...]

    def of(self, work: Work) -> list[Figures]:
        """Those of a work, in the order in which the ways were named."""
        return [figures for figures in self.figures if figures.work is work]


def figures_of(way: str, work: Work, rounds: Sequence[Round]) -> Figures:
    """What these rounds say; there are two at least."""
    latencies = sorted(latency for a_round in rounds for latency in a_round.latencies_seconds)
    costs = [
        {role: seconds / len(a_round.latencies_seconds) for role, seconds in a_round.cpu_seconds.items()}
        for a_round in rounds
    ]
    totals = [sum(cost.values()) for cost in costs]
    lower, middle, upper = quantiles(totals, n=4, method="inclusive")
    return Figures(
        way,
        work,
        per_second=median(len(a_round.latencies_seconds) / a_round.seconds for a_round in rounds),
        median_seconds=median(latencies),
        p99_seconds=latencies[int(_MOST * (len(latencies) - 1))],
        cpu_seconds={role: median(cost[role] for cost in costs) for role in Role},
        noise=(upper - lower) / middle if middle else 0.0,
    )
