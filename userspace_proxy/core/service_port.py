"""A Service port as the proxy serves it, and how a Service object becomes some of them.

Source: https://kubernetes.io/docs/reference/networking/virtual-ips/ and the core/v1 Service reference.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NewType, TypeAlias

from userspace_proxy.core.objects import Service, ServicePortSpec
from userspace_proxy.core.problem import Problem

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

Port = NewType("Port", int)
ProxyPort = NewType("ProxyPort", int)


class IPFamily(Enum):
    """Spelled as `spec.ipFamilies` spells it."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


class Protocol(Enum):
    """The transport protocols that we carry, spelled as `spec.ports[].protocol` spells them."""

    TCP = "TCP"
    UDP = "UDP"


class TrafficPolicy(Enum):
    """Which endpoints a kind of traffic may use: all of the cluster's, or only those on this node."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


@dataclass(frozen=True, slots=True, order=True)
class ServiceName:
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ServicePortName:
    """The identity of a Service port: TCP and UDP on one number are two, and so are IPv4 and IPv6."""

    service: ServiceName
    port_name: str
    protocol: Protocol
    family: IPFamily

    def __str__(self) -> str:
        """`namespace/name:port`, as kube-proxy writes it in rule comments (`namespace/name` if unnamed)."""
        return f"{self.service}:{self.port_name}" if self.port_name else str(self.service)

    @property
    def key(self) -> str:
        """A text that no other Service port has."""
        return f"{self} {self.protocol.value} {self.family.value}"


@dataclass(frozen=True, slots=True)
class Frontend:
    """An address that clients send to and that we capture. `address` is an IP in its canonical spelling."""

    address: str
    protocol: Protocol
    port: Port

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}/{self.protocol.value}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of one Service in one IP family, checked."""

    name: ServicePortName
    cluster_ip: str
    port: Port
    affinity_timeout_seconds: int | None
    internal_traffic_policy: TrafficPolicy
    created: str


@dataclass(slots=True)
class Complaints:
    """Collects the problems of one object while it is read."""

    origin: str
    kind: str
    namespace: str
    name: str
    problems: list[Problem] = field(default_factory=list)

    def add(self, where: str, reason: str) -> None:
        self.problems.append(Problem(self.origin, self.kind, self.namespace, self.name, where, reason))


DEFAULT_AFFINITY_TIMEOUT_SECONDS: Final = 10800
MAX_AFFINITY_TIMEOUT_SECONDS: Final = 86400

_PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
_HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
_DNS_LABEL: Final = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_DNS_SUBDOMAIN: Final = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")


def is_dns_subdomain(name: str) -> bool:
    """Whether `name` can name a Kubernetes object (RFC 1123 subdomain, as the API server checks it)."""
    return len(name) <= 253 and _DNS_SUBDOMAIN.fullmatch(name) is not None


def is_port(number: int) -> bool:
    return 1 <= number <= 65535


def why_not_dialled(address: IPAddress) -> str | None:
    """The reason why no Service and no endpoint may have `address`, or None if it may.

    The API server refuses these too; a proxy that trusted them would let an object reach the node itself.
    """
    if address.is_unspecified:
        return "is the unspecified address"
    if address.is_loopback:
        return "is a loopback address"
    if address.is_link_local:
        return "is a link-local address"
    if address.is_multicast:
        return "is a multicast address"
    if address == _BROADCAST:
        return "is the broadcast address"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return "is an IPv4-mapped address"
        if address.scope_id is not None:  # free text after "%", which would go into rules as it is
            return "is an address with a zone"
    return None


_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")


def family_of(address: IPAddress) -> IPFamily:
    return IPFamily.IPV4 if address.version == 4 else IPFamily.IPV6


def read_service(service: Service, origin: str) -> tuple[tuple[ServicePort, ...], tuple[Problem, ...]]:
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
            complaints.add(part, f"{value!r} is not a name that Kubernetes allows")
            return (), tuple(complaints.problems)
    addresses = tuple(_read_cluster_ips(service, complaints))
    if not addresses:
        return (), tuple(complaints.problems)
    affinity = _read_affinity(service, complaints)
    internal_policy = _read_policy(spec.internal_traffic_policy, complaints)
    ports = tuple(_read_ports(spec.ports or [], complaints))
    service_ports = tuple(
        ServicePort(
            name=ServicePortName(name, port_name, protocol, family_of(address)),
            cluster_ip=str(address),
            port=port,
            affinity_timeout_seconds=affinity,
            internal_traffic_policy=internal_policy,
            created=meta.creation_timestamp or "",
        )
        for address in addresses
        for port_name, protocol, port in ports
    )
    return service_ports, tuple(complaints.problems)


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
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            complaints.add(where, f"{text!r} is not an IP address")
            continue
        if reason := why_not_dialled(address):
            complaints.add(where, f"{text} {reason}")
        elif family_of(address) in seen:
            complaints.add(where, f"{text} is a second address of its family")
        else:
            seen.add(family_of(address))
            yield address


def _read_affinity(service: Service, complaints: Complaints) -> int | None:
    spec = service.spec
    if spec.session_affinity in (None, "", "None"):
        return None
    if spec.session_affinity != "ClientIP":
        complaints.add("spec.sessionAffinity", f"{spec.session_affinity!r} is neither 'None' nor 'ClientIP'")
        return None
    config = spec.session_affinity_config
    client_ip = config.client_ip if config is not None else None
    timeout = client_ip.timeout_seconds if client_ip is not None else None
    if timeout is None:
        return DEFAULT_AFFINITY_TIMEOUT_SECONDS
    if not 1 <= timeout <= MAX_AFFINITY_TIMEOUT_SECONDS:
        complaints.add(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            f"{timeout} is not within 1-{MAX_AFFINITY_TIMEOUT_SECONDS}; the default is used",
        )
        return DEFAULT_AFFINITY_TIMEOUT_SECONDS
    return timeout


def _read_policy(text: str | None, complaints: Complaints) -> TrafficPolicy:
    if text in (None, ""):
        return TrafficPolicy.CLUSTER
    try:
        return TrafficPolicy(text)
    except ValueError:
        complaints.add(
            "spec.internalTrafficPolicy", f"{text!r} is neither 'Cluster' nor 'Local'; Cluster is used"
        )
        return TrafficPolicy.CLUSTER


def _read_ports(specs: list[ServicePortSpec], complaints: Complaints) -> Iterator[tuple[str, Protocol, Port]]:
    names: set[tuple[str, Protocol]] = set()
    numbers: set[tuple[int, Protocol]] = set()
    for index, spec in enumerate(specs):
        where = f"spec.ports[{index}]"
        port_name = spec.name or ""
        try:
            protocol = Protocol(spec.protocol or "TCP")
        except ValueError:
            complaints.add(f"{where}.protocol", f"{spec.protocol!r} is not carried (TCP and UDP are)")
            continue
        if port_name and not is_dns_subdomain(port_name):
            complaints.add(f"{where}.name", f"{port_name!r} is not a name that Kubernetes allows")
        elif not is_port(spec.port):
            complaints.add(f"{where}.port", f"{spec.port} is not a port (1-65535)")
        elif (port_name, protocol) in names:
            complaints.add(f"{where}.name", f"{port_name!r} is the name of an earlier port")
        elif (spec.port, protocol) in numbers:
            complaints.add(f"{where}.port", f"{spec.port}/{protocol.value} is the number of an earlier port")
        else:
            names.add((port_name, protocol))
            numbers.add((spec.port, protocol))
            yield port_name, protocol, Port(spec.port)


@dataclass(frozen=True, slots=True)
class UdpIdleTimeouts:
    """Seconds for which a UDP flow may be silent: before the endpoint's first answer, and after it."""

    unanswered_seconds: float
    answered_seconds: float


_DNS_PORT: Final = 53
_DNS_TIMEOUTS: Final = UdpIdleTimeouts(unanswered_seconds=10.0, answered_seconds=1.0)
_UDP_TIMEOUTS: Final = UdpIdleTimeouts(unanswered_seconds=30.0, answered_seconds=120.0)


def udp_idle_timeouts(port: Port, override_seconds: float | None) -> UdpIdleTimeouts:
    """How long flows to a Service port live. A DNS exchange is over once answered; others may go on.

    The defaults are the kernel's own for UDP (nf_conntrack_udp_timeout and its _stream), so that a flow lives
    here as long as the conntrack entry that leads to it.
    """
    if override_seconds is not None:
        return UdpIdleTimeouts(override_seconds, override_seconds)
    return _DNS_TIMEOUTS if port == _DNS_PORT else _UDP_TIMEOUTS
