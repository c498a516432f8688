"""Watches: what happened after a version, line by line, from a collection's history.

A watch goes at the speed of whoever listens and holds nothing of its own: who falls too far behind is told to
list again (410).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

import msgspec

from userspace_proxy.demo.api_server.limits import Limits
from userspace_proxy.demo.api_server.paths import Target
from userspace_proxy.demo.api_server.reads import is_true, number, selection, selects
from userspace_proxy.demo.api_server.rendering import Rendering
from userspace_proxy.demo.api_server.statuses import StatusError, too_large_version
from userspace_proxy.demo.api_server.store import Change, Store, Stored


class Watch:
    """One watch request. Raises StatusError (400, 410, 504) for one that cannot be answered."""

    def __init__(
        self, store: Store, target: Target, query: Mapping[str, str], rendering: Rendering, limits: Limits
    ) -> None:
        self._store = store
        self._collection = store.collection(target.resource)
        self._selection = selection(target, query)
        self._rendering = rendering
        self._bookmark_seconds = limits.bookmark_seconds
        self._has_bookmarks = is_true(query, "allowWatchBookmarks")
        self._says_when_initial_events_end = is_true(query, "sendInitialEvents")
        self._version = number(query, "resourceVersion")
        self._begins_with_all = self._says_when_initial_events_end or self._version == 0
        self._is_first = True
        if self._version > store.version:
            raise too_large_version(self._version, store.version)
        if not self._begins_with_all:
            self._collection.since(self._version)
        self.seconds = float(number(query, "timeoutSeconds")) or limits.watch_seconds

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Events, and bookmarks between, until the store closes. An error is the last line."""
        if self._begins_with_all:
            self._version = self._store.version
            for _, stored in sorted(self._collection.objects.items()):
                if selects(self._selection, stored):
                    yield self._event("ADDED", stored)
            if self._says_when_initial_events_end and self._has_bookmarks:
                yield self._rendering.bookmark(self._version, ends_initial_events=True)
        is_quiet = False
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
            if is_quiet and self._has_bookmarks:
                yield self._rendering.bookmark(present)
            is_quiet = self._store.version == present and not await self._is_changed()

    async def _is_changed(self) -> bool:
        """Wait for a change; False once it is time for a bookmark."""
        try:
            async with asyncio.timeout(self._bookmark_seconds):
                await self._collection.changed()
        except TimeoutError:
            return False
        return True

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
