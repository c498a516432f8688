"""A Service port as the proxy serves it: its names, its addresses, its policies.

Source: https://kubernetes.io/docs/reference/networking/virtual-ips/ and the core/v1 Service reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NewType

from userspace_proxy.core.service_annotations import DEFAULT_SETTINGS, ServiceSettings

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

    __hash__ = object.__hash__  # a key on the way of every connection; Enum's own is a call into Python


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

    @classmethod
    def from_key(cls, key: str) -> ServicePortName:
        """Whose `key` that is. Raises `ValueError` if it is nobody's."""
        label, protocol, family = key.split(" ")
        service, _, port_name = label.partition(":")
        namespace, name = service.split("/")
        return cls(ServiceName(namespace, name), port_name, Protocol(protocol), IPFamily(family))


def host_port(address: str, port: int | str) -> str:
    """Address and port as people write them, an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True, slots=True)
class Frontend:
    """An address that clients send to and that we capture. `address` is an IP in its canonical spelling."""

    address: str
    protocol: Protocol
    port: Port

    def __str__(self) -> str:
        return f"{host_port(self.address, self.port)}/{self.protocol.value}"


EVERY_LOCAL_ADDRESS: Final = {IPFamily.IPV4: "0.0.0.0", IPFamily.IPV6: "::"}
"""The address of a NodePort's frontend: it stands for every address of the node."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """A frontend of a Service port, and which endpoints who comes there may use.

    `inside` is for what the node's own processes and its pods send, `outside` for the rest. Only clients in
    `source_ranges` (CIDRs; None: everybody) are served at all.
    """

    frontend: Frontend
    outside: TrafficPolicy
    inside: TrafficPolicy
    source_ranges: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    """One port of one Service in one IP family, checked. All addresses are of the family.

    `source_ranges` limits who may reach `load_balancer_ips` (None: everybody may). `created` is the Service's
    creation time as text (RFC 3339, UTC).
    """

    name: ServicePortName
    cluster_ip: str
    port: Port
    affinity_timeout_seconds: int | None = None
    internal_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    external_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    node_port: Port | None = None
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] | None = None
    health_check_node_port: Port | None = None
    settings: ServiceSettings = DEFAULT_SETTINGS
    created: str = ""

    def exposures(self) -> tuple[Exposure, ...]:
        """Where clients reach it, each frontend once.

        What the node and its pods send to an external address takes the short cut to all endpoints, whatever
        externalTrafficPolicy says: it never came through a load balancer that could choose another node.
        """
        internal, external = self.internal_traffic_policy, self.external_traffic_policy
        found: dict[Frontend, Exposure] = {}

        def expose(address: str, port: Port, outside: TrafficPolicy, inside: TrafficPolicy) -> None:
            is_limited = address in self.load_balancer_ips
            frontend = Frontend(address, self.name.protocol, port)
            exposure = Exposure(frontend, outside, inside, self.source_ranges if is_limited else None)
            found.setdefault(frontend, exposure)

        expose(self.cluster_ip, self.port, internal, internal)
        for address in (*self.load_balancer_ips, *self.external_ips):
            expose(address, self.port, external, TrafficPolicy.CLUSTER)
        if self.node_port is not None:
            everywhere = EVERY_LOCAL_ADDRESS[self.name.family]
            expose(everywhere, self.node_port, external, TrafficPolicy.CLUSTER)
        return tuple(found.values())


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
