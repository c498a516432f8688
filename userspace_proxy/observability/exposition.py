"""From numbers to the text that Prometheus reads. prometheus_client writes it; pure otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.histogram import Histogram, cumulative
from userspace_proxy.core.service_port import Port, ServicePortName
from userspace_proxy.core.traffic_counters import (
    CONNECT_BOUNDS_SECONDS,
    EndpointCounters,
    EndpointKey,
    ServicePortCounters,
)
from userspace_proxy.core.traffic_totals import OTHER_ENDPOINTS, ServicePortTotals, TrafficTotals
from userspace_proxy.observability import metric_table as table
from userspace_proxy.observability.metric_table import Metric, MetricKind

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
Labels = Sequence[str]
OTHER = "other"


def exposed(families: Iterable[Family]) -> bytes:
    """The text. Costs about 4 µs a line, and memory for one family at a time."""
    return b"".join(generate_latest(_Collected(family)) for family in families)


class _Collected(Collector):
    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterable[Family]:
        return (self._family,)


def numbers(metric: Metric, samples: Iterable[tuple[Labels, float]]) -> Family:
    """A counter or gauge with one sample for each set of labels."""
    family: CounterMetricFamily | GaugeMetricFamily
    if metric.kind is MetricKind.COUNTER:
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    else:
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def number(metric: Metric, value: float) -> Family:
    """The same without labels."""
    return numbers(metric, [((), value)])


def histograms(metric: Metric, samples: Iterable[tuple[Labels, Histogram]]) -> Family:
    """A distribution for each set of labels."""
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, histogram in samples:
        family.add_metric(labels, list(cumulative(histogram.bounds, histogram.counts)), histogram.sum)
    return family


_BY_SERVICE_PORT: Mapping[Metric, Callable[[ServicePortCounters], float]] = {
    table.CONNECTIONS: lambda each: each.opened,
    table.CONNECTIONS_ACTIVE: lambda each: each.active,
    table.CONNECTIONS_FAILED: lambda each: each.failed,
    table.CONNECTIONS_REMOVED: lambda each: each.removed,
    table.UDP_FLOWS_EVICTED: lambda each: each.evicted,
    table.RETRIES: lambda each: each.retried,
    table.EJECTIONS: lambda each: each.ejections,
    table.ENDPOINTS_EJECTED: lambda each: each.ejected,
}
_BY_ENDPOINT: Mapping[Metric, Callable[[EndpointCounters], float]] = {
    table.ENDPOINT_CONNECTIONS: lambda each: each.opened,
    table.ENDPOINT_ACTIVE: lambda each: each.active,
    table.ENDPOINT_FAILURES: lambda each: each.failed,
    table.ENDPOINT_EJECTIONS: lambda each: each.ejections,
}


def traffic(totals: TrafficTotals) -> Iterator[Family]:
    """What Service ports and their endpoints have carried."""
    found = [(_labels_of(key), each) for key, each in totals]
    if totals.others or totals.other.counters.opened:
        found.append(((OTHER,) * len(table.CONNECTIONS.labels), totals.other))
    for metric, read in _BY_SERVICE_PORT.items():
        yield numbers(metric, [(labels, read(each.counters)) for labels, each in found])
    yield numbers(table.CONNECTIONS_REFUSED, _refusals(found))
    yield numbers(
        table.BYTES,
        [
            sample
            for labels, each in found
            for sample in (
                ((*labels, "in"), each.counters.bytes_in),
                ((*labels, "out"), each.counters.bytes_out),
            )
        ],
    )
    yield histograms(
        table.CONNECT_DURATION,
        [(labels, _connects(each.counters)) for labels, each in found if any(each.counters.connects)],
    )
    endpoints = [
        ((*labels, _shown(endpoint)), counters)
        for labels, each in found
        for endpoint, counters in each.endpoints.items()
    ]
    for metric, of_endpoint in _BY_ENDPOINT.items():
        yield numbers(metric, [(labels, of_endpoint(each)) for labels, each in endpoints])
    yield numbers(
        table.ENDPOINT_BYTES,
        [
            sample
            for labels, each in endpoints
            for sample in (((*labels, "in"), each.bytes_in), ((*labels, "out"), each.bytes_out))
        ],
    )
    yield number(table.OTHER_SERVICE_PORTS, len(totals.others))


def _refusals(found: Iterable[tuple[Labels, ServicePortTotals]]) -> Iterator[tuple[Labels, float]]:
    for labels, each in found:
        yield (*labels, "client-limit"), each.counters.refused_client_limit
        yield (*labels, "service-limit"), each.counters.refused_service_limit
        yield (*labels, "no-room"), each.counters.refused_no_room


def _connects(counters: ServicePortCounters) -> Histogram:
    histogram = Histogram(CONNECT_BOUNDS_SECONDS)
    histogram.counts, histogram.sum = counters.connects, counters.connect_seconds
    return histogram


def _labels_of(key: str) -> Labels:
    return labels_of(ServicePortName.from_key(key))


def labels_of(name: ServicePortName) -> Labels:
    """The values of the labels that tell Service ports apart."""
    service = name.service
    return service.namespace, service.name, name.port_name, name.protocol.value, name.family.value


def _shown(endpoint: EndpointKey) -> str:
    if endpoint == OTHER_ENDPOINTS:
        return OTHER
    address, port = endpoint
    return str(Endpoint(address, Port(port)))
