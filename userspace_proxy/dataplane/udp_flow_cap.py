"""How many UDP flows a worker has, and which of them end for that: idle ones, and those in the way of others.

`core.udp_flows` decides; here are its clock, and the flows' side of it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Final

from userspace_proxy.core.admission import Room
from userspace_proxy.core.udp_flows import Flow, UdpFlows, WorkerFlows
from userspace_proxy.dataplane.limit_reports import LimitReports
from userspace_proxy.dataplane.received_datagrams import ReceivedDatagrams

_SWEEP_SECONDS: Final = 0.25
_SWEEP_LIMIT: Final = 512  # flows closed in one go


class CappedFlow(Flow, ABC):
    """A flow that can be ended."""

    __slots__ = ()

    @abstractmethod
    def evict(self, now: float, *, at_once: bool = False) -> None:
        """End the flow, which is in the way of another one."""

    @abstractmethod
    def close(self, *, at_once: bool = False) -> None:
        """End the flow. `at_once` frees its descriptor's number even while events are being handed out."""


class FlowCap:
    """What the UDP flows of a worker share: how many may be, the sweep of idle ones, room to receive."""

    def __init__(self, max_flows: int, loop: asyncio.AbstractEventLoop, room: Room) -> None:
        self.flows: WorkerFlows[CappedFlow] = WorkerFlows(max_flows, room)
        self.received = ReceivedDatagrams()
        self._loop = loop
        self._sweep_timer: asyncio.TimerHandle | None = None

    def sweep_soon(self) -> None:
        """There is a flow that may become idle."""
        if self._sweep_timer is None:
            self._sweep_timer = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        expired = self.flows.expired(self._loop.time(), _SWEEP_LIMIT)
        for flow in expired:
            flow.close()
        delay = 0.0 if len(expired) == _SWEEP_LIMIT else _SWEEP_SECONDS
        self._sweep_timer = self._loop.call_later(delay, self._sweep) if len(self.flows) else None


class FlowShare:
    """The flows of one Service port.

    `exhausted` counts how often the system had no descriptor or no local port left for a new one though no
    limit was reached.
    """

    def __init__(self, cap: FlowCap, reports: LimitReports) -> None:
        self.flows: UdpFlows[CappedFlow] = UdpFlows(cap.flows)
        self.received = cap.received
        self.buffer = cap.received.buffers[0]
        self.exhausted = 0
        self._cap = cap
        self._reports = reports

    def make_room(self, client: str, now: float) -> None:
        """Evict a flow if there are as many as there may be."""
        victim = self.flows.leaving_for(client)
        if victim is not None:
            victim.evict(now)

    def evict_any(self, now: float, *, at_once: bool = False) -> bool:
        """Evict a flow of the Service port that has most. False if there is no flow."""
        self.exhausted += 1
        victim = self._cap.flows.evictable()
        if victim is None:
            return False
        victim.evict(now, at_once=at_once)
        return True

    def evicted(self, now: float) -> None:
        """A flow of this Service port left for another one."""
        self._reports.evicted(len(self.flows), now)

    def add(self, flow: CappedFlow, client: str, idle_seconds: float, now: float) -> None:
        self.flows.add(flow, client, idle_seconds, now)
        self._cap.sweep_soon()
