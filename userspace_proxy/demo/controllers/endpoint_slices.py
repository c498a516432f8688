"""EndpointSlices: the pods behind each Service, in slices that change as little as can be.

An endpoint stays in the slice in which it is. New ones fill what room there is, first in slices that are
written anyway; only then a slice is made.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from userspace_proxy.demo.api_resources import JsonObject, timestamp
from userspace_proxy.demo.controllers.endpoints import (
    Ports,
    endpoints_by_ports,
    families_of,
    has_endpoints_of_pods,
    selected_pods,
)
from userspace_proxy.demo.controllers.names import name_suffix
from userspace_proxy.demo.controllers.objects import (
    ENDPOINT_SLICES,
    SERVICES,
    Endpoint,
    EndpointSlice,
    Node,
    Pod,
    Service,
)
from userspace_proxy.demo.controllers.writes import (
    Create,
    Delete,
    Patch,
    Plan,
    Write,
    controlled_by,
    reference,
)

SERVICE_NAME: Final = "kubernetes.io/service-name"
HEADLESS: Final = "service.kubernetes.io/headless"
MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
OUR_NAME: Final = "endpointslice-controller.k8s.io"
LAST_CHANGE: Final = "endpoints.kubernetes.io/last-change-trigger-time"
MOST_ENDPOINTS: Final = 100


@dataclass(slots=True, eq=False)
class _Draft:
    """A slice as it is to be; `was` is what there is of it."""

    endpoints: list[Endpoint]
    was: EndpointSlice | None = None

    @property
    def is_changed(self) -> bool:
        return self.was is None or self.endpoints != (self.was.endpoints or [])

    @property
    def room(self) -> int:
        return MOST_ENDPOINTS - len(self.endpoints)


@dataclass(slots=True)
class _Wanted:
    """What the slices of one family and one set of port numbers should hold, by address."""

    endpoints: dict[str, Endpoint]
    there: list[EndpointSlice] = field(default_factory=list)


def plan_endpoint_slices(
    services: Iterable[Service],
    pods: Iterable[Pod],
    nodes: Mapping[str, Node],
    slices: Iterable[EndpointSlice],
    chance: random.Random,
) -> Plan:
    """What is due for all Services."""
    of_service: dict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
    for slice_ in slices:
        labels = slice_.metadata.labels or {}
        if labels.get(MANAGED_BY) == OUR_NAME:
            of_service[slice_.metadata.namespace, labels.get(SERVICE_NAME, "")].append(slice_)
    in_namespace: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        in_namespace[pod.metadata.namespace].append(pod)
    writes: list[Write] = []
    for service in services:
        if has_endpoints_of_pods(service):
            there = of_service.pop((service.metadata.namespace, service.metadata.name), [])
            candidates = in_namespace[service.metadata.namespace]
            writes.extend(_plan_service(service, candidates, nodes, there, chance))
    # Of Services that are gone, or whose endpoints are not ours to write any more.
    writes.extend(_delete(slice_) for there in of_service.values() for slice_ in there)
    return Plan(writes)


def _plan_service(
    service: Service,
    pods: Iterable[Pod],
    nodes: Mapping[str, Node],
    there: Sequence[EndpointSlice],
    chance: random.Random,
) -> Iterator[Write]:
    selected = selected_pods(service, pods)
    by_address = {ip.ip: pod for pod in selected for ip in pod.status.pod_ips or ()}
    by_address |= {pod.status.pod_ip: pod for pod in selected if pod.status.pod_ip}
    wanted: dict[tuple[str, Ports], _Wanted] = {}
    for family in families_of(service):
        groups = endpoints_by_ports(service, selected, nodes, family)
        for ports, endpoints in groups.items():
            wanted[family, ports] = _Wanted({endpoint.addresses[0]: endpoint for endpoint in endpoints})
        if not groups:
            wanted[family, ()] = _Wanted({})  # One empty slice says that there is nobody.
    needless: list[EndpointSlice] = []
    for slice_ in there:
        of_its_kind = wanted.get((slice_.address_type, tuple(slice_.ports or ())))
        (of_its_kind.there if of_its_kind is not None else needless).append(slice_)
    for (family, ports), group in wanted.items():
        drafts = _drafts(group)
        kept = [draft for draft in drafts if draft.endpoints] or drafts[:1]
        needless.extend(draft.was for draft in drafts if draft.was is not None and draft not in kept)
        for draft in kept:
            yield from _write(service, family, ports, draft, by_address, chance)
    # Last, so that an endpoint that goes over to another slice is never in none.
    for slice_ in needless:
        yield _delete(slice_)


def _drafts(group: _Wanted) -> list[_Draft]:
    """Spread what is wanted over the slices that are there, and over new ones where they are full."""
    left = dict(group.endpoints)
    drafts: list[_Draft] = []
    for slice_ in sorted(group.there, key=lambda slice_: slice_.metadata.name):
        before = slice_.endpoints or []
        # An address that stands in two slices is kept in the first.
        kept = [left.pop(address) for old in before if (address := old.addresses[0]) in left]
        drafts.append(_Draft(kept, slice_))
    more = list(left.values())
    for draft in sorted(drafts, key=lambda draft: (not draft.is_changed, draft.room)):
        added, more = more[: draft.room], more[draft.room :]
        draft.endpoints.extend(added)
    while more or not drafts:
        added, more = more[:MOST_ENDPOINTS], more[MOST_ENDPOINTS:]
        drafts.append(_Draft(added))
    return drafts


def _write(
    service: Service,
    family: str,
    ports: Ports,
    draft: _Draft,
    pods: Mapping[str, Pod],
    chance: random.Random,
) -> Iterator[Write]:
    labels = _labels(service)
    was = draft.was
    if was is not None and not draft.is_changed and was.metadata.labels == labels:
        return
    subject = reference(SERVICES, service.metadata)
    annotations = {LAST_CHANGE: _changed_at(service, draft, pods)}
    if was is None:
        metadata: JsonObject = {
            "name": f"{service.metadata.name}-{name_suffix(chance)}",
            "namespace": service.metadata.namespace,
            "labels": labels,
            "annotations": {name: value for name, value in annotations.items() if value is not None},
            "ownerReferences": [controlled_by(SERVICES, service.metadata)],
        }
        body = {
            "apiVersion": ENDPOINT_SLICES.group_version,
            "kind": ENDPOINT_SLICES.kind,
            "metadata": metadata,
            "addressType": family,
            "endpoints": draft.endpoints,
            "ports": ports,
        }
        yield Create(
            resource=ENDPOINT_SLICES,
            namespace=service.metadata.namespace,
            body=body,
            subject=subject,
            failure_reason="FailedToCreateEndpointSlice",
        )
        return
    removed = dict.fromkeys(was.metadata.labels or {})
    yield Patch(
        resource=ENDPOINT_SLICES,
        metadata=was.metadata,
        body={
            "metadata": {"labels": {**removed, **labels}, "annotations": annotations},
            "endpoints": draft.endpoints,
        },
        subject=subject,
        failure_reason="FailedToUpdateEndpointSlice",
    )


def _labels(service: Service) -> dict[str, str]:
    """The Service's own, and those by which a slice is found."""
    return {
        **(service.metadata.labels or {}),
        SERVICE_NAME: service.metadata.name,
        MANAGED_BY: OUR_NAME,
        **({HEADLESS: ""} if service.is_headless else {}),
    }


def _changed_at(service: Service, draft: _Draft, pods: Mapping[str, Pod]) -> str | None:
    """When that happened because of which the slice changes: the first of what its pods went through.

    Nothing before the Service was there. None if pods have only gone: when, nobody knows any more.
    """
    before = (draft.was.endpoints or []) if draft.was is not None else []
    changed = [pods.get(endpoint.addresses[0]) for endpoint in draft.endpoints if endpoint not in before]
    moments = [moment for pod in changed if pod is not None and (moment := _changed(pod)) is not None]
    if not moments:
        return None
    return timestamp(max(min(moments), service.metadata.creation_timestamp or min(moments)))


def _changed(pod: Pod) -> datetime | None:
    """The pod's last change that concerns its endpoints."""
    asked_to_end = pod.metadata.deletion_timestamp
    if asked_to_end is not None:
        return asked_to_end - timedelta(seconds=pod.metadata.deletion_grace_period_seconds or 0)
    condition = pod.ready_condition
    return condition.last_transition_time if condition is not None else None


def _delete(slice_: EndpointSlice) -> Delete:
    return Delete(
        resource=ENDPOINT_SLICES,
        metadata=slice_.metadata,
        subject=reference(ENDPOINT_SLICES, slice_.metadata),
    )
