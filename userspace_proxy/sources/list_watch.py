"""Following one kind at an API server: a list, then what changes, for ever.

Three functions, one inside the other: `run` never ends and decides how long to wait; `_list_then_watch` lists
where that is needed and watches once; `_list` and `_watch` are requests. What is known stays known while the
server cannot be reached. Source: "Efficient detection of changes" in the Kubernetes API concepts.

A server may come back from a backup, older than what it has told us; what it has then is what counts. A
watch from a version that it has not reached would wait in silence until it has, and miss all that is new by
then. So after a failure the server is asked first where it is, and a watch in which nothing ever comes, not
even the bookmark of every minute, is not trusted with its version any more. Nor is one whose versions go
back: the API promises their order.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from userspace_proxy.core.back_off import delay_seconds
from userspace_proxy.core.decoding import decode
from userspace_proxy.core.objects import STRUCTS, ApiObject, Deleted, Event, Kind, Listed, Upserted
from userspace_proxy.core.problem import Problem
from userspace_proxy.sources import Sink
from userspace_proxy.sources.contact import GONE, SERVER_IS_AILING, Contact, RequestFailedError
from userspace_proxy.sources.lines import Lines, LineTooLongError

ORIGIN = "API server"
PAGE_OBJECTS = 500
WATCH_SECONDS = (300, 600)
SILENCE_SECONDS = 150.0
"""A watch that says nothing for so long is taken for dead: bookmarks come about every minute."""
ANSWER_SECONDS = 30.0
STEADY_SECONDS = 5.0
"""A watch that lasted so long was no failure, however it ended."""
SHOWN_CHARACTERS = 300
DISPENSABLE_FAILURES = 2
MAX_RETRY_AFTER_SECONDS = 60.0
MAX_PAGE_BYTES = 256 * 1024 * 1024
DECODED_AT_ONCE_BYTES = 256 * 1024

_log = logging.getLogger(__name__)


class Api(Protocol):
    """The transport."""

    def get(
        self, path: str, query: Mapping[str, str], silence_seconds: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The body of a successful answer, in chunks. Both raise `RequestFailedError` and nothing else."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What to follow: all objects of `kind` under `path` that `selector` (query parameters) lets through.

    `is_dispensable`: where it alone cannot be listed, `DISPENSABLE_FAILURES` times in a row, the sink is told
    that there is none, so that the others need not wait for ever. It is asked for again all the same.
    """

    kind: Kind
    path: str
    selector: Mapping[str, str]
    is_dispensable: bool = False


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str | None = msgspec.field(default=None, name="continue")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _WatchEvent(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Names(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str
    name: str = ""
    namespace: str = ""


class _Named(msgspec.Struct, frozen=True):
    metadata: _Names


class _Status(msgspec.Struct, frozen=True):
    code: int | None = None
    message: str | None = None


class ListWatch:
    """Follows one kind and tells `sink`."""

    def __init__(
        self,
        watched: Watched,
        api: Api,
        sink: Sink,
        contact: Contact,
        *,
        chance: random.Random,
        sleep: Callable[[float], Awaitable[object]],
        clock: Callable[[], float],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._watched = watched
        self._api = api
        self._sink = sink
        self._contact = contact
        self._chance = chance
        self._sleep = sleep
        self._clock = clock
        self._silence_seconds = silence_seconds
        self._version: str | None = None
        self._is_in_doubt = False
        self._is_known = False
        self._watching_since: float | None = None
        self._reported: set[str] = set()

    async def run(self) -> None:
        """Never ends. A request that fails is repeated after a wait that grows with the failures in a row."""
        failures = 0
        while True:
            failed: RequestFailedError | None = None
            self._watching_since = None
            try:
                await self._list_then_watch()
            except RequestFailedError as error:
                failed = error
            is_gone = failed is not None and failed.status == GONE
            if failed and failed.status and failed.status not in SERVER_IS_AILING:
                self._version = None
            since = self._watching_since
            failures = 0 if since is not None and self._clock() - since >= STEADY_SECONDS else failures + 1
            self._is_in_doubt = failed is not None or failures > 0
            if failures and failed and not is_gone:
                self._contact.lost(self._watched.kind, failed)
                self._do_without(failures)
            if failures > (1 if is_gone else 0):
                wait = delay_seconds(failures, self._chance.random())
                asked = min(failed.retry_after_seconds, MAX_RETRY_AFTER_SECONDS) if failed else 0.0
                await self._sleep(max(wait, asked))

    def _do_without(self, failures: int) -> None:
        """Let nobody wait any longer for what is dispensable, if this is not the whole server's failure."""
        kind = self._watched.kind
        if (
            self._watched.is_dispensable
            and not self._is_known
            and failures >= DISPENSABLE_FAILURES
            and not self._contact.is_lost_for_others_than(kind)
        ):
            _log.info("Going on without what cannot be listed: kind=%s", kind.value)
            self._is_known = True
            self._sink.observe([Listed(kind, ())])

    async def _list_then_watch(self) -> None:
        if self._version is not None and self._is_in_doubt:
            present = (await self._page({**self._watched.selector, "limit": "1"})).metadata.resource_version
            if _is_before(present, self._version):
                _log.warning(
                    "API server went back to an earlier state, which counts now: kind=%s version=%s known=%s",
                    self._watched.kind.value,
                    present,
                    self._version,
                )
                self._version = None
        if self._version is None:
            self._version = await self._list()
        await self._watch(self._version)

    async def _list(self) -> str:
        """Tell the sink all there is. Returns the version from which to watch."""
        objects: list[ApiObject] = []
        problems: dict[str, tuple[Problem, ...]] = {}
        query = {**self._watched.selector, "limit": str(PAGE_OBJECTS)}
        while True:
            page = await self._page(query)
            decoded_bytes = 0
            for raw in page.items or ():
                decoded = decode(STRUCTS[self._watched.kind], raw, ORIGIN)
                if decoded.object is not None:
                    objects.append(decoded.object)
                if decoded.problems:
                    first = decoded.problems[0]
                    scope = self._scope(first.namespace, first.name)
                    problems[scope] = problems.get(scope, ()) + decoded.problems
                decoded_bytes += memoryview(raw).nbytes
                if decoded_bytes >= DECODED_AT_ONCE_BYTES:
                    decoded_bytes = 0
                    await asyncio.sleep(0)
            if not page.metadata.continue_:
                break
            query["continue"] = page.metadata.continue_
        self._is_known = True
        self._sink.observe([Listed(self._watched.kind, tuple(objects))])
        for scope in self._reported - problems.keys():
            self._sink.report(scope, ())
        for scope, found in problems.items():
            self._sink.report(scope, found)
        self._reported = set(problems)
        return page.metadata.resource_version

    async def _page(self, query: Mapping[str, str]) -> _Page:
        body = bytearray()
        async with self._api.get(self._watched.path, query, ANSWER_SECONDS) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_PAGE_BYTES:
                    raise RequestFailedError(f"answered with a list of more than {MAX_PAGE_BYTES >> 20} MiB")
        try:
            return msgspec.json.decode(body, type=_Page)
        except (ValueError, RecursionError) as error:
            raise RequestFailedError(f"answered with a list that cannot be read: {error}") from error

    async def _watch(self, version: str) -> None:
        """One watch request, until the server ends it."""
        query = {
            **self._watched.selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            # Spread, so that the watches of a cluster's nodes do not end together.
            "timeoutSeconds": str(self._chance.randint(*WATCH_SECONDS)),
        }
        lines = Lines()
        has_told = False
        async with self._api.get(self._watched.path, query, self._silence_seconds) as chunks:
            self._watching_since = since = self._clock()
            self._contact.regained(self._watched.kind)
            try:
                async for chunk in chunks:
                    complete = lines.feed(chunk)
                    has_told = has_told or bool(complete)
                    self._observe(complete)
            except LineTooLongError as error:
                self._version = None
                raise RequestFailedError(f"sent a watch event that is too long: {error}") from error
            except RequestFailedError:
                if not has_told and self._clock() - since >= self._silence_seconds / 2:
                    self._version = None
                raise

    def _observe(self, lines: Iterable[bytes]) -> None:
        """Tell the sink what a chunk's lines say, in one call; then raise if one of them ends the watch."""
        events: list[Event] = []
        try:
            for line in lines:
                events.extend(self._events(msgspec.json.decode(line, type=_WatchEvent)))
        except (ValueError, RecursionError) as error:
            self._version = None
            raise RequestFailedError(f"sent a watch event that cannot be read: {error}") from error
        except RequestFailedError:
            self._version = None
            raise
        finally:
            if events:
                self._sink.observe(events)

    def _events(self, event: _WatchEvent) -> Sequence[Event]:
        kind = self._watched.kind
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            reason = " ".join((status.message or "no reason given").split())[:SHOWN_CHARACTERS]
            raise RequestFailedError(f"ended the watch: {reason}", status.code)
        named = msgspec.json.decode(event.object, type=_Named).metadata
        if self._version is not None and _is_before(named.resource_version, self._version):
            raise RequestFailedError(
                f"sent watch events out of order: {named.resource_version} after {self._version}"
            )
        self._version = named.resource_version
        if event.type not in ("ADDED", "MODIFIED", "DELETED"):
            return ()  # A bookmark, whose version is all it says.
        deleted = Deleted(kind, named.namespace, named.name)
        scope = self._scope(named.namespace, named.name)
        if event.type == "DELETED":
            self._report(scope, ())
            return (deleted,)
        decoded = decode(STRUCTS[kind], event.object, ORIGIN)
        self._report(scope, decoded.problems)
        return (Upserted(decoded.object) if decoded.object is not None else deleted,)

    def _report(self, scope: str, problems: tuple[Problem, ...]) -> None:
        if problems or scope in self._reported:
            self._sink.report(scope, problems)
            (self._reported.add if problems else self._reported.discard)(scope)

    def _scope(self, namespace: str, name: str) -> str:
        return f"{ORIGIN}: {self._watched.kind.value} {namespace}/{name}"


def _is_before(version: str, other: str) -> bool:
    """Whether one version is older than another of the same kind; not, if they are no numbers."""
    return version.isdecimal() and other.isdecimal() and (len(version), version) < (len(other), other)
