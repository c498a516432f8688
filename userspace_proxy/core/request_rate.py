"""How often somebody may ask: so many requests a second in the long run, some more at once."""

from __future__ import annotations


class RequestRate:
    """A token bucket; `qps` is not 0, and below 0 no limit. Times are seconds of the caller's clock."""

    def __init__(self, qps: float, burst: int, now: float) -> None:
        self._qps = qps
        self._burst = burst
        self._tokens = float(burst)
        self._counted_at = now

    def take(self, now: float) -> float:
        """Take a request's turn. Returns how many seconds it has to wait for it."""
        if self._qps < 0:
            return 0.0
        self._tokens = min(self._burst, self._tokens + (now - self._counted_at) * self._qps) - 1
        self._counted_at = now
        return max(0.0, -self._tokens / self._qps)
