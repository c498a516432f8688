"""A Service port as the proxy serves it, and how a Service object becomes some of them.

Source: https://kubernetes.io/docs/reference/networking/virtual-ips/ and the core/v1 Service reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType

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


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of one Service in one IP family, checked."""

    name: ServicePortName
    cluster_ip: str
    port: Port
    affinity_timeout_seconds: int | None
    internal_traffic_policy: TrafficPolicy
    created: str
