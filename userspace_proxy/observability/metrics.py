"""What the agent's metrics port answers, and how a scrape comes about.

Workers are asked by messages, a few Service ports at a time; all the rest of a scrape, which with many
Services takes a while, happens in a thread of its own. Scrapes that come together share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from itertools import chain
from typing import Protocol

import msgspec
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.process_collector import ProcessCollector

from userspace_proxy.core.objects import Kind
from userspace_proxy.core.proxy_plan import PlannedServicePort
from userspace_proxy.core.service_port import IPFamily, ServicePortName
from userspace_proxy.core.traffic_counters import EndpointKey
from userspace_proxy.core.traffic_totals import Reading, TrafficTotals
from userspace_proxy.observability import metric_table as table
from userspace_proxy.observability.exposition import (
    CONTENT_TYPE,
    exposed,
    histograms,
    labels_of,
    number,
    numbers,
    traffic,
)
from userspace_proxy.observability.http_server import Response
from userspace_proxy.observability.proxy_health import NOT_FOUND, ProxyHealth
from userspace_proxy.observability.sync_record import ChangeRecord, SyncRecord

_TEXT = ("Content-Type: text/plain; charset=utf-8", "X-Content-Type-Options: nosniff")


class Watched(Protocol):
    """What metrics are about, beside traffic. Asked in the loop's thread."""

    def families(self) -> Iterable[Family]:
        """Numbers that are at hand."""

    async def read_counters(self) -> Mapping[int, Reading]:
        """What each worker has carried; see `TrafficTotals.take`."""

    def planned(self) -> Mapping[ServicePortName, PlannedServicePort]:
        """The Service ports that are served."""


class MetricsPort:
    """`configuration` is what /configz shows. `totals` are ours."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        watched: Watched,
        totals: TrafficTotals,
        configuration: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._watched = watched
        self._totals = totals
        self._configuration = configuration
        self._of_process = ProcessCollector(registry=None)
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._scraping: asyncio.Task[Response] | None = None

    def respond(self, path: str) -> Response | Awaitable[Response]:
        """The answer for a path."""
        match path:
            case "/metrics":
                return self._shared_scrape()
            case "/healthz":
                return Response(HTTPStatus.OK, b"ok", _TEXT)
            case "/proxyMode":
                return Response(HTTPStatus.OK, b"userspace", _TEXT)
            case "/configz":
                return Response(
                    HTTPStatus.OK,
                    msgspec.json.encode(self._configuration()),
                    ("Content-Type: application/json", "X-Content-Type-Options: nosniff"),
                )
            case _:
                return NOT_FOUND

    async def close(self) -> None:
        """Nothing is asked any more."""
        if self._scraping is not None:
            self._scraping.cancel()
            await asyncio.wait([self._scraping])
        await asyncio.to_thread(self._thread.shutdown)

    async def _shared_scrape(self) -> Response:
        if self._scraping is None or self._scraping.done():
            self._scraping = self._loop.create_task(self._scrape())
        return await asyncio.shield(self._scraping)

    async def _scrape(self) -> Response:
        readings = await self._watched.read_counters()
        families, planned = list(self._watched.families()), dict(self._watched.planned())
        text = await self._loop.run_in_executor(self._thread, self._written, readings, families, planned)
        return Response(HTTPStatus.OK, text, (f"Content-Type: {CONTENT_TYPE}",))

    def _written(
        self,
        readings: Mapping[int, Reading],
        families: Iterable[Family],
        planned: Mapping[ServicePortName, PlannedServicePort],
    ) -> bytes:
        by_key = {name.key: each for name, each in planned.items()}

        def listed_of(key: str) -> Collection[EndpointKey]:
            return {
                (endpoint.address, endpoint.port)
                for _, selection in (by_key[key].selections if key in by_key else ())
                for endpoint in selection.endpoints
            }

        self._totals.take(readings, by_key, listed_of)
        return exposed(chain(families, traffic(self._totals), self._of_process.collect()))


def of_syncs(records: Mapping[IPFamily, SyncRecord], changes: ChangeRecord) -> Iterable[Family]:
    """kube-proxy's metrics of changes and rules."""
    by_family = [((family.value,), record) for family, record in records.items()]
    yield histograms(table.SYNC_DURATION, [(labels, each.durations) for labels, each in by_family])
    yield numbers(table.SYNC_TIMESTAMP, [(labels, each.last_synced or 0) for labels, each in by_family])
    yield numbers(table.SYNC_QUEUED, [(labels, each.last_queued or 0) for labels, each in by_family])
    yield numbers(table.RESTORE_FAILURES, [(labels, each.failures) for labels, each in by_family])
    yield numbers(
        table.IPTABLES_RULES,
        [((name, *labels), count) for labels, each in by_family for name, count in each.rules.items()],
    )
    for metric, kind, counts in (
        (table.ENDPOINT_CHANGES, Kind.ENDPOINT_SLICE, changes.changes),
        (table.ENDPOINT_CHANGES_PENDING, Kind.ENDPOINT_SLICE, changes.pending),
        (table.SERVICE_CHANGES, Kind.SERVICE, changes.changes),
        (table.SERVICE_CHANGES_PENDING, Kind.SERVICE, changes.pending),
    ):
        yield numbers(metric, [((family.value,), counts[kind, family]) for family in changes.families])
    yield histograms(
        table.PROGRAMMING_DURATION,
        [((family.value,), histogram) for family, histogram in changes.programming.items()],
    )


def of_health(health: ProxyHealth) -> Iterable[Family]:
    """How often each answer was given."""
    for metric, codes in ((table.HEALTHZ, health.healthz_codes), (table.LIVEZ, health.livez_codes)):
        yield numbers(metric, [((str(code),), codes[code]) for code in (200, 503)])


def of_ejections(taken_out: Mapping[ServicePortName, int]) -> Iterable[Family]:
    """How many endpoints of a Service port an operator has taken out."""
    yield numbers(table.ENDPOINTS_TAKEN_OUT, [(labels_of(name), count) for name, count in taken_out.items()])


def of_agent(values: Mapping[table.Metric, float], version: str) -> Iterable[Family]:
    """Single numbers."""
    for metric, value in values.items():
        yield number(metric, value)
    yield numbers(table.BUILD_INFO, [((version,), 1)])
