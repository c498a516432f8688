"""When a probe of a running container is due, and what its outcomes come to; pure.

Source: "Configure Liveness, Readiness and Startup Probes".
"""

from __future__ import annotations

from userspace_proxy.demo.kubelet.pod_spec import Probe


class ProbeSchedule:
    """One probe, of one start of a container. Times are seconds of one clock.

    `is_passing` is what counts now, `initially` until enough outcomes speak. `has_failed` once as many in a
    row as the threshold says were failures.
    """

    __slots__ = ("_in_a_row", "_last", "_next_at", "due_at", "has_failed", "is_passing", "probe")

    def __init__(self, probe: Probe, first_at: float, *, initially: bool) -> None:
        self.probe = probe
        self._last: bool | None = None
        self._in_a_row = 0
        self._next_at = first_at
        self.is_passing = initially
        self.has_failed = False
        self.due_at: float | None = first_at
        """None while one is under way."""

    def began(self, now: float) -> None:
        """The probe that was due is under way."""
        self._next_at = now + self.probe.period_seconds
        self.due_at = None

    def ended(self, *, succeeded: bool, now: float) -> None:
        """The probe under way has an outcome."""
        self.due_at = max(now, self._next_at)
        self._in_a_row = self._in_a_row + 1 if succeeded is self._last else 1
        self._last = succeeded
        probe = self.probe
        if self._in_a_row >= (probe.success_threshold if succeeded else probe.failure_threshold):
            self.is_passing = succeeded
            self.has_failed = not succeeded
