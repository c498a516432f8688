"""How long to wait before the next try of something that keeps failing."""

from __future__ import annotations

FIRST_SECONDS = 0.8
LONGEST_SECONDS = 30.0


def delay_seconds(failures: int, chance: float) -> float:
    """The wait after `failures` (1 or more) in a row; `chance` is a random number of [0, 1).

    It doubles with each failure up to `LONGEST_SECONDS` and is spread over the upper half of that, so that
    the agents of a whole cluster do not come back to a restarted API server in one moment.
    """
    ceiling = min(2 * FIRST_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_SECONDS)
    return ceiling / 2 * (1 + chance)
