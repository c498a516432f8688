"""Which pods are behind a Service, and how they can be reached: for EndpointSlices and Endpoints alike.

Source: "EndpointSlices" and "Service" in the Kubernetes documentation.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, TypeAlias

from userspace_proxy.core.objects import EndpointConditions, EndpointHints, ForNode, ForZone
from userspace_proxy.demo.controllers.label_selectors import is_subset
from userspace_proxy.demo.controllers.objects import (
    Endpoint,
    EndpointPort,
    Node,
    Pod,
    Service,
    TargetReference,
)

ZONE: Final = "topology.kubernetes.io/zone"
FAMILIES: Final = ("IPv4", "IPv6")

Ports: TypeAlias = tuple[EndpointPort, ...]


def has_endpoints_of_pods(service: Service) -> bool:
    """Whether its endpoints are pods that it selects; else they are somebody else's to write."""
    return (
        bool(service.spec.selector)
        and service.spec.type != "ExternalName"
        and service.metadata.deletion_timestamp is None
    )


def families_of(service: Service) -> tuple[str, ...]:
    """The families of its endpoints, the first one first."""
    if service.spec.ip_families:
        return tuple(family for family in service.spec.ip_families if family in FAMILIES)
    addresses = service.spec.cluster_ips or [service.spec.cluster_ip or ""]
    return tuple(family for address in addresses if (family := family_of(address))) or FAMILIES[:1]


@lru_cache(maxsize=4096)
def family_of(address: str) -> str | None:
    """`IPv4` or `IPv6`; None for what is no address, such as the `None` of a headless Service."""
    try:
        return f"IPv{ipaddress.ip_address(address).version}"
    except ValueError:
        return None


def endpoints_by_ports(
    service: Service, pods: Iterable[Pod], nodes: Mapping[str, Node], family: str
) -> dict[Ports, list[Endpoint]]:
    """The endpoints of one family, those with the same port numbers together, in the order of `pods`.

    Pods without an address of the family, and those whose processes have ended for good, are none.
    """
    found: dict[Ports, list[Endpoint]] = defaultdict(list)
    for pod in pods:
        address = _address_of(pod, family)
        if address is not None and not pod.is_finished:
            found[_ports_of(service, pod)].append(_endpoint(service, pod, address, nodes))
    return found


def selected_pods(service: Service, pods: Iterable[Pod]) -> list[Pod]:
    """The pods of its namespace that a Service selects."""
    return [
        pod
        for pod in pods
        if pod.metadata.namespace == service.metadata.namespace
        and is_subset(service.spec.selector, pod.metadata.labels)
    ]


def _address_of(pod: Pod, family: str) -> str | None:
    addresses = [pod_ip.ip for pod_ip in pod.status.pod_ips or ()] or [pod.status.pod_ip or ""]
    return next((address for address in addresses if family_of(address) == family), None)


def _ports_of(service: Service, pod: Pod) -> Ports:
    """The Service's ports as numbers of this pod; what it has no number for is left out."""
    ports = []
    for port in service.spec.ports or ():
        protocol = port.protocol or "TCP"
        number = _number(port.target_port or port.port, protocol, pod)
        if number is not None:
            ports.append(EndpointPort(number, port.name or "", protocol, port.app_protocol))
    return tuple(ports)


def _number(target: int | str, protocol: str, pod: Pod) -> int | None:
    if isinstance(target, int):
        return target
    return next(
        (
            port.container_port
            for container in pod.spec.containers or ()
            for port in container.ports or ()
            if port.name == target and (port.protocol or "TCP") == protocol
        ),
        None,
    )


def _endpoint(service: Service, pod: Pod, address: str, nodes: Mapping[str, Node]) -> Endpoint:
    serving, terminating = pod.is_ready, pod.is_terminating
    ready = (serving and not terminating) or bool(service.spec.publish_not_ready_addresses)
    node = nodes.get(pod.spec.node_name or "")
    zone = (node.metadata.labels or {}).get(ZONE) if node is not None else None
    is_named = pod.spec.hostname and pod.spec.subdomain == service.metadata.name
    return Endpoint(
        [address],
        EndpointConditions(ready=ready, serving=serving, terminating=terminating),
        hostname=pod.spec.hostname if is_named else None,
        target_ref=TargetReference("Pod", pod.metadata.name, pod.metadata.namespace, pod.metadata.uid),
        node_name=pod.spec.node_name,
        zone=zone,
        hints=_hints(service.spec.traffic_distribution, pod.spec.node_name, zone) if ready else None,
    )


def _hints(distribution: str | None, node: str | None, zone: str | None) -> EndpointHints | None:
    """Whose traffic the endpoint should get: its own zone's, or its own node's (zones are said then too)."""
    zones = [ForZone(zone)] if zone else None
    match distribution:
        case "PreferClose" | "PreferSameZone":
            return EndpointHints(for_zones=zones) if zones else None
        case "PreferSameNode":
            return EndpointHints(for_zones=zones, for_nodes=[ForNode(node)] if node else None)
        case _:
            return None
