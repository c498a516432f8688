"""Ends the connections of a Service port to endpoints that were removed, when their time has come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.endpoint_removal import Deadlines, plan_removals
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.tcp_relay import TcpRelays

logger = logging.getLogger(__name__)


class EndpointRemovals:
    """Of one Service port, which has these `counters` and in logs is called `label`."""

    __slots__ = ("_counters", "_deadlines", "_label", "_loop", "_relays", "_timer")

    def __init__(self, relays: TcpRelays, counters: ServicePortCounters, label: str) -> None:
        self._loop = relays.loop
        self._relays = relays
        self._counters = counters
        self._label = label
        self._deadlines: Deadlines = {}
        self._timer: asyncio.TimerHandle | None = None

    def update(self, listed: Collection[Endpoint], drain_seconds: float | None) -> None:
        """`listed` are the endpoints that have not been removed; None keeps connections to the others."""
        if drain_seconds is None and not self._deadlines:
            return
        connected = self._relays.endpoints_of(self._counters)
        self._deadlines = plan_removals(self._deadlines, connected, listed, drain_seconds, self._loop.time())
        self._end_due()

    def close(self) -> None:
        """End nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_due(self) -> None:
        self.close()
        now = self._loop.time()
        due = {endpoint for endpoint, deadline in self._deadlines.items() if deadline <= now}
        if due:
            ended = self._relays.reset_to(due, self._counters)
            self._counters.removed += ended
            logger.info(
                "Connections to removed endpoints reset: service_port=%s endpoints=%s connections=%d",
                self._label,
                ",".join(map(str, sorted(due))),
                ended,
            )
            self._deadlines = {each: at for each, at in self._deadlines.items() if each not in due}
        if self._deadlines:
            self._timer = self._loop.call_at(min(self._deadlines.values()), self._end_due)
