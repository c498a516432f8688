"""Endpoints, the older and simpler form of what EndpointSlices say, for who still looks at it.

One object a Service, of its first family, with the addresses that are ready apart from the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from userspace_proxy.demo.api_resources import JsonObject
from userspace_proxy.demo.controllers.endpoints import (
    endpoints_by_ports,
    families_of,
    has_endpoints_of_pods,
    selected_pods,
)
from userspace_proxy.demo.controllers.objects import (
    ENDPOINTS,
    SERVICES,
    Endpoint,
    EndpointAddress,
    Endpoints,
    EndpointSubset,
    Node,
    Pod,
    Service,
)
from userspace_proxy.demo.controllers.writes import Create, Delete, Patch, Plan, Write, reference

MANAGED_BY: Final = "endpoints.kubernetes.io/managed-by"
OUR_NAME: Final = "endpoint-controller"
MOST_ADDRESSES: Final = 1000


def plan_endpoints(
    services: Iterable[Service],
    pods: Sequence[Pod],
    nodes: Mapping[str, Node],
    endpoints: Mapping[tuple[str, str], Endpoints],
) -> Plan:
    """What is due for all Services; Endpoints that are not ours are left alone, whatever they are called."""
    writes: list[Write] = []
    in_use = set()
    for service in services:
        if has_endpoints_of_pods(service):
            key = service.metadata.namespace, service.metadata.name
            in_use.add(key)
            writes.extend(_plan_service(service, pods, nodes, endpoints.get(key)))
    writes.extend(
        Delete(resource=ENDPOINTS, metadata=there.metadata, subject=reference(ENDPOINTS, there.metadata))
        for key, there in endpoints.items()
        if key not in in_use and (there.metadata.labels or {}).get(MANAGED_BY) == OUR_NAME
    )
    return Plan(writes)


def _plan_service(
    service: Service, pods: Sequence[Pod], nodes: Mapping[str, Node], there: Endpoints | None
) -> Iterator[Write]:
    family = families_of(service)[0]
    groups = endpoints_by_ports(service, selected_pods(service, pods), nodes, family)
    subsets = [
        EndpointSubset(
            _addresses(endpoint for endpoint in group if _is_ready(endpoint)),
            _addresses(endpoint for endpoint in group if not _is_ready(endpoint)),
            list(ports) or None,
        )
        for ports, group in sorted(groups.items(), key=lambda item: [port.port or 0 for port in item[0]])
    ]
    labels = {**(service.metadata.labels or {}), MANAGED_BY: OUR_NAME}
    subject = reference(SERVICES, service.metadata)
    if there is None:
        metadata: JsonObject = {
            "name": service.metadata.name,
            "namespace": service.metadata.namespace,
            "labels": labels,
        }
        yield Create(
            resource=ENDPOINTS,
            namespace=service.metadata.namespace,
            body={"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets},
            subject=subject,
            failure_reason="FailedToCreateEndpoint",
        )
    elif (there.subsets or []) != subsets or there.metadata.labels != labels:
        removed = dict.fromkeys(there.metadata.labels or {})
        yield Patch(
            resource=ENDPOINTS,
            metadata=there.metadata,
            body={"metadata": {"labels": {**removed, **labels}}, "subsets": subsets},
            subject=subject,
            failure_reason="FailedToUpdateEndpoint",
        )


def _addresses(endpoints: Iterable[Endpoint]) -> list[EndpointAddress] | None:
    """As the API sorts them: by address."""
    addresses = [
        EndpointAddress(endpoint.addresses[0], endpoint.hostname, endpoint.node_name, endpoint.target_ref)
        for endpoint in endpoints
    ]
    return sorted(addresses, key=lambda address: address.ip)[:MOST_ADDRESSES] or None


def _is_ready(endpoint: Endpoint) -> bool:
    return endpoint.conditions is not None and bool(endpoint.conditions.ready)
