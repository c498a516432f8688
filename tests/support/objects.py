"""API objects in few words: only what a test is about is said, the rest is as most clusters have it.

    service("web", at="10.96.0.10", ports=["http:80", "dns:53/UDP"])
    endpoint_slice("web-1", of="web", ports=["http:8080"], endpoints=["10.244.1.2", endpoint("10.244.1.3")])
    node("node-1", zone="here")

Ports are written `name:number@nodePort/protocol`, where all but the number may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from userspace_proxy.core import objects
from userspace_proxy.core.endpoint import SERVICE_NAME_LABEL

ZONE_LABEL = "topology.kubernetes.io/zone"


def service(
    name: str = "web",
    *,
    namespace: str = "default",
    at: str | Sequence[str] | None = "10.96.0.10",
    ports: Sequence[str] = ("80",),
    type: str | None = None,
    affinity: str | None = None,
    affinity_timeout_seconds: int | None = None,
    internal_traffic_policy: str | None = None,
    external_traffic_policy: str | None = None,
    external_ips: Sequence[str] = (),
    ingress: Sequence[str | objects.LoadBalancerIngress] = (),
    source_ranges: object = None,
    health_check_node_port: int | None = None,
    created: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> objects.Service:
    """A Service; `at` is its clusterIP, or a list for its clusterIPs; `ingress` is its load balancer's."""
    config = None
    if affinity_timeout_seconds is not None:
        config = objects.SessionAffinityConfig(objects.ClientIPConfig(affinity_timeout_seconds))
    return objects.Service(
        _metadata(name, namespace, labels, created, annotations),
        objects.ServiceSpec(
            type=type,
            cluster_ip=at if isinstance(at, str) else None,
            cluster_ips=None if at is None or isinstance(at, str) else list(at),
            ports=[_service_port(text) for text in ports],
            session_affinity=affinity,
            session_affinity_config=config,
            internal_traffic_policy=internal_traffic_policy,
            external_traffic_policy=external_traffic_policy,
            external_ips=list(external_ips) or None,
            health_check_node_port=health_check_node_port,
            load_balancer_source_ranges=source_ranges,
        ),
        _load_balancer_status(ingress) if ingress else None,
    )


def endpoint_slice(
    name: str = "web-1",
    *,
    of: str | None = "web",
    namespace: str = "default",
    endpoints: Sequence[str | objects.SliceEndpoint] = ("10.244.1.2",),
    ports: Sequence[str] = ("8080",),
    address_type: str = "IPv4",
) -> objects.EndpointSlice:
    """A slice of the Service `of`; an endpoint that is a plain address is ready and says nothing else."""
    labels = {} if of is None else {SERVICE_NAME_LABEL: of}
    return objects.EndpointSlice(
        _metadata(name, namespace, labels),
        address_type,
        [endpoint(item) if isinstance(item, str) else item for item in endpoints],
        [_endpoint_port(text) for text in ports],
    )


def endpoint(
    *addresses: str,
    ready: bool | None = None,
    serving: bool | None = None,
    terminating: bool | None = None,
    node: str | None = None,
    for_nodes: Sequence[str] = (),
    for_zones: Sequence[str] = (),
) -> objects.SliceEndpoint:
    """One entry of a slice; conditions and hints are absent where nothing is said."""
    stated = (ready, serving, terminating) != (None, None, None)
    hints = objects.EndpointHints(
        [objects.ForNode(name) for name in for_nodes] or None,
        [objects.ForZone(name) for name in for_zones] or None,
    )
    return objects.SliceEndpoint(
        list(addresses),
        objects.EndpointConditions(ready, serving, terminating) if stated else None,
        hints if for_nodes or for_zones else None,
        node_name=node,
    )


def node(
    name: str = "node-1",
    *,
    zone: str | None = None,
    internal_ips: Sequence[str] = (),
    other_addresses: Sequence[tuple[str, str]] = (),
    pod_cidrs: Sequence[str] = (),
) -> objects.Node:
    """A Node; `other_addresses` are pairs of type and address, listed before the InternalIPs."""
    addresses = [*other_addresses, *(("InternalIP", address) for address in internal_ips)]
    return objects.Node(
        _metadata(name, "", {ZONE_LABEL: zone} if zone is not None else None),
        objects.NodeSpec(pod_cidrs=list(pod_cidrs)) if pod_cidrs else None,
        objects.NodeStatus([objects.NodeAddress(type, address) for type, address in addresses]),
    )


def _metadata(
    name: str,
    namespace: str,
    labels: Mapping[str, str] | None,
    created: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> objects.ObjectMeta:
    return objects.ObjectMeta(
        name,
        namespace,
        creation_timestamp=created,
        labels=dict(labels) if labels else None,
        annotations=dict(annotations) if annotations else None,
    )


def _load_balancer_status(ingress: Sequence[str | objects.LoadBalancerIngress]) -> objects.ServiceStatus:
    entries = [objects.LoadBalancerIngress(item) if isinstance(item, str) else item for item in ingress]
    return objects.ServiceStatus(objects.LoadBalancerStatus(entries))


def _service_port(text: str) -> objects.ServicePortSpec:
    name, number, node_port, protocol = _read_port(text)
    return objects.ServicePortSpec(number, name, protocol, node_port)


def _endpoint_port(text: str) -> objects.EndpointPort:
    name, number, _, protocol = _read_port(text)
    return objects.EndpointPort(name, number, protocol)


def _read_port(text: str) -> tuple[str | None, int, int | None, str | None]:
    """`dns:53@30053/UDP`, `dns:53`, `53/UDP`, `53@30053` or `53`."""
    rest, _, protocol = text.partition("/")
    rest, _, node_port = rest.partition("@")
    name, _, number = rest.rpartition(":")
    return name or None, int(number), int(node_port) if node_port else None, protocol or None
