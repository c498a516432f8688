"""What a controller wants written, as values: its plan returns them, and `controller` carries them out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from userspace_proxy.demo.api_resources import JsonObject, Resource
from userspace_proxy.demo.controllers.objects import Metadata, OwnerReference
from userspace_proxy.demo.notices import Notice, Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What all requests have: `subject` is on whose behalf it is made, and whom its events are about.

    `notice` is said once it is done, and why it was refused under `failure_reason`, if there is one.
    """

    resource: Resource[Any]
    subject: Reference
    notice: Notice | None = None
    failure_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(_Request):
    """Make an object of `body`."""

    namespace: str
    body: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Post(_Request):
    """Post `body` to a subresource of an object that exists."""

    metadata: Metadata
    subresource: str
    body: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch(_Request):
    """Merge `body` (RFC 7396) into an object, if it is still in the version that `metadata` says."""

    metadata: Metadata
    body: JsonObject
    subresource: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(_Request):
    """Ask for an object's end. `unless_there`: only if that other object is really gone, asked for then."""

    metadata: Metadata
    grace_seconds: int | None = None
    unless_there: tuple[Resource[Any], Reference] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """Write nothing but an event, once as long as it is planned."""

    subject: Reference
    notice: Notice


Request: TypeAlias = Create | Post | Patch | Delete
Write: TypeAlias = Request | Say


@dataclass(frozen=True, slots=True)
class Plan:
    """What is due now, in order, and in how many seconds to look again although nothing changes."""

    writes: Sequence[Write] = ()
    again_in_seconds: float | None = None


def key_of(write: Write) -> Hashable:
    """What makes two writes of different plans the same attempt."""
    match write:
        case Create():
            return Create, write.resource.kind, write.subject
        case Post() | Patch():
            return type(write), write.resource.kind, write.metadata.uid, write.subresource
        case Delete():
            return Delete, write.resource.kind, write.metadata.uid
        case Say():
            return Say, write.subject, write.notice


def reference(resource: Resource[Any], metadata: Metadata) -> Reference:
    """What an event, an owner reference or an error calls an object by."""
    return Reference(resource.group_version, resource.kind, metadata.namespace, metadata.name, metadata.uid)


def controlled_by(resource: Resource[Any], metadata: Metadata) -> OwnerReference:
    """What makes an object one that a controller has made for `metadata`'s."""
    return OwnerReference(resource.group_version, resource.kind, metadata.name, metadata.uid, True, True)


def disowned(metadata: Metadata, owner_uid: str) -> JsonObject:
    """What to merge into an object so that it is not that owner's any more."""
    others = [each for each in metadata.owner_references or () if each.uid != owner_uid]
    return {"metadata": {"ownerReferences": others or None}}
