"""All objects of one kind, as the API server tells of them: a list, then a watch, for ever.

Whatever goes wrong ends in a new list after a wait that grows: what is known stays meanwhile, and what a list
does not name is gone, so a server that came back with less, or with an earlier state, is believed.
Neighbour: `sources.list_watch` follows an API server for the agent, of a cluster of any size, and is careful
about more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Generic, TypeAlias, TypeVar

import msgspec

from userspace_proxy.core.back_off import delay_seconds
from userspace_proxy.demo.api_client import ApiClient, ApiError, Identity, WatchEvent, decoded, selection
from userspace_proxy.demo.api_resources import Resource

T = TypeVar("T")
Key: TypeAlias = tuple[str, str]
"""Namespace ("" for kinds that have none) and name."""

WATCH_SECONDS = (300, 600)
SILENCE_SECONDS = 150.0
"""A watch that says nothing for so long is taken for dead: bookmarks come about every minute."""
STEADY_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Mirror(Generic[T]):
    """What is there of `resource` (in `namespace`, or anywhere) that the selectors let through.

    `objects` is as current as what the server has sent. It is only changed by `run`, between two turns of the
    event loop; the objects themselves are never changed, but replaced. An object that cannot be decoded is
    named in the log and left out. With `may_be_absent` a server that does not know the kind has no objects.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        may_be_absent: bool = False,
        chance: random.Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.resource = resource
        self.objects: dict[Key, T] = {}
        self._client = client
        self._namespace = namespace
        self._query = selection(label_selector, field_selector)
        self._may_be_absent = may_be_absent
        self._chance = chance if chance is not None else random.Random()
        self._sleep = sleep
        self._silence_seconds = silence_seconds
        self._version = ""
        self._must_list = True
        self._synced = asyncio.Event()
        self._subscribers: list[Callable[[], None]] = []

    @property
    def has_synced(self) -> bool:
        """Whether all there was has been listed once."""
        return self._synced.is_set()

    async def synced(self) -> None:
        """Wait until it `has_synced`."""
        await self._synced.wait()

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Have `changed` called after every change, and when all was listed. It must return at once."""
        self._subscribers.append(changed)

    def shows(self, version: str) -> bool:
        """Whether `objects` contains what a write to this kind did that returned `version`."""
        return _number(self._version) >= _number(version)

    async def run(self) -> None:
        """Follow the server until cancelled; never fails."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            failed: ApiError | None = None
            since = clock()
            try:
                if self._must_list:
                    await self._list()
                await self._watch()
            except ApiError as error:
                failed = error
                self._must_list = True
            # A watch that lasted was no failure, however it ended.
            failures = 0 if clock() - since >= STEADY_SECONDS else failures + 1
            if failed and failed.is_not_found and self._may_be_absent:
                self._become({}, "")
            elif failed and failures == 1 and not failed.is_gone:
                _log.warning("Cannot follow the API server: kind=%s why=%s", self.resource.kind, failed)
            if failures > (1 if failed and failed.is_gone else 0):
                wait = delay_seconds(failures, self._chance.random())
                await self._sleep(max(wait, failed.retry_after_seconds) if failed else wait)

    async def _list(self) -> None:
        listed = await self._client.list_raw(self.resource, self._namespace, self._query)
        objects: dict[Key, T] = {}
        for raw in listed.items:
            identity = decoded(raw, Identity)
            item = self._decode(identity, raw)
            if item is not None:
                objects[_key(identity)] = item
        self._become(objects, listed.version)
        self._must_list = False

    def _become(self, objects: dict[Key, T], version: str) -> None:
        self.objects = objects
        self._version = version
        self._synced.set()
        self._tell()

    async def _watch(self) -> None:
        """One watch request, until the server ends it."""
        seconds = {"timeoutSeconds": str(self._chance.randint(*WATCH_SECONDS))}
        events = self._client.watch(
            self.resource, self._namespace, self._version, self._query | seconds, self._silence_seconds
        )
        async with aclosing(events):
            async for event in events:
                self._observe(event)

    def _observe(self, event: WatchEvent) -> None:
        identity = decoded(event.object, Identity)
        self._version = identity.metadata.resource_version
        if event.type != "BOOKMARK":
            item = None if event.type == "DELETED" else self._decode(identity, event.object)
            if item is None:
                self.objects.pop(_key(identity), None)
            else:
                self.objects[_key(identity)] = item
        self._tell()

    def _decode(self, identity: Identity, raw: msgspec.Raw) -> T | None:
        try:
            return msgspec.json.decode(raw, type=self.resource.decoded_as)
        except (ValueError, RecursionError) as error:
            where = "/".join(part for part in _key(identity) if part)
            _log.warning("Object left out: kind=%s object=%s why=%s", self.resource.kind, where, error)
            return None

    def _tell(self) -> None:
        for changed in self._subscribers:
            changed()


def _key(identity: Identity) -> Key:
    return identity.metadata.namespace, identity.metadata.name


def _number(version: str) -> int:
    """Versions are whole numbers that grow; Kubernetes promises it since 1.35."""
    return int(version) if version.isascii() and version.isdecimal() else 0
