"""How long to go on looking for events before going to sleep until there is one.

Theory of operation. To be put to sleep and woken again costs a conversation more than its endpoint may
need to answer. So where sleeps turn out shorter than MOST_SECONDS, that time had better be spent looking.
Patience starts at nothing; a short sleep doubles it, since a longer look would have paid, and a long one
halves it, down to nothing. A worker that has nothing to do therefore sleeps, and so does one whose events
come at leisure.

KVM polls before it halts a virtual processor by the same rule. Times are seconds of any monotonic clock.
"""

from __future__ import annotations

from typing import Final

LEAST_SECONDS: Final = 10e-6
MOST_SECONDS: Final = 50e-6


class PollPatience:
    """`seconds`: how long to look next time."""

    __slots__ = ("_slept_at", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._slept_at = float("-inf")

    def sleeps(self, now: float) -> None:
        """Nothing is ready, though `seconds` were spent looking."""
        self._slept_at = now

    def woke(self, now: float) -> None:
        """Something is ready after a sleep."""
        if now - self._slept_at < MOST_SECONDS:
            self.seconds = min(max(2 * self.seconds, LEAST_SECONDS), MOST_SECONDS)
        else:
            self.seconds = self.seconds / 2 if self.seconds > LEAST_SECONDS else 0.0
