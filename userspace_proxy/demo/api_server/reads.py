"""Lists in pages, and watches.

A list is of one version, over all its pages: a page's token says which, and where the next begins. A watch
tells what happened after a version, from the collection's history, at the speed of whoever listens: who is
too far behind is told to list again (410), and who takes nothing at all is cut off. So a watch holds nothing
of its own.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from userspace_proxy.demo.api_server import selectors
from userspace_proxy.demo.api_server.objects import Key, Object
from userspace_proxy.demo.api_server.paths import Target
from userspace_proxy.demo.api_server.rendering import Rendering
from userspace_proxy.demo.api_server.selectors import Selection
from userspace_proxy.demo.api_server.statuses import StatusError, bad_request, too_large_version
from userspace_proxy.demo.api_server.store import Change, Store, Stored

BOOKMARK_SECONDS: Final = 60.0
WATCH_SECONDS: Final = 1800.0
"""How long a watch lasts that does not say."""
WRITE_SECONDS: Final = 30.0
"""A watch whose client takes nothing for so long is cut off."""


class _Token(msgspec.Struct, frozen=True):
    """What a continue token says: the list's version, and the last object of the page before."""

    version: int
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, and the list's metadata."""

    found: list[Stored]
    metadata: Object


def selection(target: Target, query: Mapping[str, str]) -> Selection:
    """What of a collection a request asks to see. Raises StatusError (400)."""
    fields = selectors.parse_fields(query.get("fieldSelector", ""), target.resource)
    if target.name:
        fields = (*fields, selectors.FieldRequirement("metadata.name", target.name, True))
    return Selection(selectors.parse_labels(query.get("labelSelector", "")), fields, target.namespace)


def page(store: Store, target: Target, query: Mapping[str, str]) -> Page:
    """The part of a list that a request asks for. Raises StatusError (400, 410, 504)."""
    chosen = selection(target, query)
    version, after = _start(store, query)
    objects = store.collection(target.resource).at(version)
    found = [stored for _, stored in sorted(objects.items()) if selects(chosen, stored)]
    if after is not None:
        found = [stored for stored in found if stored.key > after]
    limit = number(query, "limit") or len(found)
    metadata: Object = {"resourceVersion": str(version)}
    if len(found) > limit:
        last = found[limit - 1].key
        token = msgspec.json.encode(_Token(version, last.namespace, last.name))
        metadata["continue"] = base64.urlsafe_b64encode(token).decode()
        if not chosen.labels and not chosen.fields:
            metadata["remainingItemCount"] = len(found) - limit
    return Page(found[:limit], metadata)


def _start(store: Store, query: Mapping[str, str]) -> tuple[int, Key | None]:
    """The version to list, and the object behind which to begin."""
    if text := query.get("continue"):
        try:
            token = msgspec.json.decode(base64.urlsafe_b64decode(text), type=_Token)
        except (binascii.Error, ValueError) as error:
            raise bad_request("continue key is not valid: it is none of this server's") from error
        return token.version, Key(token.namespace, token.name)
    asked = number(query, "resourceVersion")
    if asked > store.version:
        raise too_large_version(asked, store.version)
    is_exact = query.get("resourceVersionMatch") == "Exact"
    return asked if is_exact else store.version, None


def selects(chosen: Selection, stored: Stored | None) -> bool:
    """Whether an object is there, and among those that were asked for."""
    return stored is not None and chosen.selects(stored.labels, stored.fields, stored.key.namespace)


def number(query: Mapping[str, str], name: str) -> int:
    """A number of a query, 0 if it says none. Raises StatusError (400)."""
    text = query.get(name, "") or "0"
    if not text.isdecimal() or len(text) > 18:
        raise bad_request(f"{name} must be a number, not {text[:50]}")
    return int(text)


def is_true(query: Mapping[str, str], name: str) -> bool:
    """Whether a query says yes to something."""
    return query.get(name, "").lower() in ("1", "true")


class Watch:
    """What a watch request is told, line by line. Raises StatusError for what is wrong with the request."""

    def __init__(self, store: Store, target: Target, query: Mapping[str, str], rendering: Rendering) -> None:
        self._store = store
        self._collection = store.collection(target.resource)
        self._selection = selection(target, query)
        self._rendering = rendering
        self._has_bookmarks = is_true(query, "allowWatchBookmarks")
        self._asks_for_initial = is_true(query, "sendInitialEvents")
        self._version = number(query, "resourceVersion")
        self._begins_with_all = self._asks_for_initial or self._version == 0
        self._is_first = True
        if self._version > store.version:
            raise too_large_version(self._version, store.version)
        if not self._begins_with_all:
            self._collection.since(self._version)
        self.seconds = float(number(query, "timeoutSeconds")) or WATCH_SECONDS

    async def lines(self) -> AsyncIterator[bytes]:
        """Events, and bookmarks between, until the store closes. An error is the last line."""
        if self._begins_with_all:
            present = self._store.version
            for _, stored in sorted(self._collection.objects.items()):
                if selects(self._selection, stored):
                    yield self._event("ADDED", stored)
            self._version = present
            if self._asks_for_initial and self._has_bookmarks:
                yield self._rendering.bookmark(present, ends_initial_events=True)
        while not self._store.is_closing:
            present = self._store.version
            try:
                changes = self._collection.since(self._version)
            except StatusError as error:
                yield msgspec.json.encode({"type": "ERROR", "object": error.status}) + b"\n"
                return
            for change in changes:
                if line := self._told(change):
                    yield line
            self._version = present
            if self._store.version == present:
                async for line in self._wait():
                    yield line

    async def _wait(self) -> AsyncIterator[bytes]:
        """Wait for a change; bookmarks pass the time."""
        try:
            async with asyncio.timeout(BOOKMARK_SECONDS):
                await self._collection.changed()
        except TimeoutError:
            if self._has_bookmarks:
                yield self._rendering.bookmark(self._version)

    def _told(self, change: Change) -> bytes | None:
        """A change as this watch sees it: what leaves the selection is deleted, what enters it is added."""
        was, is_ = selects(self._selection, change.before), selects(self._selection, change.after)
        if is_:
            return self._event("MODIFIED" if was else "ADDED", change.last)
        return self._event("DELETED", change.last) if was else None

    def _event(self, kind: str, stored: Stored) -> bytes:
        line = self._rendering.event(kind, stored, is_first=self._is_first)
        self._is_first = False
        return line
