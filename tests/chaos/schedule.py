"""Which fault begins when, as a function of the seed: the same seed, the same faults at the same times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

FIRST_SECONDS = 2.0
"""Clients come first."""
SPACING_SECONDS = 1.2
"""Between one fault and the next, on average."""
REST_SECONDS = 0.5
"""What a place is given to itself after a fault, at least."""


class Planned(Protocol):
    """What a schedule must know of a fault.

    Faults of one `place` do not overlap, those of different places do. `seconds` are how long it lasts, at
    least and at most. `weight` is how often it comes, compared with others.
    """

    @property
    def name(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def seconds(self) -> tuple[float, float]: ...
    @property
    def weight(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Step:
    """At `at` seconds the fault `name` begins, to last for `seconds`; `seed` is for its details."""

    at: float
    name: str
    place: str
    seconds: float
    seed: int


def schedule(seed: int, seconds: float, faults: Sequence[Planned]) -> list[Step]:
    """The faults that begin, and should be over, within a run of that many seconds."""
    return list(
        itertools.takewhile(lambda step: step.at < seconds, _steps(seed, sorted(faults, key=_by_name)))
    )


def _steps(seed: int, faults: Sequence[Planned]) -> Iterator[Step]:
    random = Random(seed)
    free_at = {fault.place: 0.0 for fault in faults}
    now = FIRST_SECONDS
    while True:
        possible = [fault for fault in faults if free_at[fault.place] <= now]
        if possible:
            [fault] = random.choices(possible, [fault.weight for fault in possible])
            lasts = random.uniform(*fault.seconds)
            yield Step(now, fault.name, fault.place, lasts, random.randrange(1 << 32))
            free_at[fault.place] = now + lasts + REST_SECONDS
        now += random.expovariate(1 / SPACING_SECONDS)


def _by_name(fault: Planned) -> str:
    return fault.name
