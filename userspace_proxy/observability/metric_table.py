"""Every metric by name: what it is, what it counts, and by which labels. docs/metrics.md is made of this.

Names that begin with `kubeproxy_` are kube-proxy's, with the meaning that they have there, so that dashboards
and alerts go on; source: pkg/proxy/metrics in Kubernetes. `process_` are Prometheus' own for any process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final


class MetricKind(Enum):
    """As an exposition's TYPE line spells it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()


_C, _G, _H = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM
_FAMILY: Final = ("ip_family",)
_PORT: Final = ("namespace", "service", "port", "protocol", "ip_family")
_ENDPOINT: Final = (*_PORT, "endpoint")
_SYNC: Final = "kubeproxy_sync_proxy_rules_"

SYNC_DURATION: Final = Metric(
    f"{_SYNC}duration_seconds", _H, "How long installing or verifying the rules took.", _FAMILY
)
SYNC_TIMESTAMP: Final = Metric(
    f"{_SYNC}last_timestamp_seconds", _G, "When the rules were last known to be right (Unix time).", _FAMILY
)
SYNC_QUEUED: Final = Metric(
    f"{_SYNC}last_queued_timestamp_seconds", _G, "When rules last had to change (Unix time).", _FAMILY
)
PROGRAMMING_DURATION: Final = Metric(
    "kubeproxy_network_programming_duration_seconds",
    _H,
    "From a pod's or Service's change, as the EndpointSlice tells its time, until it is in effect here.",
    _FAMILY,
)
ENDPOINT_CHANGES_PENDING: Final = Metric(
    f"{_SYNC}endpoint_changes_pending",
    _G,
    "Changes of EndpointSlices that are not being acted on yet.",
    _FAMILY,
)
ENDPOINT_CHANGES: Final = Metric(
    f"{_SYNC}endpoint_changes_total",
    _C,
    "Changes of EndpointSlices. One that a new list brings counts in each family.",
    _FAMILY,
)
SERVICE_CHANGES_PENDING: Final = Metric(
    f"{_SYNC}service_changes_pending", _G, "Changes of Services that are not being acted on yet.", _FAMILY
)
SERVICE_CHANGES: Final = Metric(
    f"{_SYNC}service_changes_total", _C, "Changes of Services; each counts in each family.", _FAMILY
)
IPTABLES_RULES: Final = Metric(
    f"{_SYNC}iptables_total", _G, "Rules of ours, by table.", ("table", "ip_family")
)
RESTORE_FAILURES: Final = Metric(
    f"{_SYNC}iptables_restore_failures_total", _C, "Times that rules could not be read or installed.", _FAMILY
)
HEALTHZ: Final = Metric("kubeproxy_proxy_healthz_total", _C, "Answers of /healthz, by status.", ("code",))
LIVEZ: Final = Metric("kubeproxy_proxy_livez_total", _C, "Answers of /livez, by status.", ("code",))

CONNECTIONS: Final = Metric(
    "userspace_proxy_connections_total",
    _C,
    "TCP connections made to an endpoint, or UDP flows, by the label `protocol`.",
    _PORT,
)
CONNECTIONS_ACTIVE: Final = Metric(
    "userspace_proxy_connections_active", _G, "TCP connections, or UDP flows, that go on now.", _PORT
)
CONNECTIONS_FAILED: Final = Metric(
    "userspace_proxy_connections_failed_total",
    _C,
    "Clients that were reset (UDP: a datagram dropped) because no endpoint answered.",
    _PORT,
)
CONNECTIONS_REFUSED: Final = Metric(
    "userspace_proxy_connections_refused_total",
    _C,
    "Clients that were reset at once: `client-limit`, `service-limit`, or no room in the worker (`no-room`).",
    (*_PORT, "reason"),
)
CONNECTIONS_REMOVED: Final = Metric(
    "userspace_proxy_connections_removed_total",
    _C,
    "Connections that were reset because their endpoint had been removed.",
    _PORT,
)
UDP_FLOWS_EVICTED: Final = Metric(
    "userspace_proxy_udp_flows_evicted_total",
    _C,
    "UDP flows that ended early to make room for others.",
    _PORT,
)
RETRIES: Final = Metric(
    "userspace_proxy_connect_retries_total", _C, "Connect attempts beyond a client's first.", _PORT
)
CONNECT_DURATION: Final = Metric(
    "userspace_proxy_connect_duration_seconds",
    _H,
    "From a TCP client's arrival until an endpoint answered, retries included.",
    _PORT,
)
BYTES: Final = Metric(
    "userspace_proxy_bytes_total",
    _C,
    "Bytes that were passed on: `in` from clients, `out` to them.",
    (*_PORT, "direction"),
)
EJECTIONS: Final = Metric(
    "userspace_proxy_ejections_total",
    _C,
    "Times that an endpoint was left out because it kept failing.",
    _PORT,
)
ENDPOINTS_EJECTED: Final = Metric(
    "userspace_proxy_endpoints_ejected",
    _G,
    "Endpoints that are left out now because they kept failing.",
    _PORT,
)
ENDPOINTS_TAKEN_OUT: Final = Metric(
    "userspace_proxy_endpoints_taken_out",
    _G,
    "Endpoints that an operator has taken out, of Service ports that have some (`userspace-proxy eject`).",
    _PORT,
)
ENDPOINT_CONNECTIONS: Final = Metric(
    "userspace_proxy_endpoint_connections_total",
    _C,
    "TCP connections, or UDP flows, to an endpoint.",
    _ENDPOINT,
)
ENDPOINT_ACTIVE: Final = Metric(
    "userspace_proxy_endpoint_connections_active", _G, "Those that go on now.", _ENDPOINT
)
ENDPOINT_FAILURES: Final = Metric(
    "userspace_proxy_endpoint_connect_failures_total", _C, "TCP connects that an endpoint refused.", _ENDPOINT
)
ENDPOINT_BYTES: Final = Metric(
    "userspace_proxy_endpoint_bytes_total",
    _C,
    "Bytes from clients to an endpoint (`in`), and back (`out`).",
    (*_ENDPOINT, "direction"),
)
ENDPOINT_EJECTIONS: Final = Metric(
    "userspace_proxy_endpoint_ejections_total", _C, "Times that an endpoint was left out.", _ENDPOINT
)
SERVICE_PORTS: Final = Metric("userspace_proxy_service_ports", _G, "Service ports that are served.")
OTHER_SERVICE_PORTS: Final = Metric(
    "userspace_proxy_other_service_ports",
    _G,
    "Service ports without metrics of their own, added up under the label `other`; --metrics-service-ports.",
)
UNOPENED_LISTENERS: Final = Metric(
    "userspace_proxy_listeners_not_opened", _G, "Listeners that cannot be opened; their clients are refused."
)
WORKERS: Final = Metric("userspace_proxy_workers", _G, "Worker processes that serve now.")
WORKERS_REPLACED: Final = Metric(
    "userspace_proxy_workers_replaced_total", _C, "Workers that ended unasked, and were replaced."
)
PROBLEMS: Final = Metric(
    "userspace_proxy_object_problems", _G, "Bad fields of objects, and conflicts between them, now."
)
PROBLEMS_NAMED: Final = Metric("userspace_proxy_object_problems_named_total", _C, "The same, ever named.")
EVENTS_WRITTEN: Final = Metric(
    "userspace_proxy_events_written_total",
    _C,
    "Kubernetes Events written, or their counts brought up to date.",
)
EVENTS_DROPPED: Final = Metric(
    "userspace_proxy_events_dropped_total",
    _C,
    "Kubernetes Events not written: too many at once, or refused by the API server.",
)
BUILD_INFO: Final = Metric(
    "userspace_proxy_build_info", _G, "Always 1; says which version runs.", ("version",)
)

OF_PROCESS: Final = (
    Metric("process_cpu_seconds_total", _C, "CPU that the agent has used."),
    Metric("process_resident_memory_bytes", _G, "Memory of the agent."),
    Metric("process_virtual_memory_bytes", _G, "Address space of the agent."),
    Metric("process_open_fds", _G, "Descriptors that the agent has open."),
    Metric("process_max_fds", _G, "Descriptors that it may have open."),
    Metric("process_start_time_seconds", _G, "When the agent started (Unix time)."),
)
"""prometheus_client reads these."""


def _all() -> Iterator[Metric]:
    yield from (value for value in globals().values() if isinstance(value, Metric))
    yield from OF_PROCESS


METRICS: Final = tuple(_all())
