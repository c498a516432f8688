"""Figures of several rounds: medians, spreads, and ratios within rounds. No I/O."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of several figures."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Self | None:
        """None of no figures."""
        found = list(figures)
        return cls(statistics.median(found), min(found), max(found)) if found else None


@dataclass(slots=True)
class Samples:
    """The figures of one run: by work, metric and peer one for each round, None where it came to nothing."""

    figures: dict[str, dict[str, dict[str, list[float | None]]]] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)

    def add(self, work: str, peer: str, round_number: int, figures: Mapping[str, float]) -> None:
        """Add what a peer came to in a round (counted from 0)."""
        self.rounds[work] = max(self.rounds.get(work, 0), round_number + 1)
        for metric, figure in figures.items():
            row = self.figures.setdefault(work, {}).setdefault(metric, {}).setdefault(peer, [])
            row.extend([None] * (round_number - len(row)))
            row.append(figure)

    def of(self, work: str, metric: str, peer: str) -> Sequence[float | None]:
        """A peer's figures, round by round."""
        return self.figures.get(work, {}).get(metric, {}).get(peer, [])

    def spread(self, work: str, metric: str, peer: str) -> Spread | None:
        """None if it has no figure."""
        return Spread.of(figure for figure in self.of(work, metric, peer) if figure is not None)

    def ratio(self, work: str, metric: str, peer: str, other: str) -> Spread | None:
        """A peer's figures divided by another's of the same rounds; None without a round that has both.

        What slows the whole machine for a while slows both, and falls out.
        """
        pairs = zip(self.of(work, metric, peer), self.of(work, metric, other), strict=False)
        return Spread.of(ours / theirs for ours, theirs in pairs if ours is not None and theirs)
