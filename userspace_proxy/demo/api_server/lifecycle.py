"""An object's life by a request: made, changed, deleted at once or first marked and later gone.

Pure: time and uid are arguments. What the server alone decides - uid, times, generation, which half of an
object a request may touch - is decided here. Source: https://kubernetes.io/docs/concepts/architecture/garbage-collection/
and https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import Final

import msgspec

from userspace_proxy.demo.api_server.kinds import NAMESPACES, NODES, PODS, Resource
from userspace_proxy.demo.api_server.objects import Object, timestamp
from userspace_proxy.demo.api_server.statuses import Cause, conflict, forbidden, is_forbidden, quoted

LASTING_NAMESPACES: Final = ("default", "kube-public", "kube-system")
NAMESPACE_FINALIZER: Final = "kubernetes"
FOREGROUND: Final = "foregroundDeletion"
ORPHAN: Final = "orphan"
GRACE_SECONDS: Final = 30
MOST_GRACE_SECONDS: Final = 10 * 365 * 86_400
"""More than anybody waits for; and a moment that there is."""


_KEPT_METADATA: Final = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
)
_DROPPED_METADATA: Final = ("managedFields", "selfLink")
_SERVERS_METADATA: Final = (*_KEPT_METADATA, "resourceVersion")


class Part(Enum):
    """The half of an object that a request writes; the other stays as it was."""

    MAIN = ""
    STATUS = "status"
    FINALIZE = "finalize"


def created(resource: Resource, item: Object, now: datetime, uid: str) -> Object:
    """A new object as it begins, before defaults."""
    metadata = {
        name: value
        for name, value in item["metadata"].items()
        if name not in (*_SERVERS_METADATA, *_DROPPED_METADATA)
    }
    metadata |= {"uid": uid, "creationTimestamp": timestamp(now)}
    if resource.has_generation:
        metadata["generation"] = 1
    made: Object = {**item, "metadata": metadata}
    if resource.has_status and resource is not NODES:  # a node says its state as it registers
        made.pop("status", None)
    if resource is NAMESPACES:
        finalizers = made.get("spec", {}).get("finalizers", [])
        made["spec"] = {"finalizers": list(dict.fromkeys((*finalizers, NAMESPACE_FINALIZER)))}
    return made


def updated(resource: Resource, before: Object, after: Object, part: Part) -> Object:
    """An object with the part that a request may write; `is_over` says whether that was its end."""
    metadata = dict(after["metadata"])
    for name in (*_SERVERS_METADATA, *_DROPPED_METADATA):
        metadata.pop(name, None)
    metadata |= {name: before["metadata"][name] for name in _SERVERS_METADATA if name in before["metadata"]}
    match part:
        case Part.MAIN:
            result = {**after, "metadata": metadata}
            if resource.has_status:
                result.pop("status", None)
                if "status" in before:
                    result["status"] = before["status"]
            if resource is NAMESPACES:
                result["spec"] = before.get("spec", {})
        case Part.STATUS:
            result = {**before, "metadata": metadata}
            result.pop("status", None)
            if "status" in after:
                result["status"] = after["status"]
        case Part.FINALIZE:
            result = {**before, "spec": after.get("spec", {})}
    if resource.has_generation and _substance(result) != _substance(before):
        result["metadata"] = _next_generation(result["metadata"])
    return result


def _substance(item: Object) -> Object:
    """What of an object counts as its specification."""
    return {name: value for name, value in item.items() if name not in ("metadata", "status")}


def _next_generation(metadata: Object) -> Object:
    return {**metadata, "generation": metadata.get("generation", 0) + 1}


def finalizer_causes(before: Object, after: Object) -> list[Cause]:
    """Nobody holds up a deletion that has begun."""
    if "deletionTimestamp" not in before["metadata"]:
        return []
    known = before["metadata"].get("finalizers", [])
    new = [name for name in after["metadata"].get("finalizers", ()) if name not in known]
    detail = "no new finalizers can be added if the object is being deleted, found new finalizers "
    return [is_forbidden("metadata.finalizers", detail + quoted(new))] if new else []


def is_over(resource: Resource, item: Object) -> bool:
    """Whether a deleted object has nothing left to wait for."""
    metadata = item["metadata"]
    if "deletionTimestamp" not in metadata or metadata.get("finalizers"):
        return False
    if resource is NAMESPACES and item.get("spec", {}).get("finalizers"):
        return False
    return not metadata.get("deletionGracePeriodSeconds")


class Preconditions(msgspec.Struct, frozen=True, rename="camel"):
    """What has to be so for a deletion to be done."""

    uid: str | None = None
    resource_version: str | None = None


class DeleteOptions(msgspec.Struct, frozen=True, rename="camel"):
    """How a request wants an object deleted."""

    grace_period_seconds: int | None = None
    propagation_policy: str | None = None
    orphan_dependents: bool | None = None
    preconditions: Preconditions | None = None
    dry_run: list[str] | None = None

    @property
    def finalizer(self) -> str | None:
        """What holds the object until its dependents are gone, or let go."""
        if self.propagation_policy == "Foreground":
            return FOREGROUND
        return ORPHAN if self.propagation_policy == "Orphan" or self.orphan_dependents else None


def deleted(resource: Resource, before: Object, options: DeleteOptions, now: datetime) -> Object | None:
    """What a deletion leaves of an object: None, or the object marked, until others have done their part.

    Raises StatusError where it is not allowed.
    """
    name = before["metadata"]["name"]
    _check_preconditions(resource, before, options.preconditions)
    if resource is NAMESPACES and name in LASTING_NAMESPACES:
        raise forbidden(resource, name, "this namespace may not be deleted")
    item = {**before, "metadata": dict(before["metadata"])}
    metadata = item["metadata"]
    if options.finalizer and options.finalizer not in metadata.get("finalizers", ()):
        metadata["finalizers"] = [*metadata.get("finalizers", ()), options.finalizer]
    grace = _grace_seconds(before, options) if resource is PODS else 0
    if "deletionTimestamp" not in metadata or grace < metadata.get("deletionGracePeriodSeconds", 0):
        metadata["deletionTimestamp"] = timestamp(now + timedelta(seconds=grace))
        metadata["deletionGracePeriodSeconds"] = grace
        if resource.has_generation:
            item["metadata"] = _next_generation(metadata)
    if resource is NAMESPACES:
        item["status"] = {**item.get("status", {}), "phase": "Terminating"}
    return None if is_over(resource, item) else item


def _check_preconditions(resource: Resource, item: Object, preconditions: Preconditions | None) -> None:
    if preconditions is None:
        return
    metadata = item["metadata"]
    for word, wanted, field in (
        ("UID", preconditions.uid, "uid"),
        ("ResourceVersion", preconditions.resource_version, "resourceVersion"),
    ):
        if wanted is not None and wanted != metadata[field]:
            raise conflict(
                resource,
                metadata["name"],
                f"Precondition failed: {word} in precondition: {wanted}, "
                f"{word} in object meta: {metadata[field]}",
            )


def _grace_seconds(pod: Object, options: DeleteOptions) -> int:
    """How long a pod has to end. One that runs nowhere needs no time."""
    spec, status = pod.get("spec", {}), pod.get("status", {})
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    usual: int = spec.get("terminationGracePeriodSeconds", GRACE_SECONDS)
    asked = options.grace_period_seconds
    return min(max(0, usual if asked is None else asked), MOST_GRACE_SECONDS)
