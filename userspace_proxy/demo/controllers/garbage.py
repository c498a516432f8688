"""Objects that nobody needs any more: of owners that are gone, and pods that no kubelet will ever end.

The mirrors may be behind each other, so whoever seems to be gone is asked for before anything is deleted.
Source: "Garbage Collection" in the Kubernetes documentation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from userspace_proxy.demo.api_resources import Resource
from userspace_proxy.demo.controllers.objects import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    NODES,
    PODS,
    SERVICES,
    Deployment,
    EndpointSlice,
    Metadata,
    OwnerReference,
    Pod,
    Service,
)
from userspace_proxy.demo.controllers.writes import Delete, Patch, Plan, Write, disowned, reference
from userspace_proxy.demo.notices import Reference

FOREGROUND: Final = "foregroundDeletion"
ORPHAN: Final = "orphan"
MOST_FINISHED_PODS: Final = 100

_Owner: TypeAlias = Deployment | Service
_Dependent: TypeAlias = Pod | EndpointSlice

_OWNERS: Final[Mapping[tuple[str, str], Resource[Any]]] = {
    (resource.group_version, resource.kind): resource for resource in (DEPLOYMENTS, SERVICES)
}


def plan_owner_collection(owners: Iterable[_Owner], dependents: Iterable[_Dependent]) -> Plan:
    """What of Deployments and Services that are gone, or about to go, is still there."""
    by_uid = {owner.metadata.uid: owner for owner in owners}
    dependents_of: dict[str, list[_Dependent]] = defaultdict(list)
    writes: list[Write] = []
    for dependent in dependents:
        references = [
            each
            for each in dependent.metadata.owner_references or ()
            if (each.api_version, each.kind) in _OWNERS
        ]
        for each in references:
            dependents_of[each.uid].append(dependent)
        is_abandoned = references and not any(each.uid in by_uid for each in references)
        if is_abandoned and dependent.metadata.deletion_timestamp is None:
            writes.append(_delete(dependent, references[0]))
    for owner in by_uid.values():
        if owner.metadata.deletion_timestamp is not None:
            writes.extend(_finish(owner, dependents_of[owner.metadata.uid]))
    return Plan(writes)


def plan_pod_collection(pods: Iterable[Pod], node_names: Iterable[str]) -> Plan:
    """Pods on nodes that are gone, pods that end before they had one, and too many that have finished."""
    known = set(node_names)
    writes: list[Write] = []
    finished = []
    for pod in pods:
        node = pod.spec.node_name
        if node and node not in known:
            missing = Reference(NODES.group_version, NODES.kind, "", node, "")
            writes.append(
                Delete(
                    resource=PODS,
                    metadata=pod.metadata,
                    subject=reference(PODS, pod.metadata),
                    grace_seconds=0,
                    unless_there=(NODES, missing),
                )
            )
        elif not node and pod.is_terminating:
            writes.append(
                Delete(
                    resource=PODS,
                    metadata=pod.metadata,
                    subject=reference(PODS, pod.metadata),
                    grace_seconds=0,
                )
            )
        elif pod.is_finished and not pod.is_terminating:
            finished.append(pod)
    finished.sort(key=lambda pod: str(pod.metadata.creation_timestamp or ""))
    writes.extend(_delete(pod) for pod in finished[: max(0, len(finished) - MOST_FINISHED_PODS)])
    return Plan(writes)


def _finish(owner: _Owner, dependents: list[_Dependent]) -> Iterator[Write]:
    """Do what an owner's finalizers wait for, and then take them away."""
    finalizers = owner.metadata.finalizers or []
    resource = DEPLOYMENTS if isinstance(owner, Deployment) else SERVICES
    if ORPHAN in finalizers and dependents:
        for dependent in dependents:
            yield Patch(
                resource=_resource_of(dependent),
                metadata=dependent.metadata,
                body=disowned(dependent.metadata, owner.metadata.uid),
                subject=reference(resource, owner.metadata),
            )
    elif FOREGROUND in finalizers and dependents:
        for dependent in dependents:
            if dependent.metadata.deletion_timestamp is None:
                yield _delete(dependent)
    elif {ORPHAN, FOREGROUND} & set(finalizers):
        left = [each for each in finalizers if each not in (ORPHAN, FOREGROUND)]
        yield Patch(
            resource=resource,
            metadata=owner.metadata,
            body={"metadata": {"finalizers": left or None}},
            subject=reference(resource, owner.metadata),
        )


def _delete(dependent: _Dependent, owner: OwnerReference | None = None) -> Delete:
    """Ask for its end; with `owner` only if that is gone."""
    metadata: Metadata = dependent.metadata
    condition = None
    if owner is not None:
        named = Reference(owner.api_version, owner.kind, metadata.namespace, owner.name, owner.uid)
        condition = (_OWNERS[owner.api_version, owner.kind], named)
    resource = _resource_of(dependent)
    return Delete(
        resource=resource,
        metadata=metadata,
        subject=reference(resource, metadata),
        unless_there=condition,
    )


def _resource_of(dependent: _Dependent) -> Resource[Any]:
    return PODS if isinstance(dependent, Pod) else ENDPOINT_SLICES
