"""The fields that controllers read of objects, as Kubernetes names them.

What they write whole (endpoints and their ports, conditions) is encoded from the same structs, so that what
is wanted can be compared with what is there. Source: the Kubernetes API reference.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, TypeAlias

import msgspec

from userspace_proxy.core.objects import EndpointConditions, EndpointHints, Int32
from userspace_proxy.demo import api_resources
from userspace_proxy.demo.api_resources import JsonObject, Resource

Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time without a zone would be another one for everybody who reads it."""


class _ApiStruct(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    pass


class OwnerReference(_ApiStruct, frozen=True):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class Metadata(_ApiStruct, frozen=True):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Moment | None = None
    deletion_timestamp: Moment | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None
    owner_references: list[OwnerReference] | None = None


class Condition(_ApiStruct, frozen=True):
    """Of a Deployment, a Node or a Pod; each has some of these fields."""

    type: str
    status: str
    reason: str | None = None
    message: str | None = None
    last_update_time: Moment | None = None
    last_heartbeat_time: Moment | None = None
    last_probe_time: Moment | None = None
    last_transition_time: Moment | None = None
    observed_generation: int | None = None


def condition_of(conditions: list[Condition] | None, type_: str) -> Condition | None:
    """The condition of that type, if there is one."""
    return next((condition for condition in conditions or () if condition.type == type_), None)


class ContainerPort(_ApiStruct, frozen=True):
    container_port: Int32
    name: str | None = None
    protocol: str | None = None


class Container(_ApiStruct, frozen=True):
    name: str
    ports: list[ContainerPort] | None = None


class Toleration(_ApiStruct, frozen=True):
    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None
    toleration_seconds: int | None = None


class PodSpec(_ApiStruct, frozen=True):
    node_name: str | None = None
    node_selector: dict[str, str] | None = None
    scheduler_name: str | None = None
    scheduling_gates: list[JsonObject] | None = None
    tolerations: list[Toleration] | None = None
    containers: list[Container] | None = None
    hostname: str | None = None
    subdomain: str | None = None


class PodIP(_ApiStruct, frozen=True):
    ip: str


class PodStatus(_ApiStruct, frozen=True):
    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: list[PodIP] | None = msgspec.field(default=None, name="podIPs")
    conditions: list[Condition] | None = None


class Pod(_ApiStruct, frozen=True):
    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def is_terminating(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def is_finished(self) -> bool:
        """Whether its processes have ended for good."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def is_active(self) -> bool:
        """Whether it counts as a replica."""
        return not (self.is_terminating or self.is_finished)

    @property
    def ready_condition(self) -> Condition | None:
        return condition_of(self.status.conditions, "Ready")

    @property
    def is_ready(self) -> bool:
        condition = self.ready_condition
        return condition is not None and condition.status == "True"


class LabelSelectorRequirement(_ApiStruct, frozen=True):
    key: str
    operator: str
    values: list[str] | None = None


class LabelSelector(_ApiStruct, frozen=True):
    match_labels: dict[str, str] | None = None
    match_expressions: list[LabelSelectorRequirement] | None = None


class RollingUpdate(_ApiStruct, frozen=True):
    max_surge: Int32 | str | None = None
    max_unavailable: Int32 | str | None = None


class DeploymentStrategy(_ApiStruct, frozen=True):
    type: str | None = None
    rolling_update: RollingUpdate | None = None


class DeploymentSpec(_ApiStruct, frozen=True):
    selector: LabelSelector
    template: JsonObject
    replicas: Int32 | None = None
    strategy: DeploymentStrategy | None = None
    min_ready_seconds: Int32 | None = None
    paused: bool | None = None
    progress_deadline_seconds: Int32 | None = None


class DeploymentStatus(_ApiStruct, frozen=True):
    observed_generation: int | None = None
    replicas: Int32 | None = None
    updated_replicas: Int32 | None = None
    ready_replicas: Int32 | None = None
    available_replicas: Int32 | None = None
    unavailable_replicas: Int32 | None = None
    conditions: list[Condition] | None = None


class Deployment(_ApiStruct, frozen=True):
    metadata: Metadata
    spec: DeploymentSpec
    status: DeploymentStatus = DeploymentStatus()


class ServicePort(_ApiStruct, frozen=True):
    port: Int32
    name: str | None = None
    protocol: str | None = None
    target_port: Int32 | str | None = None
    app_protocol: str | None = None


class ServiceSpec(_ApiStruct, frozen=True):
    type: str | None = None
    selector: dict[str, str] | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    ip_families: list[str] | None = None
    ports: list[ServicePort] | None = None
    publish_not_ready_addresses: bool | None = None
    external_name: str | None = None
    external_traffic_policy: str | None = None
    traffic_distribution: str | None = None
    load_balancer_class: str | None = None
    load_balancer_ip: str | None = msgspec.field(default=None, name="loadBalancerIP")


class LoadBalancerIngress(_ApiStruct, frozen=True):
    ip: str | None = None
    hostname: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(_ApiStruct, frozen=True):
    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(_ApiStruct, frozen=True):
    load_balancer: LoadBalancerStatus | None = None


class Service(_ApiStruct, frozen=True):
    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def is_headless(self) -> bool:
        return self.spec.cluster_ip == "None"


class TargetReference(_ApiStruct, frozen=True):
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""


class Endpoint(_ApiStruct, frozen=True):
    addresses: list[str]
    conditions: EndpointConditions | None = None
    hostname: str | None = None
    target_ref: TargetReference | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None


class EndpointPort(_ApiStruct, frozen=True):
    port: Int32 | None = None
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str | None = None


class EndpointSlice(_ApiStruct, frozen=True):
    metadata: Metadata
    address_type: str
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class EndpointAddress(_ApiStruct, frozen=True):
    ip: str
    hostname: str | None = None
    node_name: str | None = None
    target_ref: TargetReference | None = None


class EndpointSubset(_ApiStruct, frozen=True):
    addresses: list[EndpointAddress] | None = None
    not_ready_addresses: list[EndpointAddress] | None = None
    ports: list[EndpointPort] | None = None


class Endpoints(_ApiStruct, frozen=True):
    metadata: Metadata
    subsets: list[EndpointSubset] | None = None


class Taint(_ApiStruct, frozen=True):
    key: str
    effect: str
    value: str | None = None
    time_added: Moment | None = None


class NodeSpec(_ApiStruct, frozen=True):
    unschedulable: bool | None = None
    taints: list[Taint] | None = None


class NodeStatus(_ApiStruct, frozen=True):
    conditions: list[Condition] | None = None
    allocatable: JsonObject | None = None


class Node(_ApiStruct, frozen=True):
    metadata: Metadata
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def is_ready(self) -> bool:
        condition = condition_of(self.status.conditions, "Ready")
        return condition is not None and condition.status == "True"

    @property
    def most_pods(self) -> float:
        """How many pods it may have; any number, if it does not say one."""
        said = str((self.status.allocatable or {}).get("pods", ""))
        return int(said) if said.isascii() and said.isdecimal() else math.inf


class LeaseSpec(_ApiStruct, frozen=True):
    renew_time: Moment | None = None


class Lease(_ApiStruct, frozen=True):
    metadata: Metadata
    spec: LeaseSpec = LeaseSpec()


class NamespaceStatus(_ApiStruct, frozen=True):
    phase: str | None = None


class Namespace(_ApiStruct, frozen=True):
    metadata: Metadata
    status: NamespaceStatus = NamespaceStatus()


PODS: Resource[Pod] = api_resources.PODS.read_as(Pod)
DEPLOYMENTS: Resource[Deployment] = api_resources.DEPLOYMENTS.read_as(Deployment)
SERVICES: Resource[Service] = api_resources.SERVICES.read_as(Service)
ENDPOINT_SLICES: Resource[EndpointSlice] = api_resources.ENDPOINT_SLICES.read_as(EndpointSlice)
ENDPOINTS: Resource[Endpoints] = api_resources.ENDPOINTS.read_as(Endpoints)
NODES: Resource[Node] = api_resources.NODES.read_as(Node)
LEASES: Resource[Lease] = api_resources.LEASES.read_as(Lease)
NAMESPACES: Resource[Namespace] = api_resources.NAMESPACES.read_as(Namespace)
