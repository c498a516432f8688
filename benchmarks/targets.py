"""What ours is to come to beside the others, and whether it did. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.samples import Samples, Spread
from benchmarks.studies import Step

OURS: Final = "ours"


@dataclass(frozen=True, slots=True)
class Target:
    """Ours divided by a peer is to be at least, or at most, `bound`.

    Of several `peers` the best counts, round by round: whoever does most, or costs least.
    """

    work: str
    metric: str
    peers: tuple[str, ...]
    is_at_least: bool
    bound: float

    def ratio(self, samples: Samples) -> Spread | None:
        """None if ours or every peer is missing."""
        ratios = []
        for number, figure in enumerate(samples.of(self.work, self.metric, OURS)):
            rows = [samples.of(self.work, self.metric, peer) for peer in self.peers]
            theirs = [row[number] for row in rows if number < len(row)]
            found = [other for other in theirs if other]
            if figure is not None and found:
                ratios.append(figure / (max(found) if self.is_at_least else min(found)))
        return Spread.of(ratios)

    def is_met(self, ratio: Spread) -> bool:
        """By the median."""
        return ratio.median >= self.bound if self.is_at_least else ratio.median <= self.bound

    @property
    def text(self) -> str:
        """The bound as a table shows it."""
        return f"{'≥' if self.is_at_least else '≤'} {self.bound:g} of {' or '.join(self.peers)}"


def _bulk(work: str) -> Sequence[Target]:
    return (
        Target(work, "rate", ("kernel",), True, 0.95),
        Target(work, "rate", ("kube-proxy",), True, 1.0),
        Target(work, "rate", ("nginx",), True, 1.4),
        Target(work, "rate", ("haproxy",), True, 2.0),
        Target(work, "cpu", ("nginx",), False, 0.8),
    )


TARGETS: Final = (
    *(target for work in ("bulk-1", "bulk-8", "bulk-1-down", "bulk-8-down") for target in _bulk(work)),
    Target("http", "rate", ("nginx", "haproxy"), True, 1.0),
    Target("http", "cpu", ("nginx",), False, 1.0),
    Target("connections", "rate", ("nginx",), True, 1.0),
    Target("connections", "cpu", ("nginx",), False, 1.0),
    Target("connections-client-first", "rate", ("nginx",), True, 1.0),
    Target("connections-client-first", "cpu", ("nginx",), False, 1.0),
    Target("ping-pong", "p50", ("nginx",), False, 0.9),
    Target("ping-pong", "p99", ("nginx",), False, 1.0),
    Target("udp-flows", "rate", ("nginx",), True, 1.0),
    Target("udp-flows", "rate", ("kernel",), True, 0.75),
    Target("udp-fresh", "rate", ("kernel",), True, 0.6),
    Target("udp-fresh", "rate", ("kube-proxy",), True, 2.0),
    Target("udp-fresh", "rate", ("nginx-default",), True, 5.0),
)


@dataclass(frozen=True, slots=True)
class Limit:
    """A study's figure of ours at its largest `x` is to be at most `bound`, or `bound` times that of another
    metric (`of`), or of the same one at the smallest `x` (`of` is the metric itself)."""

    study: str
    metric: str
    bound: float
    of: str = ""

    def judge(self, steps: Sequence[Step]) -> float | None:
        """What is to be at most `bound`; None if it was not measured."""
        ours = [
            step for step in steps if step.series == (steps[0].series if self.study == "workers" else OURS)
        ]
        if not ours or self.metric not in ours[-1].figures:
            return None
        figure = ours[-1].figures[self.metric]
        if not self.of:
            return figure
        return figure / (ours[0] if self.of == self.metric else ours[-1]).figures[self.of]


LIMITS: Final = (
    Limit("idle", "memory", 3.0),
    Limit("idle", "descriptors", 2.0),
    Limit("idle", "again", 1.02, of="after"),
    Limit("soak", "memory", 1.05, of="memory"),
    Limit("soak", "p99", 1.2, of="p99"),
    Limit("soak", "connections_p99", 1.2, of="connections_p99"),
    Limit("queries", "failed", 0.0),
    Limit("queries", "leaked", 0.0),
    Limit("closes", "failed", 0.0),
    Limit("closes", "leaked", 0.0),
    Limit("workers", "cpu", 1.05, of="cpu"),
    Limit("workers", "evenness", 1.1),
    Limit("services", "change", 10.0),
    Limit("services", "beside_p99", 1.2, of="quiet_p99"),
    Limit("services", "start", 5.0),
    Limit("services", "memory", 250.0),
    Limit("services", "idle", 0.5),
)
