"""A Service port as it is served: where clients reach it, who serves it, how, and with what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from userspace_proxy.core.answers.endpoints import EndpointAnswer
from userspace_proxy.core.answers.shape import Parameters, Shape
from userspace_proxy.core.endpoint_selection import Selection
from userspace_proxy.core.live_traffic import LiveServicePort
from userspace_proxy.core.plan_conflicts import LostClaim
from userspace_proxy.core.proxy_plan import PlannedServicePort
from userspace_proxy.core.service_port import (
    EVERY_LOCAL_ADDRESS,
    Exposure,
    Protocol,
    ProxyPort,
    ServicePort,
    ServicePortName,
    TrafficPolicy,
)
from userspace_proxy.core.traffic_counters import ServicePortCounters


class ServicesQuestion(Parameters, frozen=True):
    """All Service ports, or those that `name` names (see `named_services`), these with their endpoints."""

    name: str = ""


class NamesQuestion(Parameters, frozen=True):
    """The Services whose name, with its namespace or without, begins so."""

    prefix: str = ""


class FrontendAnswer(Shape, frozen=True):
    """Where clients reach it. `captured_by` is another Service port that has this frontend, else None.

    `outside` and `inside` are the traffic policies of those who come from elsewhere, and of this node and
    its pods. `source_ranges` None: everybody may come.
    """

    frontend: str
    kind: str
    outside: str
    inside: str
    source_ranges: tuple[str, ...] | None
    captured_by: str | None


class ListenerAnswer(Shape, frozen=True):
    """A class of traffic; its `outcome` is serve, refuse or drop. `proxy_port` None: it is not open.

    `next` is where the next connection goes, or any of several where chance, the client's address or which
    worker takes it decides. It is there where one Service is asked about; else None.
    """

    policy: str
    proxy_port: int | None
    outcome: str
    usable_endpoints: int
    next: tuple[str, ...] | None = None


class ServingWorker(Shape, frozen=True):
    """A worker's number and its process; `pid` is 0 if it cannot be seen from here."""

    number: int
    pid: int


class ServicePortAnswer(Shape, frozen=True):
    """Limits are None where the worker's own hold. Counters are those of the processes that serve it now."""

    service_port: str
    protocol: str
    family: str
    frontends: tuple[FrontendAnswer, ...]
    listeners: tuple[ListenerAnswer, ...]
    workers: tuple[ServingWorker, ...]
    internal_traffic_policy: str
    external_traffic_policy: str
    affinity_timeout_seconds: int | None
    health_check_node_port: int | None
    balancing: str
    max_connections: int | None
    max_connections_per_client: int | None
    drain_removed_seconds: float | None
    sends_proxy_protocol: bool
    ready_endpoints: int
    listed_endpoints: int
    ejected_endpoints: int
    active: int
    opened: int
    failed: int
    retried: int
    refused: int
    bytes_in: int
    bytes_out: int
    problems: tuple[str, ...]
    endpoints: tuple[EndpointAnswer, ...] | None = None
    taken_out_endpoints: int = 0


def describe_service_port(
    planned: PlannedServicePort,
    *,
    lost: Sequence[LostClaim],
    proxy_ports: Mapping[TrafficPolicy, ProxyPort],
    workers: Iterable[ServingWorker],
    counters: ServicePortCounters,
    ready_endpoints: int,
    listed_endpoints: int,
    problems: Iterable[str],
    endpoints: Iterable[EndpointAnswer] | None,
    live: LiveServicePort | None = None,
    taken_out_endpoints: int = 0,
) -> ServicePortAnswer:
    """All of a planned Service port; `live` is what is known of it where one Service is asked about."""
    port, name = planned.service_port, planned.name
    settings = port.settings
    owners = {each.frontend: str(each.owner) for each in lost}
    is_tcp = name.protocol is Protocol.TCP
    return ServicePortAnswer(
        service_port=str(name),
        protocol=name.protocol.value,
        family=name.family.value,
        frontends=tuple(
            _frontend(port, exposure, owners.get(exposure.frontend)) for exposure in planned.exposures
        ),
        listeners=tuple(
            _listener(policy, selection, proxy_ports.get(policy), live)
            for policy, selection in planned.selections
        ),
        workers=tuple(workers),
        internal_traffic_policy=port.internal_traffic_policy.value,
        external_traffic_policy=port.external_traffic_policy.value,
        affinity_timeout_seconds=port.affinity_timeout_seconds,
        health_check_node_port=port.health_check_node_port,
        balancing=settings.balancing.value,
        max_connections=settings.max_connections if is_tcp else settings.max_udp_flows,
        max_connections_per_client=(
            settings.max_connections_per_client if is_tcp else settings.max_udp_flows_per_client
        ),
        drain_removed_seconds=settings.drain_removed_seconds,
        sends_proxy_protocol=settings.sends_proxy_protocol and is_tcp,
        ready_endpoints=ready_endpoints,
        listed_endpoints=listed_endpoints,
        ejected_endpoints=counters.ejected,
        active=counters.active,
        opened=counters.opened,
        failed=counters.failed,
        retried=counters.retried,
        refused=counters.refused,
        bytes_in=counters.bytes_in,
        bytes_out=counters.bytes_out,
        problems=tuple(problems),
        endpoints=None if endpoints is None else tuple(endpoints),
        taken_out_endpoints=taken_out_endpoints,
    )


def named_services(text: str, served: Iterable[PlannedServicePort]) -> list[ServicePortName]:
    """The Service ports that `text` names, sorted: `web`, `default/web`, `web:http`, `default/web:80`.

    A name without a namespace is meant in all of them. Empty: all.
    """
    service, _, port = text.partition(":")
    namespace, slash, name = service.rpartition("/")
    found = [
        each.name
        for each in served
        if (not text or each.name.service.name == name)
        and (not slash or each.name.service.namespace == namespace)
        and (not port or port in (each.name.port_name, str(each.service_port.port)))
    ]
    return sorted(found, key=attrgetter("key"))


def services_beginning(prefix: str, served: Iterable[ServicePortName]) -> list[str]:
    """The Services whose name, with its namespace or without, begins so."""
    services = sorted({name.service for name in served})
    return [str(each) for each in services if str(each).startswith(prefix) or each.name.startswith(prefix)]


def _frontend(port: ServicePort, exposure: Exposure, owner: str | None) -> FrontendAnswer:
    return FrontendAnswer(
        frontend=str(exposure.frontend),
        kind=_kind(port, exposure.frontend.address),
        outside=exposure.outside.value,
        inside=exposure.inside.value,
        source_ranges=exposure.source_ranges,
        captured_by=owner,
    )


def _kind(port: ServicePort, address: str) -> str:
    """Which field of the Service it comes from, in Kubernetes' words."""
    if address == port.cluster_ip:
        return "clusterIP"
    if address == EVERY_LOCAL_ADDRESS[port.name.family]:
        return "nodePort"
    return "loadBalancer" if address in port.load_balancer_ips else "externalIP"


def _listener(
    policy: TrafficPolicy, selection: Selection, port: ProxyPort | None, live: LiveServicePort | None
) -> ListenerAnswer:
    traffic = None if live is None else live.classes.get(policy)
    return ListenerAnswer(
        policy=policy.value,
        proxy_port=port,
        outcome=selection.outcome.value,
        usable_endpoints=len(selection.endpoints),
        next=None if traffic is None else tuple(map(str, traffic.next)),
    )
