"""A distribution as Prometheus has it: how many values lie at or below each of some bounds, and their sum."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence


class Histogram:
    """Counts of values by `bounds`, which ascend; the last count is of those beyond all of them."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


def cumulative(bounds: Sequence[float], counts: Sequence[int]) -> Iterator[tuple[str, int]]:
    """The buckets as an exposition names them, `le` and count; the last is `+Inf`."""
    total = 0
    for number, count in enumerate(counts):
        total += count
        yield (f"{bounds[number]:g}" if number < len(bounds) else "+Inf"), total


def quantile(fraction: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """The value below which a `fraction` of all lies, as if those of a bucket were spread evenly over it.

    None if there are no values; the largest bound if it is beyond all of them. So does Prometheus:
    histogram_quantile.
    """
    total = sum(counts)
    if not total:
        return None
    rank = fraction * total
    below = 0
    for number, bound in enumerate(bounds):
        if below + counts[number] >= rank:
            start = bounds[number - 1] if number else 0.0
            return start + (bound - start) * (rank - below) / (counts[number] or 1)
        below += counts[number]
    return bounds[-1]
