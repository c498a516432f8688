"""What `status` answers, gathered from those who know."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from userspace_proxy.agent.live_traffic import LeftOut, LiveTraffic
from userspace_proxy.core.answers.endpoints import health_of
from userspace_proxy.core.answers.status import LeftOutEndpoint, Status, WorkerStatus
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.dataplane.worker_pool import WorkerPool

_MOST_LEFT_OUT: Final = 20


class StatusOf:
    """Call it for the status now."""

    def __init__(self, state: ClusterState, workers: WorkerPool, live: LiveTraffic) -> None:
        self._state = state
        self._workers = workers
        self._live = live
        self._started = time.monotonic()

    async def __call__(self) -> Status:
        left_out = await self._live.left_out(_MOST_LEFT_OUT)
        return Status(
            version=version("userspace-proxy"),
            pid=os.getpid(),
            node=self._state.node_name,
            uptime_seconds=time.monotonic() - self._started,
            workers=tuple(
                WorkerStatus(number=seat.number, pid=seat.process.pid, service_ports=len(seat))
                for seat in self._workers.seats
                if seat.process is not None
            ),
            ejected_endpoints=left_out.ejected,
            taken_out_endpoints=left_out.taken_out,
            left_out=tuple(_left_out(left_out))[:_MOST_LEFT_OUT],
        )


def _left_out(found: LeftOut) -> Iterator[LeftOutEndpoint]:
    for name, live in found.service_ports.items():
        for endpoint in sorted(live.endpoints):
            health = health_of(endpoint, live)
            if health.left_out_of:
                yield LeftOutEndpoint(
                    service_port=str(name),
                    protocol=name.protocol.value,
                    family=name.family.value,
                    endpoint=str(endpoint),
                    health=health,
                )
