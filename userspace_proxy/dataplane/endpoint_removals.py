"""Ends the connections of a worker to endpoints that were removed, when their time has come.

However many Service ports change, or end connections, at one moment: all connections are looked at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.endpoint_removal import Deadlines, plan_removals
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.tcp_connect import TcpConnects

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listed:
    """The endpoints of a Service port that have not been removed; `drain_seconds` None keeps connections to
    others. Its connections are those that these `counters` count, and in logs it is called `label`.
    """

    counters: ServicePortCounters
    label: str
    endpoints: Collection[Endpoint]
    drain_seconds: float | None


@dataclass(frozen=True, slots=True)
class _Ending:
    counters: ServicePortCounters
    label: str
    deadlines: Deadlines


class EndpointRemovals:
    """Of all Service ports, whose connections are on their way in `connects` or relayed behind it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connects: TcpConnects) -> None:
        self._loop = loop
        self._connects = connects
        self._endings: dict[int, _Ending] = {}  # by the identity of the counters, which are equal to others
        self._timer: asyncio.TimerHandle | None = None

    def update(self, service_ports: Iterable[Listed]) -> None:
        """These have changed. Who is on the way to a removed endpoint goes to another one at once."""
        changed = {
            id(each.counters): each
            for each in service_ports
            if each.drain_seconds is not None or id(each.counters) in self._endings
        }
        if not changed:
            return
        now = self._loop.time()
        connected = self._connects.relays.endpoints_of(changed.keys())
        for key, each in changed.items():
            ending = self._endings.pop(key, None)
            deadlines = plan_removals(
                {} if ending is None else ending.deadlines,
                connected.get(key, ()),
                each.endpoints,
                each.drain_seconds,
                now,
            )
            if deadlines:
                self._endings[key] = _Ending(each.counters, each.label, deadlines)
        self._connects.leave_all_but(
            {key: each.endpoints for key, each in changed.items() if each.drain_seconds is not None}
        )
        self._end_due()

    def close(self) -> None:
        """End nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_due(self) -> None:
        self.close()
        now = self._loop.time()
        due = {
            key: {endpoint for endpoint, deadline in ending.deadlines.items() if deadline <= now}
            for key, ending in self._endings.items()
        }
        due = {key: endpoints for key, endpoints in due.items() if endpoints}
        if due:
            for key, ended in self._connects.relays.reset_to(due).items():
                self._count(self._endings[key], due[key], ended)
            for key, endpoints in due.items():
                ending = self._endings.pop(key)
                left = {each: at for each, at in ending.deadlines.items() if each not in endpoints}
                if left:
                    self._endings[key] = _Ending(ending.counters, ending.label, left)
        if self._endings:
            first = min(min(ending.deadlines.values()) for ending in self._endings.values())
            self._timer = self._loop.call_at(first, self._end_due)

    def _count(self, ending: _Ending, endpoints: Collection[Endpoint], ended: int) -> None:
        ending.counters.removed += ended
        logger.info(
            "Connections to removed endpoints reset: service_port=%s endpoints=%s connections=%d",
            ending.label,
            ",".join(map(str, sorted(endpoints))),
            ended,
        )
