"""How often work may be done that is to take a share of the time at most, but at once if it comes seldom."""

from __future__ import annotations


class TimeShare:
    """Each piece of work leaves a debt of what it took, and `share` of the time (0 to 1) pays it off.

    `burst` pieces may follow each other at once. After these, one like the last may be begun whenever as much
    is paid off as it took, so that one that was dear by accident is not paid for by those that follow. Times
    are seconds of one clock.
    """

    def __init__(self, share: float, burst: int) -> None:
        self._share = share
        self._burst = burst
        self._debt = 0.0
        self._allowed = 0.0
        self._since = 0.0

    def spend(self, now: float, seconds: float) -> None:
        """A piece of work has just taken so long."""
        debt = max(0.0, self._debt - (now - self._since) * self._share) + seconds
        self._debt = min(debt, self._burst * seconds)
        self._allowed = (self._burst - 1) * seconds
        self._since = now

    @property
    def begins_at(self) -> float:
        """The time from which on the next piece may be begun."""
        return self._since + max(0.0, self._debt - self._allowed) / self._share
