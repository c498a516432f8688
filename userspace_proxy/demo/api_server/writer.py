"""Requests that write: read by the kind's type, completed, allocated, checked, and then put into the store.

Each is a transition that the store carries out alone, so that two requests never give one address twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from userspace_proxy.demo.api_server import allocation, defaults, events, lifecycle, patches, scale, schemas
from userspace_proxy.demo.api_server.allocation import AllocationError, Ranges
from userspace_proxy.demo.api_server.decoding import FieldValidation, decode, read
from userspace_proxy.demo.api_server.kinds import (
    DEPLOYMENTS,
    EVENTS,
    NAMESPACES,
    NEW_EVENTS,
    PODS,
    SERVICES,
    Resource,
)
from userspace_proxy.demo.api_server.lifecycle import DeleteOptions, Part
from userspace_proxy.demo.api_server.objects import Key, Object, timestamp
from userspace_proxy.demo.api_server.schemas import DecodeError
from userspace_proxy.demo.api_server.service_changes import carry_over
from userspace_proxy.demo.api_server.statuses import (
    Cause,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    is_invalid,
    modified_meanwhile,
    not_found,
)
from userspace_proxy.demo.api_server.store import Store, Stored
from userspace_proxy.demo.api_server.validation import causes, identity_causes, metadata_causes

_SUFFIX_CHARACTERS: Final = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True, slots=True)
class Manner:
    """How a request wants to be carried out; a dry run decides all and writes nothing."""

    validation: FieldValidation = FieldValidation.WARN
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """An object after a write, and what is to be said besides."""

    stored: Stored
    warnings: tuple[str, ...] = ()


class Writer:
    """Writes to a store, in the name of whoever asks. `now`, `new_uid` and `chance` are the outside."""

    def __init__(
        self,
        store: Store,
        ranges: Ranges,
        *,
        most_events: int,
        now: Callable[[], datetime],
        new_uid: Callable[[], str],
        chance: random.Random,
    ) -> None:
        self._store = store
        self._ranges = ranges
        self._most_events = most_events
        self._now = now
        self._new_uid = new_uid
        self._chance = chance

    async def create(self, resource: Resource, namespace: str, body: Any, manner: Manner) -> Written:
        """Make a new object. Raises StatusError."""
        item, warnings = read(resource, body, manner.validation)
        metadata = item.setdefault("metadata", {})
        _settle_namespace(resource, metadata, namespace)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = self._generated_name(resource, namespace, metadata["generateName"])
        name = metadata.get("name", "")
        now = self._now()
        made = lifecycle.created(resource, item, now, self._new_uid())
        defaults.put_defaults(resource, made)

        def transition(before: Stored | None) -> Object:
            if resource.is_namespaced:
                self._check_namespace(resource, namespace, name)
            if before is not None:
                raise already_exists(resource, name)
            self._check(resource, made, None)
            return events.to_old(made) if resource is NEW_EVENTS else made

        stored = await self._store.write(resource, Key(namespace, name), transition, manner.is_dry_run)
        if resource.storage == EVENTS.storage:
            await self._forget_old_events()
        return Written(stored, warnings)

    async def replace(self, resource: Resource, key: Key, body: Any, part: Part, manner: Manner) -> Written:
        """Put an object, or its part, in place of what is there. Raises StatusError."""
        item, warnings = read(resource, body, manner.validation)
        metadata = item.setdefault("metadata", {})
        _settle_namespace(resource, metadata, key.namespace)
        if metadata.setdefault("name", key.name) != key.name:
            raise bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({key.name})"
            )
        stored = await self._update(resource, key, lambda _: item, part, manner)
        return Written(stored, warnings)

    async def patch(
        self, resource: Resource, key: Key, patch: Any, kind: str, part: Part, manner: Manner
    ) -> Written:
        """Change an object, or its part, by a patch of a kind (a media type). Raises StatusError."""
        warnings: list[str] = []

        def change(before: Object) -> Object:
            after = patches.patched(before, patch, kind, resource.schema)
            item, unknown = decode(resource, after)
            if unknown and manner.validation is FieldValidation.STRICT:
                detail = f"strict decoding error: {', '.join(unknown)}"
                raise invalid("", "", "", [is_invalid("patch", patch, detail)])
            if manner.validation is FieldValidation.WARN:
                warnings.extend(unknown)
            return {**item, "apiVersion": resource.group_version, "kind": resource.kind}

        stored = await self._update(resource, key, change, part, manner)
        return Written(stored, tuple(warnings))

    async def scale(self, key: Key, change: Callable[[Object], Any], manner: Manner) -> Written:
        """Change a Deployment's scale from what it is to what `change` makes of it. Raises StatusError."""

        def rescale(before: Object) -> Object:
            try:
                wanted = schemas.decode(change(scale.scale_of(before)), scale.SCHEMA).item
            except DecodeError as error:
                raise bad_request(f"this is no Scale: {error}") from error
            if found := scale.scale_causes(wanted):
                raise invalid("Scale", "autoscaling", key.name, found)
            version = wanted.get("metadata", {}).get("resourceVersion")
            if version not in (None, before["metadata"]["resourceVersion"]):
                raise modified_meanwhile(DEPLOYMENTS, key.name)
            return scale.scaled(before, wanted)

        return Written(await self._update(DEPLOYMENTS, key, rescale, Part.MAIN, manner))

    async def bind(self, key: Key, body: Any, manner: Manner) -> None:
        """Have a pod run on the node that a Binding names. Raises StatusError."""
        binding = body if isinstance(body, dict) else {}
        node, uid = (binding.get("target") or {}).get("name"), (binding.get("metadata") or {}).get("uid")
        if not isinstance(node, str) or not node:
            raise bad_request("a Binding needs the name of a node in target.name")

        def transition(stored: Stored | None) -> Object:
            if stored is None:
                raise not_found(PODS, key.name)
            pod = stored.read()
            if uid not in (None, "", pod["metadata"]["uid"]):
                raise conflict(PODS, key.name, f"it is another pod than the one with the UID {uid}")
            if "deletionTimestamp" in pod["metadata"]:
                why = f"pod {key.name} is being deleted, cannot be assigned to a host"
                raise conflict(PODS, key.name, why)
            if there := pod["spec"].get("nodeName"):
                raise conflict(PODS, key.name, f'pod {key.name} is already assigned to node "{there}"')
            pod["spec"]["nodeName"] = node
            others = [c for c in pod["status"].get("conditions", ()) if c["type"] != "PodScheduled"]
            moment = timestamp(self._now())
            condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": moment}
            pod["status"]["conditions"] = [*others, condition]
            return pod

        await self._store.write(PODS, key, transition, manner.is_dry_run)

    async def delete(
        self, resource: Resource, key: Key, options: DeleteOptions, manner: Manner
    ) -> tuple[Stored, bool]:
        """Delete an object. Returns its last state, and whether it is gone already. Raises StatusError."""
        is_gone = False

        def transition(before: Stored | None) -> Object | None:
            if before is None:
                raise not_found(resource, key.name)
            nonlocal is_gone
            after = lifecycle.deleted(resource, before.read(), options, self._now())
            is_gone = after is None
            return after

        stored = await self._store.write(resource, key, transition, manner.is_dry_run)
        return stored, is_gone

    async def _update(
        self,
        resource: Resource,
        key: Key,
        change: Callable[[Object], Object],
        part: Part,
        manner: Manner,
    ) -> Stored:
        def transition(stored: Stored | None) -> Object | None:
            if stored is None:
                raise not_found(resource, key.name)
            kept = stored.read()
            before = events.to_new(kept) if resource is NEW_EVENTS else kept
            wanted = change(before)
            self._check_identity(resource, before, wanted)
            after = lifecycle.updated(resource, before, wanted, part)
            if part is Part.MAIN:
                defaults.put_defaults(resource, after)
                self._check(resource, after, before)
            elif found := [*metadata_causes(resource, after), *lifecycle.finalizer_causes(before, after)]:
                raise invalid(resource.kind, resource.group, key.name, found)
            if lifecycle.is_over(resource, after):
                return None
            return events.to_old(after) if resource is NEW_EVENTS else after

        return await self._store.write(resource, key, transition, manner.is_dry_run)

    def _check(self, resource: Resource, item: Object, before: Object | None) -> None:
        """Complete a Service, and raise StatusError for what is wrong with any object."""
        found: list[Cause] = []
        if resource is SERVICES:
            if before is not None:
                carry_over(before, item)
            found += self._allocate(item, before)
        found = causes(resource, item, before) + found
        if before is not None:
            found += lifecycle.finalizer_causes(before, item)
        if found:
            raise invalid(resource.kind, resource.group, item["metadata"].get("name", ""), found)

    def _allocate(self, service: Object, before: Object | None) -> list[Cause]:
        taken = self._store.collection(SERVICES).claims
        try:
            allocation.allocate(service, before, taken, self._ranges, self._chance)
        except AllocationError as error:
            return [error.cause]
        return []

    def _check_identity(self, resource: Resource, before: Object, after: Object) -> None:
        metadata = after.setdefault("metadata", {})
        version = metadata.get("resourceVersion")
        name = before["metadata"]["name"]
        if (uid := metadata.get("uid")) and uid != before["metadata"]["uid"]:
            known = before["metadata"]["uid"]
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {known}"
            raise conflict(resource, name, why)
        if version not in (None, before["metadata"]["resourceVersion"]):
            raise modified_meanwhile(resource, name)
        if found := list(identity_causes(after, before)):
            raise invalid(resource.kind, resource.group, name, found)

    def _check_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        stored = self._store.get(NAMESPACES, Key("", namespace))
        if stored is None:
            raise not_found(NAMESPACES, namespace)
        if "deletionTimestamp" in stored.read()["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            message = f"namespace {namespace} is being terminated"
            cause = {"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}
            raise forbidden(resource, name, why, [cause])

    def _generated_name(self, resource: Resource, namespace: str, prefix: str) -> str:
        while True:
            name = prefix[:58] + "".join(self._chance.choices(_SUFFIX_CHARACTERS, k=5))
            if self._store.get(resource, Key(namespace, name)) is None:
                return name

    async def _forget_old_events(self) -> None:
        kept = self._store.collection(EVENTS).objects
        while len(kept) > self._most_events:
            with suppress(LookupError):  # somebody else forgot it meanwhile
                await self._store.write(EVENTS, next(iter(kept)), lambda _: None)


def _settle_namespace(resource: Resource, metadata: Object, namespace: str) -> None:
    if resource.is_namespaced and metadata.setdefault("namespace", namespace) != namespace:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if not resource.is_namespaced and metadata.pop("namespace", ""):
        raise bad_request("namespace is not allowed on this type")
