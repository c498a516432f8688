"""How long to wait before the next try of something that keeps failing."""

from __future__ import annotations

FIRST_SECONDS = 0.8
LONGEST_SECONDS = 30.0
_MAX_DOUBLINGS = 64
"""What fails for an hour must not end in numbers that no float can hold."""


def delay_seconds(failures: int, chance: float) -> float:
    """The wait after `failures` (1 or more) in a row; `chance` is a random number of [0, 1).

    It doubles with each failure up to `LONGEST_SECONDS` and is spread over the upper half of that, so that
    the agents of a whole cluster do not come back to a restarted API server in one moment.
    """
    return doubled_seconds(2 * FIRST_SECONDS, failures, LONGEST_SECONDS) / 2 * (1 + chance)


def doubled_seconds(first: float, failures: int, longest: float) -> float:
    """`first` after one failure, twice as long after each further one in a row, but never over `longest`."""
    return min(first * 2.0 ** min(failures - 1, _MAX_DOUBLINGS), longest)
