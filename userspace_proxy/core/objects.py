"""The fields that we read of Service, EndpointSlice and Node, as Kubernetes names them.

The structs mirror the API's JSON (camelCase on the wire) and judge nothing: every field that can be absent
has a default, and addresses and ports are still plain strings and numbers. `service_port` and `endpoint`
turn them into checked values; `decoding` makes structs of JSON. Source: the Kubernetes API reference,
core/v1 and discovery.k8s.io/v1.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, TypeAlias

import msgspec

Int32: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
"""What the API's Go types call int32: a larger number is as malformed as a string."""


class Kind(Enum):
    """The kinds that we watch, by the name that a manifest's `kind:` has."""

    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    NODE = "Node"


class _ApiStruct(msgspec.Struct, frozen=True, rename="camel", gc=False, omit_defaults=True):
    pass


class ObjectMeta(_ApiStruct, frozen=True):
    name: str
    namespace: str = ""
    uid: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class ServicePortSpec(_ApiStruct, frozen=True):
    port: Int32
    name: str | None = None
    protocol: str | None = None
    node_port: Int32 | None = None


class ClientIPConfig(_ApiStruct, frozen=True):
    timeout_seconds: Int32 | None = None


class SessionAffinityConfig(_ApiStruct, frozen=True):
    client_ip: ClientIPConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(_ApiStruct, frozen=True):
    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ports: list[ServicePortSpec] | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    health_check_node_port: Int32 | None = None
    load_balancer_source_ranges: Any = None
    """Of any type: what it lost in decoding would let more clients in than its author wants."""


class LoadBalancerIngress(_ApiStruct, frozen=True):
    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(_ApiStruct, frozen=True):
    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(_ApiStruct, frozen=True):
    load_balancer: LoadBalancerStatus | None = None


class Service(_ApiStruct, frozen=True):
    metadata: ObjectMeta
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)
    status: ServiceStatus | None = None


class EndpointPort(_ApiStruct, frozen=True):
    name: str | None = None
    port: Int32 | None = None
    protocol: str | None = None


class EndpointConditions(_ApiStruct, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForNode(_ApiStruct, frozen=True):
    name: str


class ForZone(_ApiStruct, frozen=True):
    name: str


class EndpointHints(_ApiStruct, frozen=True):
    for_nodes: list[ForNode] | None = None
    for_zones: list[ForZone] | None = None


class SliceEndpoint(_ApiStruct, frozen=True):
    addresses: list[str]
    conditions: EndpointConditions | None = None
    hints: EndpointHints | None = None
    node_name: str | None = None


class EndpointSlice(_ApiStruct, frozen=True):
    metadata: ObjectMeta
    address_type: str
    endpoints: list[SliceEndpoint] | None = None
    ports: list[EndpointPort] | None = None


class NodeAddress(_ApiStruct, frozen=True):
    type: str
    address: str


class Taint(_ApiStruct, frozen=True):
    key: str


class NodeSpec(_ApiStruct, frozen=True):
    pod_cidr: str | None = msgspec.field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")
    taints: list[Taint] | None = None


class NodeStatus(_ApiStruct, frozen=True):
    addresses: list[NodeAddress] | None = None


class Node(_ApiStruct, frozen=True):
    metadata: ObjectMeta
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


ApiObject: TypeAlias = Service | EndpointSlice | Node


class Listed(msgspec.Struct, frozen=True):
    """A whole kind was read: objects of it that are not in here are gone."""

    kind: Kind
    objects: tuple[ApiObject, ...]


class Upserted(msgspec.Struct, frozen=True):
    """An object appeared or changed."""

    object: ApiObject


class Deleted(msgspec.Struct, frozen=True):
    """An object is gone (or a relabel took it out of what we watch)."""

    kind: Kind
    namespace: str
    name: str


Event: TypeAlias = Listed | Upserted | Deleted


def kind_of(item: ApiObject) -> Kind:
    """The kind of a decoded object."""
    return _KINDS[type(item)]


STRUCTS: dict[Kind, type[ApiObject]] = {
    Kind.SERVICE: Service,
    Kind.ENDPOINT_SLICE: EndpointSlice,
    Kind.NODE: Node,
}
_KINDS: dict[type[ApiObject], Kind] = {struct: kind for kind, struct in STRUCTS.items()}
