"""Every object and its recent history: one order of writes for all, whose numbers are the resourceVersions.

A write is a function of what is there. It is decided alone, reaches the disk, and is then seen by reads and
watches, in that order. Of each collection the latest changes are remembered: they are what watches are told,
and what an earlier version of a list is made of.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from userspace_proxy.demo.api_server import events
from userspace_proxy.demo.api_server.allocation import claims
from userspace_proxy.demo.api_server.database import Database
from userspace_proxy.demo.api_server.kinds import NEW_EVENTS, RESOURCES, SERVICES, Resource
from userspace_proxy.demo.api_server.objects import Key, Object, labels_of
from userspace_proxy.demo.api_server.selectors import selectable_fields
from userspace_proxy.demo.api_server.statuses import expired


@dataclass(frozen=True, slots=True)
class Stored:
    """An object at one version, as JSON, with what selectors ask for."""

    key: Key
    version: int
    data: bytes
    labels: Mapping[str, str]
    fields: Mapping[str, str]
    claims: frozenset[str] = frozenset()
    """What it alone may have, such as a Service its addresses."""

    def read(self) -> Object:
        """The object, anew with each call: whoever asks may change it."""
        item: Object = msgspec.json.decode(self.data)
        return item


@dataclass(frozen=True, slots=True)
class Change:
    """One write: what an object was and is. `last` is it, or was before its end, at this version."""

    version: int
    before: Stored | None
    after: Stored | None
    last: Stored


Transition: TypeAlias = Callable[[Stored | None], Object | None]
"""What becomes of an object (None: there is none). Raises what the request is then answered with."""


class Collection:
    """The objects of one storage, what they claim, and the changes that led to them, the oldest forgotten."""

    def __init__(self, version: int, history: int) -> None:
        self.objects: dict[Key, Stored] = {}  # what was written last is last
        self.claims: set[str] = set()
        self._history = history
        self._changes: list[Change] = []
        self._forgotten = version
        self._changed = asyncio.Event()

    def add(self, stored: Stored) -> None:
        """Take an object in, in place of what it was before."""
        self.objects[stored.key] = stored
        self.claims |= stored.claims

    def record(self, change: Change) -> None:
        """Take a change in, and wake who waits for one."""
        if change.before is not None:
            del self.objects[change.before.key]
            self.claims -= change.before.claims
        if change.after is not None:
            self.add(change.after)
        self._changes.append(change)
        if len(self._changes) >= 2 * self._history:  # many at once, so that each costs little
            self._forgotten = self._changes[-self._history - 1].version
            del self._changes[: -self._history]
        self.wake()

    def wake(self) -> None:
        """Have everybody who waits look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def since(self, version: int) -> Sequence[Change]:
        """The changes after a version. Raises StatusError (410) where some of them are forgotten."""
        if version < self._forgotten:
            raise expired(f"too old resource version: {version} ({self._forgotten})")
        return self._changes[bisect_right(self._changes, version, key=lambda change: change.version) :]

    def at(self, version: int) -> dict[Key, Stored]:
        """The objects as they were at a version. Raises StatusError (410) where that is forgotten."""
        later = self.since(version)
        objects = dict(self.objects) if later else self.objects
        for change in reversed(later):
            if change.before is None:
                objects.pop(change.last.key)
            else:
                objects[change.last.key] = change.before
        return objects

    async def changed(self) -> None:
        """Return with the next change, or the next `wake`."""
        await self._changed.wait()


class Store:
    """All collections over one database."""

    def __init__(self, database: Database, version: int, history: int) -> None:
        self._database = database
        self.version = version
        self.is_closing = False
        self._collections = {resource.storage: Collection(version, history) for resource in RESOURCES}
        self._writing = asyncio.Lock()
        self._writes: set[asyncio.Task[Stored]] = set()

    @classmethod
    async def open(cls, database: Database, history: int) -> Store:
        """Everything that the database holds; `history` changes of each collection will be remembered."""
        version, rows = await database.read()
        store = cls(database, version, history)
        for storage, collection in store._collections.items():
            found = [
                _stored(storage, msgspec.json.decode(r.data), r.data) for r in rows if r.storage == storage
            ]
            for stored in sorted(found, key=lambda each: each.version):
                collection.add(stored)
        return store

    def collection(self, resource: Resource) -> Collection:
        """Where objects of a resource are."""
        return self._collections[resource.storage]

    def get(self, resource: Resource, key: Key) -> Stored | None:
        """An object, or None."""
        return self.collection(resource).objects.get(key)

    async def write(
        self, resource: Resource, key: Key, transition: Transition, is_dry_run: bool = False
    ) -> Stored:
        """Have an object become what `transition` says; without a change nothing is written.

        Returns it, or of a deleted one its last state; after a dry run what it would be. A caller that is
        cancelled does not stop the write. Raises what the transition raises, and DatabaseError.
        """
        task = asyncio.ensure_future(self._write(resource.storage, key, transition, is_dry_run))
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[Stored]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has it, or has gone

    async def _write(self, storage: str, key: Key, transition: Transition, is_dry_run: bool) -> Stored:
        collection = self._collections[storage]
        async with self._writing:
            before = collection.objects.get(key)
            after = transition(before)
            if after is None:
                if before is None:
                    raise LookupError(f"{storage} {key} is deleted and was not there")
                last = _stored(storage, _with_version(before.read(), self.version + 1))
                if not is_dry_run:
                    await self._commit(storage, collection, Change(last.version, before, None, last), None)
                return last
            if before is not None and _is_same(before.read(), after):
                return before
            stored = _stored(storage, _with_version(after, self.version + 1))
            change = Change(stored.version, before, stored, stored)
            if not is_dry_run:
                await self._commit(storage, collection, change, stored.data)
            return stored

    async def _commit(self, storage: str, collection: Collection, change: Change, data: bytes | None) -> None:
        await self._database.write(change.version, storage, change.last.key, data)
        self.version = change.version
        collection.record(change)

    async def finish(self) -> None:
        """Return once no write is under way."""
        async with self._writing:
            return

    def end_watches(self) -> None:
        """Have every watch end."""
        self.is_closing = True
        for collection in self._collections.values():
            collection.wake()


def _stored(storage: str, item: Object, data: bytes | None = None) -> Stored:
    metadata = item["metadata"]
    key = Key(metadata.get("namespace", ""), metadata["name"])
    fields = {"metadata.name": key.name, "metadata.namespace": key.namespace}
    for resource in _SHARING[storage]:
        shown = events.to_new(item) if resource is NEW_EVENTS else item
        fields |= selectable_fields(shown, resource)
    version = int(metadata["resourceVersion"])
    claimed = claims(item) if storage == SERVICES.storage else frozenset()
    return Stored(key, version, data or msgspec.json.encode(item), labels_of(item), fields, claimed)


_SHARING: Final = {r.storage: [other for other in RESOURCES if other.storage == r.storage] for r in RESOURCES}
"""The resources that are kept in one collection."""


def _with_version(item: Object, version: int) -> Object:
    return {**item, "metadata": {**item["metadata"], "resourceVersion": str(version)}}


def _is_same(before: Object, after: Object) -> bool:
    version = before["metadata"]["resourceVersion"]
    return before == {**after, "metadata": {**after["metadata"], "resourceVersion": version}}
