"""Addresses for Services of type LoadBalancer, from pools, and the nodes to which their traffic may go.

An address is known by standing in the Service's status, and free again when the Service is gone or of another
type. A Service keeps the one it has; who asks for one gets it if nobody else has it.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from userspace_proxy.core.ip_addresses import IPAddress, IPNetwork
from userspace_proxy.demo.controllers.endpoint_slices import SERVICE_NAME
from userspace_proxy.demo.controllers.endpoints import families_of
from userspace_proxy.demo.controllers.objects import (
    SERVICES,
    EndpointSlice,
    LoadBalancerIngress,
    Node,
    Service,
)
from userspace_proxy.demo.controllers.writes import Patch, Plan, Say, Write, reference
from userspace_proxy.demo.notices import Notice

ASKED_ADDRESSES: Final = "demo.userspace-proxy.io/load-balancer-ips"
"""Annotation: the addresses that a Service wants, with commas between; `loadBalancerIP` is only one."""
EXCLUDED: Final = "node.kubernetes.io/exclude-from-external-load-balancers"

Announcement: TypeAlias = Mapping[str, frozenset[str]]
"""For each address the names of the nodes that take its traffic."""


def plan_load_balancers(services: Iterable[Service], pools: Sequence[IPNetwork]) -> Plan:
    """Give addresses to who should have some and has none, and take back what is not needed any more."""
    ordered = sorted(services, key=_seniority)
    balanced = [service for service in ordered if _is_balanced(service)]
    taken: dict[IPAddress, str] = {}
    for service in balanced:
        for address in _present(service):
            if _may_keep(service, address, pools):
                taken.setdefault(address, service.metadata.uid)
    writes: list[Write] = []
    for service in balanced:
        writes.extend(_plan_service(service, pools, taken))
    writes.extend(
        _write(service, ())
        for service in ordered
        if not _is_balanced(service) and any(_pool_of(address, pools) for address in _present(service))
    )
    return Plan(writes)


def announcement(
    services: Iterable[Service], slices: Iterable[EndpointSlice], nodes: Iterable[Node]
) -> Announcement:
    """Which nodes should get the traffic to each address that a Service has.

    All that are ready; with externalTrafficPolicy Local those that have a ready endpoint, which is when their
    healthCheckNodePort answers 200. The EndpointSlices tell, so that no node need be reachable from here.
    """
    ready = {
        node.metadata.name for node in nodes if node.is_ready and EXCLUDED not in (node.metadata.labels or {})
    }
    local: dict[tuple[str, str], set[str]] = defaultdict(set)
    for slice_ in slices:
        service_name = (slice_.metadata.labels or {}).get(SERVICE_NAME, "")
        local[slice_.metadata.namespace, service_name].update(
            endpoint.node_name
            for endpoint in slice_.endpoints or ()
            if endpoint.node_name and (endpoint.conditions is None or endpoint.conditions.ready is not False)
        )
    announced: dict[str, frozenset[str]] = {}
    for service in services:
        if _is_balanced(service):
            key = service.metadata.namespace, service.metadata.name
            is_local = service.spec.external_traffic_policy == "Local"
            takers = ready & local[key] if is_local else ready
            announced.update((str(address), frozenset(takers)) for address in _present(service))
    return announced


def _is_balanced(service: Service) -> bool:
    return (
        service.spec.type == "LoadBalancer"
        and not service.spec.load_balancer_class
        and service.metadata.deletion_timestamp is None
    )


def _plan_service(
    service: Service, pools: Sequence[IPNetwork], taken: dict[IPAddress, str]
) -> Iterator[Write]:
    uid = service.metadata.uid
    asked = _asked(service)
    addresses: list[IPAddress] = []
    for family in families_of(service):
        version = 4 if family == "IPv4" else 6
        present = [address for address in _present(service) if address.version == version]
        own = [address for address in present if taken.get(address) == uid]
        wanted = [address for address in asked if address.version == version]
        chosen = own[0] if own else _free_address(wanted, version, pools, taken)
        if chosen is None:
            what = f"{wanted[0]} is not to be had" if wanted else f"no {family} address is left"
            notice = Notice("AllocationFailed", f"{what} in {_shown(pools)}", is_warning=True)
            yield Say(subject=reference(SERVICES, service.metadata), notice=notice)
            continue
        taken[chosen] = uid
        addresses.append(chosen)
    if addresses != _present(service):
        yield _write(service, addresses)


def _free_address(
    wanted: Sequence[IPAddress], version: int, pools: Sequence[IPNetwork], taken: Mapping[IPAddress, str]
) -> IPAddress | None:
    if wanted:
        is_free = _pool_of(wanted[0], pools) is not None and wanted[0] not in taken
        return wanted[0] if is_free else None
    candidates = (host for pool in pools if pool.version == version for host in pool.hosts())
    return next((address for address in candidates if address not in taken), None)


def _may_keep(service: Service, address: IPAddress, pools: Sequence[IPNetwork]) -> bool:
    asked = [wanted for wanted in _asked(service) if wanted.version == address.version]
    return _pool_of(address, pools) is not None and (not asked or address == asked[0])


def _asked(service: Service) -> list[IPAddress]:
    annotated = (service.metadata.annotations or {}).get(ASKED_ADDRESSES)
    texts = annotated.split(",") if annotated is not None else [service.spec.load_balancer_ip or ""]
    return [address for text in texts if (address := _parsed(text.strip())) is not None]


def _present(service: Service) -> list[IPAddress]:
    status = service.status.load_balancer
    ingress = (status.ingress if status is not None else None) or ()
    return [address for entry in ingress if (address := _parsed(entry.ip or "")) is not None]


def _parsed(text: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _pool_of(address: IPAddress, pools: Sequence[IPNetwork]) -> IPNetwork | None:
    return next((pool for pool in pools if address.version == pool.version and address in pool), None)


def _write(service: Service, addresses: Sequence[IPAddress]) -> Patch:
    shown = ", ".join(map(str, addresses))
    ingress = [LoadBalancerIngress(str(address), ip_mode="VIP") for address in addresses]
    return Patch(
        resource=SERVICES,
        metadata=service.metadata,
        body={"status": {"loadBalancer": {"ingress": ingress or None}}},
        subject=reference(SERVICES, service.metadata),
        subresource="status",
        notice=(
            Notice("EnsuredLoadBalancer", f"Assigned {shown}")
            if addresses
            else Notice("DeletedLoadBalancer", "Took the addresses back")
        ),
    )


def _seniority(service: Service) -> tuple[float, str]:
    created = service.metadata.creation_timestamp
    return created.timestamp() if created is not None else 0.0, service.metadata.uid


def _shown(pools: Sequence[IPNetwork]) -> str:
    return ", ".join(map(str, pools)) or "an empty pool"
