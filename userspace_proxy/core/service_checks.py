"""How a Service object becomes checked Service ports, and what is said of the fields that cannot be served.

Source: https://kubernetes.io/docs/reference/networking/virtual-ips/ and the core/v1 Service reference.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeAlias

from userspace_proxy.core.admission import UNLIMITED
from userspace_proxy.core.decoding import describe
from userspace_proxy.core.event_reasons import (
    INVALID_ANNOTATION,
    INVALID_FIELD,
    PROTOCOL_NOT_CARRIED,
    Reason,
)
from userspace_proxy.core.ip_addresses import (
    IPAddress,
    IPNetwork,
    family_of,
    read_network,
    shown,
    why_not_dialled,
)
from userspace_proxy.core.object_names import is_dns_subdomain
from userspace_proxy.core.objects import Service
from userspace_proxy.core.problem import Problem
from userspace_proxy.core.service_annotations import (
    DEFAULT_SETTINGS,
    PREFIX,
    WORKERS,
    ServiceSettings,
    field_of,
    read_settings,
)
from userspace_proxy.core.service_port import (
    IPFamily,
    Port,
    Protocol,
    ServiceName,
    ServicePort,
    ServicePortName,
    TrafficPolicy,
)


@dataclass(slots=True)
class Complaints:
    """Collects the problems of one object while it is read."""

    origin: str
    kind: str
    namespace: str
    name: str
    event: Reason = INVALID_FIELD
    problems: list[Problem] = field(default_factory=list)

    def add(self, where: str, reason: str, event: Reason | None = None) -> None:
        self.problems.append(
            Problem(self.origin, self.kind, self.namespace, self.name, where, reason, event or self.event)
        )


DEFAULT_AFFINITY_TIMEOUT_SECONDS: Final = 10800
MAX_AFFINITY_TIMEOUT_SECONDS: Final = 86400

_PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
_HEADLESS_LABEL: Final = "service.kubernetes.io/headless"


ReadPort: TypeAlias = tuple[str, Protocol, Port, Port | None]
"""Name, protocol, number and NodePort."""


def is_port(number: int) -> bool:
    return 1 <= number <= 65535


def read_service(
    service: Service, origin: str, defaults: ServiceSettings = DEFAULT_SETTINGS
) -> tuple[tuple[ServicePort, ...], tuple[Problem, ...]]:
    """The Service ports to serve, and what had to be skipped. A bad field costs only what depends on it.

    No ports and no problems for a Service that is not ours to serve: headless, ExternalName, or labelled for
    another proxy.
    """
    meta, spec = service.metadata, service.spec
    labels = meta.labels or {}
    if _PROXY_NAME_LABEL in labels or _HEADLESS_LABEL in labels or spec.type == "ExternalName":
        return (), ()
    complaints = Complaints(origin, "Service", meta.namespace, meta.name)
    name = ServiceName(meta.namespace, meta.name)
    for part, value in (("metadata.namespace", meta.namespace), ("metadata.name", meta.name)):
        if not is_dns_subdomain(value):
            complaints.add(part, f"{describe(value)} is not a name that Kubernetes allows")
            return (), tuple(complaints.problems)
    addresses = tuple(_read_cluster_ips(service, complaints))
    if not addresses:
        return (), tuple(complaints.problems)
    affinity = _read_affinity(service, complaints)
    internal = _read_policy("spec.internalTrafficPolicy", spec.internal_traffic_policy, complaints)
    external = _read_policy("spec.externalTrafficPolicy", spec.external_traffic_policy, complaints)
    families = frozenset(map(family_of, addresses))
    external_ips = tuple(_read_external_ips(service, families, complaints))
    load_balancer_ips = tuple(_read_load_balancer_ips(service, families, complaints))
    source_ranges = _read_source_ranges(service, complaints)
    health_check_node_port = _read_health_check_node_port(service, external, complaints)
    ports = tuple(_read_ports(service, complaints))
    if not ports:
        return (), tuple(complaints.problems)
    udp = [number for _, protocol, number, _ in ports if protocol is Protocol.UDP]
    settings = _read_settings(meta.annotations or {}, defaults, affinity, udp, complaints)
    service_ports = tuple(
        ServicePort(
            name=ServicePortName(name, port_name, protocol, family_of(address)),
            cluster_ip=str(address),
            port=port,
            affinity_timeout_seconds=affinity,
            internal_traffic_policy=internal,
            external_traffic_policy=external,
            node_port=node_port,
            external_ips=_of_family(address, external_ips),
            load_balancer_ips=_of_family(address, load_balancer_ips),
            source_ranges=_ranges_of_family(address, source_ranges),
            health_check_node_port=health_check_node_port,
            settings=settings,
            created=meta.creation_timestamp or "",
        )
        for address in addresses
        for port_name, protocol, port, node_port in ports
    )
    return service_ports, tuple(complaints.problems)


def settle_again(
    ports: tuple[ServicePort, ...], annotations: Mapping[str, str], defaults: ServiceSettings, origin: str
) -> tuple[tuple[ServicePort, ...], tuple[Problem, ...]]:
    """A Service's ports (one at least) with other `defaults`, and what is wrong with its `annotations`."""
    name, affinity = ports[0].name.service, ports[0].affinity_timeout_seconds
    complaints = Complaints(origin, "Service", name.namespace, name.name)
    udp = dict.fromkeys(port.port for port in ports if port.name.protocol is Protocol.UDP)
    settings = _read_settings(annotations, defaults, affinity, list(udp), complaints)
    return tuple(replace(port, settings=settings) for port in ports), tuple(complaints.problems)


def _read_settings(
    annotations: Mapping[str, str],
    defaults: ServiceSettings,
    affinity: int | None,
    udp: Sequence[Port],
    complaints: Complaints,
) -> ServiceSettings:
    settings = read_settings(annotations, defaults, partial(complaints.add, event=INVALID_ANNOTATION))
    return _check_spreading(settings, affinity, udp, complaints) if settings.workers > 1 else settings


def _check_spreading(
    settings: ServiceSettings, affinity: int | None, udp: Sequence[Port], complaints: Complaints
) -> ServiceSettings:
    where = field_of(f"{PREFIX}{WORKERS}")
    limits = {settings.max_connections, settings.max_connections_per_client} - {None, UNLIMITED}
    for needs_one, reason in (
        (affinity is not None, "sessionAffinity ClientIP needs one worker, which knows all clients"),
        (limits, "a limit of connections needs one worker, which counts them all"),
    ):
        if needs_one:
            complaints.add(where, f"{reason}; one is used", INVALID_ANNOTATION)
            return replace(settings, workers=1)
    if udp:
        numbers = ", ".join(map(str, udp))
        reason = f"UDP has one worker, which knows all flows; so have ports {numbers}"
        complaints.add(where, reason, INVALID_ANNOTATION)
    return settings


def _of_family(address: IPAddress, others: Iterable[IPAddress | IPNetwork]) -> tuple[str, ...]:
    found = (str(other) for other in others if other.version == address.version)
    return tuple(dict.fromkeys(found))


def _ranges_of_family(address: IPAddress, ranges: tuple[IPNetwork, ...] | None) -> tuple[str, ...] | None:
    return None if ranges is None else _of_family(address, ranges)


def _read_cluster_ips(service: Service, complaints: Complaints) -> Iterator[IPAddress]:
    spec = service.spec
    if spec.cluster_ips:
        entries = [(f"spec.clusterIPs[{i}]", text) for i, text in enumerate(spec.cluster_ips)]
    else:
        entries = [("spec.clusterIP", spec.cluster_ip or "")]
    seen: set[IPFamily] = set()
    for where, text in entries:
        if text in ("", "None"):
            continue
        address = _read_address(where, text, complaints)
        if address is None:
            continue
        if family_of(address) in seen:
            family = family_of(address).value
            complaints.add(
                where, f"{shown(address)} is a second {family} address, and a Service has one of each family"
            )
        else:
            seen.add(family_of(address))
            yield address


def _read_address(where: str, text: str, complaints: Complaints) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        complaints.add(where, f"{describe(text)} is not an IP address")
        return None
    if reason := why_not_dialled(address):
        complaints.add(where, f"{shown(address)} {reason}")
        return None
    return address


def _read_address_of(
    families: Set[IPFamily], where: str, text: str, complaints: Complaints
) -> IPAddress | None:
    """An address beside the clusterIPs, which lead to the endpoints of their `families` alone."""
    address = _read_address(where, text, complaints)
    if address is None or family_of(address) in families:
        return address
    family = family_of(address).value
    complaints.add(
        where, f"{shown(address)} is an {family} address, and the Service has no {family} clusterIP"
    )
    return None


def _read_external_ips(
    service: Service, families: Set[IPFamily], complaints: Complaints
) -> Iterator[IPAddress]:
    for index, text in enumerate(service.spec.external_ips or ()):
        address = _read_address_of(families, f"spec.externalIPs[{index}]", text, complaints)
        if address is not None:
            yield address


def _read_load_balancer_ips(
    service: Service, families: Set[IPFamily], complaints: Complaints
) -> Iterator[IPAddress]:
    """The ingress addresses whose packets arrive here as they were sent, which `ipMode: Proxy` denies."""
    if service.spec.type != "LoadBalancer" or service.status is None or service.status.load_balancer is None:
        return
    for index, ingress in enumerate(service.status.load_balancer.ingress or ()):
        where = f"status.loadBalancer.ingress[{index}]"
        if not ingress.ip or ingress.ip_mode == "Proxy":
            continue
        if ingress.ip_mode not in (None, "", "VIP"):
            complaints.add(f"{where}.ipMode", f"{describe(ingress.ip_mode)} is neither 'VIP' nor 'Proxy'")
            continue
        address = _read_address_of(families, f"{where}.ip", ingress.ip, complaints)
        if address is not None:
            yield address


def _read_source_ranges(service: Service, complaints: Complaints) -> tuple[IPNetwork, ...] | None:
    """Who may reach the ingress addresses; None: everybody.

    A bad entry lets nobody in, and ranges of one family alone let in nobody of the other.
    """
    listed = service.spec.load_balancer_source_ranges
    where = "spec.loadBalancerSourceRanges"
    if listed is None or listed == []:
        return None
    if not isinstance(listed, list):
        complaints.add(where, f"{describe(listed)} is not a list; nobody is let in")
        return ()
    ranges: list[IPNetwork] = []
    for index, text in enumerate(listed):
        try:
            if not isinstance(text, str):
                raise ValueError
            ranges.append(read_network(text.strip()))
        except ValueError:
            reason = f"{describe(text)} is not a range such as 192.0.2.0/24; it lets nobody in"
            complaints.add(f"{where}[{index}]", reason)
    return tuple(ranges)


def _read_health_check_node_port(
    service: Service, external: TrafficPolicy, complaints: Complaints
) -> Port | None:
    number = service.spec.health_check_node_port
    if service.spec.type != "LoadBalancer" or external is not TrafficPolicy.LOCAL or not number:
        return None
    if not is_port(number):
        complaints.add("spec.healthCheckNodePort", f"{number} is not a port (1-65535)")
        return None
    return Port(number)


def _read_affinity(service: Service, complaints: Complaints) -> int | None:
    spec = service.spec
    if spec.session_affinity in (None, "", "None"):
        return None
    if spec.session_affinity != "ClientIP":
        reason = f"{describe(spec.session_affinity)} is neither 'None' nor 'ClientIP'; None is used"
        complaints.add("spec.sessionAffinity", reason)
        return None
    config = spec.session_affinity_config
    client_ip = config.client_ip if config is not None else None
    timeout = client_ip.timeout_seconds if client_ip is not None else None
    if timeout is None:
        return DEFAULT_AFFINITY_TIMEOUT_SECONDS
    if not 1 <= timeout <= MAX_AFFINITY_TIMEOUT_SECONDS:
        complaints.add(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            f"{timeout} is not within 1-{MAX_AFFINITY_TIMEOUT_SECONDS} seconds; "
            f"{DEFAULT_AFFINITY_TIMEOUT_SECONDS} are used",
        )
        return DEFAULT_AFFINITY_TIMEOUT_SECONDS
    return timeout


def _read_policy(where: str, text: str | None, complaints: Complaints) -> TrafficPolicy:
    if text in (None, ""):
        return TrafficPolicy.CLUSTER
    try:
        return TrafficPolicy(text)
    except ValueError:
        complaints.add(where, f"{describe(text)} is neither 'Cluster' nor 'Local'; Cluster is used")
        return TrafficPolicy.CLUSTER


def _read_ports(service: Service, complaints: Complaints) -> Iterator[ReadPort]:
    """Each port that can be served."""
    has_node_ports = service.spec.type in ("NodePort", "LoadBalancer")
    names: set[tuple[str, Protocol]] = set()
    numbers: set[tuple[int, Protocol]] = set()
    node_ports: set[tuple[int, Protocol]] = set()
    for index, spec in enumerate(service.spec.ports or ()):
        where = f"spec.ports[{index}]"
        port_name = spec.name or ""
        try:
            protocol = Protocol(spec.protocol or "TCP")
        except ValueError:
            # Not by its place in the list: it is no news when that changes.
            reason = f"port {spec.port} is not carried: {describe(spec.protocol)} is neither TCP nor UDP"
            complaints.add("spec.ports", reason, PROTOCOL_NOT_CARRIED)
            continue
        if port_name and not is_dns_subdomain(port_name):
            complaints.add(f"{where}.name", f"{describe(port_name)} is not a name that Kubernetes allows")
        elif not is_port(spec.port):
            complaints.add(f"{where}.port", f"{spec.port} is not a port (1-65535)")
        elif (port_name, protocol) in names:
            complaints.add(f"{where}.name", f"{describe(port_name)} is the name of an earlier port")
        elif (spec.port, protocol) in numbers:
            complaints.add(f"{where}.port", f"{spec.port}/{protocol.value} is the number of an earlier port")
        else:
            names.add((port_name, protocol))
            numbers.add((spec.port, protocol))
            node_port = None
            if has_node_ports and spec.node_port:
                if not is_port(spec.node_port):
                    complaints.add(f"{where}.nodePort", f"{spec.node_port} is not a port (1-65535)")
                elif (spec.node_port, protocol) in node_ports:
                    reason = f"{spec.node_port}/{protocol.value} is the nodePort of an earlier port"
                    complaints.add(f"{where}.nodePort", reason)
                else:
                    node_ports.add((spec.node_port, protocol))
                    node_port = Port(spec.node_port)
            yield port_name, protocol, Port(spec.port), node_port
