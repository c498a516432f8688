"""What `status` answers, gathered from those who know."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import islice
from typing import Final

from userspace_proxy.admin.protocol import NoParameters
from userspace_proxy.admin.server import Method
from userspace_proxy.agent.live_traffic import LeftOut, LiveTraffic
from userspace_proxy.agent.observation import Observation
from userspace_proxy.agent.portal_capture import PortalCapture
from userspace_proxy.agent.proxier import Proxier
from userspace_proxy.core.answers.endpoints import health_of
from userspace_proxy.core.answers.status import (
    FamilyStatus,
    LeftOutEndpoint,
    SourceStatus,
    Status,
    WorkerStatus,
)
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.traffic_totals import Reading
from userspace_proxy.dataplane.listening_sockets import ListeningSockets
from userspace_proxy.dataplane.worker_pool import WorkerPool
from userspace_proxy.dataplane.worker_seat import WorkerSeat
from userspace_proxy.logs.log import Log
from userspace_proxy.sources import Source

_NAMED_PROBLEMS: Final = 20
_MOST_LEFT_OUT: Final = 20


class StatusAnswers:
    """Times are told as seconds ago, which is the same on either side of the socket."""

    def __init__(
        self,
        *,
        state: ClusterState,
        source: Source,
        proxier: Proxier,
        captures: Sequence[PortalCapture],
        sockets: ListeningSockets,
        workers: WorkerPool,
        live: LiveTraffic,
        observation: Observation,
        log: Log,
        max_descriptors: int,
    ) -> None:
        self._state = state
        self._source = source
        self._proxier = proxier
        self._captures = captures
        self._sockets = sockets
        self._workers = workers
        self._live = live
        self._observation = observation
        self._log = log
        self._max_descriptors = max_descriptors
        self._started = time.monotonic()

    def methods(self) -> dict[str, Method]:
        return {"status": Method(self._status)}

    async def _status(self, _: NoParameters) -> AsyncGenerator[Status, None]:
        readings = await self._workers.read_counters()
        service_ports, now = self._proxier.service_ports, time.monotonic()
        active = {worker: _active(reading) for worker, reading in readings.items()}
        left_out = await self._live.left_out(readings, _MOST_LEFT_OUT)
        ledger = self._proxier.ledger
        yield Status(
            version=self._observation.version,
            pid=os.getpid(),
            node=self._state.node_name,
            zone=self._state.node.zone,
            uptime_seconds=now - self._started,
            verbosity=self._log.verbosity,
            is_healthy=all(capture.is_healthy() for capture in self._captures),
            is_node_eligible=self._observation.is_node_eligible,
            is_draining=self._observation.is_draining,
            source=self._source_status(),
            families=tuple(map(_family, self._captures)),
            services=len({name.service for name in service_ports}),
            service_ports=len(service_ports),
            listeners=len(self._sockets),
            unopened_listeners=self._proxier.unopened_listeners,
            proxy_ports=str(self._sockets.port_range),
            max_descriptors=self._max_descriptors,
            workers=tuple(_worker(seat, active) for seat in self._workers.seats if seat.process is not None),
            leaving_workers=self._workers.leaving_pids,
            workers_replaced=self._workers.replaced,
            ejected_endpoints=left_out.ejected,
            taken_out_endpoints=left_out.taken_out,
            left_out=tuple(islice(_left_out(left_out), _MOST_LEFT_OUT)),
            problems=len(ledger),
            named_problems=tuple(map(str, islice(ledger, _NAMED_PROBLEMS))),
        )

    def _source_status(self) -> SourceStatus:
        followed = self._source.state()
        return SourceStatus(
            place=followed.place,
            is_complete=self._state.is_complete,
            followed_seconds=_ago(followed.since),
            last_event_seconds=_ago(self._proxier.changes.last_seen),
            failing=tuple(f"{kind.value}: {why}" for kind, why in followed.failing.items()),
        )


def _family(capture: PortalCapture) -> FamilyStatus:
    record = capture.record
    return FamilyStatus(
        family=capture.family.value,
        written_by=capture.written_by,
        is_healthy=capture.is_healthy(),
        is_pending=capture.is_pending,
        last_sync_seconds=_ago(record.last_synced),
        last_error=record.last_error,
        failures=record.failures,
        portals=len(capture.committed),
        rules=sum(record.rules.values()),
    )


def _worker(seat: WorkerSeat, active: dict[int, int]) -> WorkerStatus:
    process = seat.process
    assert process is not None
    return WorkerStatus(
        number=seat.number, pid=process.pid, service_ports=len(seat), active=active.get(process.number, 0)
    )


def _active(reading: Reading) -> int:
    return sum(counters.active for counters in reading.values())


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


def _ago(then: float | None) -> float | None:
    """How long ago a moment of Unix time was."""
    return None if then is None else max(0.0, time.time() - then)
