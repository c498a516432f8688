"""What people see of an agent over HTTP: composed here, served by `observability`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version
from typing import Any, Final

from prometheus_client.metrics_core import Metric as Family

from userspace_proxy.agent.portal_capture import PortalCapture
from userspace_proxy.agent.proxier import Proxier
from userspace_proxy.configuration.agent_configuration import Configuration
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.event_reasons import HEALTHZ_NOT_SERVED, METRICS_NOT_SERVED
from userspace_proxy.core.event_series import EventSeries, RecordEvent
from userspace_proxy.core.manual_ejections import ManualEjections
from userspace_proxy.core.proxy_plan import PlannedServicePort
from userspace_proxy.core.service_port import IPFamily, ServicePortName
from userspace_proxy.core.traffic_totals import Reading, TrafficTotals
from userspace_proxy.dataplane.worker_pool import WorkerPool
from userspace_proxy.observability import metric_table as table
from userspace_proxy.observability.http_server import HttpServer
from userspace_proxy.observability.metrics import MetricsPort, of_agent, of_ejections, of_health, of_syncs
from userspace_proxy.observability.proxy_health import FamilyHealth, ProxyHealth

_MAX_HEALTH_CHECKS: Final = 100
_HEALTH_CHECK_SECONDS: Final = 5.0
_MAX_SCRAPES: Final = 16
_SCRAPE_SECONDS: Final = 60.0
"""A scrape of many Services takes a while to make, and to send to who reads slowly."""


class Observation:
    """The servers that `configuration` asks for; `jobs` open them and serve, `close` closes them.

    While `is_draining` nobody is to send new connections here. `shown` is what /configz shows. `version` is
    of what runs, whatever is installed in its place by now.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        configuration: Configuration,
        *,
        state: ClusterState,
        proxier: Proxier,
        captures: Sequence[PortalCapture],
        workers: WorkerPool,
        ejections: ManualEjections,
        shown: Callable[[], object],
        events: EventSeries,
        record_event: RecordEvent,
    ) -> None:
        self.is_draining = False
        self.version = version("userspace-proxy")
        self._needs_node = configuration.manifests is None
        self._state = state
        self._proxier = proxier
        self._captures = captures
        self._workers = workers
        self._ejections = ejections
        self._events = events
        self._health = ProxyHealth(self._families, lambda: self.is_node_eligible, time.time)
        totals = TrafficTotals(configuration.metrics_service_ports, configuration.metrics_endpoints)
        self._metrics = MetricsPort(loop, self, totals, shown)
        self._servers: list[HttpServer] = []
        if configuration.healthz_bind_address is not None:
            self._servers.append(
                HttpServer(
                    loop,
                    "Healthz",
                    configuration.healthz_bind_address,
                    self._health.respond,
                    port_taken=partial(record_event, HEALTHZ_NOT_SERVED),
                    max_conversations=_MAX_HEALTH_CHECKS,
                    conversation_seconds=_HEALTH_CHECK_SECONDS,
                )
            )
        if configuration.metrics_bind_address is not None:
            self._servers.append(
                HttpServer(
                    loop,
                    "Metrics",
                    configuration.metrics_bind_address,
                    self._metrics.respond,
                    port_taken=partial(record_event, METRICS_NOT_SERVED),
                    max_conversations=_MAX_SCRAPES,
                    conversation_seconds=_SCRAPE_SECONDS,
                )
            )

    def jobs(self) -> dict[str, Coroutine[Any, Any, object]]:
        """What is to run for as long as the agent does, by name."""
        return {server.what: server.run() for server in self._servers}

    async def close(self) -> None:
        """Close the ports. The jobs have ended."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._metrics.close)
            for server in self._servers:
                stack.push_async_callback(server.close)

    async def read_counters(self) -> Mapping[int, Reading]:
        return await self._workers.read_counters()

    def planned(self) -> Mapping[ServicePortName, PlannedServicePort]:
        return self._proxier.service_ports

    def families(self) -> Iterable[Family]:
        records = {capture.family: capture.record for capture in self._captures}
        ledger = self._proxier.ledger
        yield from of_syncs(records, self._proxier.changes)
        yield from of_health(self._health)
        yield from of_ejections(self._ejections.counts(time.monotonic()))
        yield from of_agent(
            {
                table.SERVICE_PORTS: len(self._proxier.service_ports),
                table.UNOPENED_LISTENERS: self._proxier.unopened_listeners,
                table.WORKERS: len(self._workers.pids),
                table.WORKERS_REPLACED: self._workers.replaced,
                table.PROBLEMS: len(ledger),
                table.PROBLEMS_NAMED: ledger.named,
                table.EVENTS_WRITTEN: self._events.written,
                table.EVENTS_DROPPED: self._events.dropped,
            },
            self.version,
        )

    def _families(self) -> dict[IPFamily, FamilyHealth]:
        return {
            capture.family: FamilyHealth(capture.is_healthy(), capture.record.last_synced)
            for capture in self._captures
        }

    @property
    def is_node_eligible(self) -> bool:
        """Whether new connections should be sent to this node. Manifests need not have a Node."""
        is_known = self._state.is_node_known or not self._needs_node
        return is_known and not self._state.is_node_leaving and not self.is_draining
