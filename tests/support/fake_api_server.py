"""A Kubernetes API server, as far as a watcher can tell.

One resourceVersion for all, lists in pages, watches with bookmarks, a history that can be compacted,
selectors, tokens. It lives in memory and believes every object, but Events, which it only keeps.

Tests inject faults by a subclass that overrides `list_objects` or `watch_objects`. It runs inside a test's
own loop (`async with FakeApiServer()`), in a thread (`running_in_a_thread`) or by itself:
`python -m tests.support.fake_api_server --port 8001 examples/manifests/*.yaml`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import yaml
from aiohttp import web

from tests.support import fake_events
from tests.support.fake_events import EventError, FakeEvents

Object: TypeAlias = dict[str, Any]

COLLECTIONS = {
    "Service": "/api/v1/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/endpointslices",
    "Node": "/api/v1/nodes",
}


def object_path(item: Object) -> str:
    """Where an object is written: the collection's path with namespace and name put in."""
    prefix, _, plural = COLLECTIONS[item["kind"]].rpartition("/")
    namespace = (
        "" if item["kind"] == "Node" else f"/namespaces/{item['metadata'].get('namespace', 'default')}"
    )
    return f"{prefix}{namespace}/{plural}/{item['metadata']['name']}"


def write_kubeconfig(path: Path, url: str, *, cluster: Object | None = None, **user: str) -> Path:
    """A kubeconfig with one context for the server at `url`; `cluster` and `user` add to those sections."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": url, **(cluster or {})}}],
        "users": [{"name": "test", "user": user}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


@dataclass(frozen=True)
class Change:
    """One write: what an object was before and is after it (None: it was not, or is no more)."""

    version: int
    kind: str
    before: Object | None
    after: Object | None


class ApiStatusError(Exception):
    """An answer other than 200, as a Status object."""

    def __init__(self, code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
        }


EXPIRED = ApiStatusError(410, "Expired", "too old resource version")


class FakeApiServer:
    """Speaks HTTP at `url` while entered; `requests` collects what was asked of its collections.

    With a `certificate` (and its key) it speaks TLS; with a `client_authority` to clients that it signed.
    """

    def __init__(
        self,
        port: int = 0,
        bookmark_seconds: float = 60.0,
        certificate: tuple[Path, Path] | None = None,
        client_authority: Path | None = None,
    ) -> None:
        self.port = port
        self.bookmark_seconds = bookmark_seconds
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(*certificate)
            if client_authority is not None:
                self._tls.load_verify_locations(client_authority)
                self._tls.verify_mode = ssl.CERT_REQUIRED
        self.tokens: set[str] | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._version = 1
        self._compacted = 0
        self._history: list[Change] = []
        self._objects: dict[str, dict[str, Object]] = {kind: {} for kind in COLLECTIONS}
        self._changed = asyncio.Event()
        self.events = FakeEvents()
        self._runner: web.AppRunner | None = None
        self._watches: set[asyncio.Timeout] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    # What a test does to the cluster.

    def apply(self, *items: Object) -> None:
        """Create or replace objects."""
        for item in items:
            self._version += 1
            namespaced = {} if item["kind"] == "Node" else {"namespace": "default"}
            metadata = {**namespaced, **item["metadata"], "resourceVersion": str(self._version)}
            path = object_path(item)
            before = self._objects[item["kind"]].get(path)
            after = {**item, "metadata": metadata}
            self._objects[item["kind"]][path] = after
            self._record(Change(self._version, item["kind"], before, after))

    def delete(self, item: Object) -> None:
        self._version += 1
        before = self._objects[item["kind"]].pop(object_path(item))
        self._record(Change(self._version, item["kind"], before, None))

    def compact(self) -> None:
        """Forget the history: watches and pages from an earlier version are answered with 410."""
        self._history.clear()
        self._compacted = self._version

    def back_up(self) -> tuple[int, dict[str, dict[str, Object]]]:
        """All objects and the version, for `restore`."""
        return self._version, {kind: dict(objects) for kind, objects in self._objects.items()}

    def restore(self, backup: tuple[int, dict[str, dict[str, Object]]]) -> None:
        """Go back to a backup. Nobody is told: watches wait for versions later than theirs, as they did."""
        self._version, objects = backup
        self._objects = {kind: dict(of_kind) for kind, of_kind in objects.items()}
        self._history = [change for change in self._history if change.version <= self._version]
        self._changed.set()
        self._changed = asyncio.Event()

    def end_watches(self) -> None:
        """End every watch as if its time were over."""
        for watch in self._watches:
            watch.reschedule(0)

    def tick(self) -> None:
        """A version passes without a change that anybody watches."""
        self._version += 1

    def _record(self, change: Change) -> None:
        self._history.append(change)
        self._changed.set()
        self._changed = asyncio.Event()

    # The two requests that tests override to inject faults.

    async def list_objects(self, kind: str, request: web.Request) -> web.StreamResponse:
        query = request.query
        first, version = 0, self._version
        if token := query.get("continue"):
            first, version = (int(part) for part in token.split("."))
            if version < self._compacted:
                raise EXPIRED
        every = [item for item in self._objects[kind].values() if selects(request, item)]
        limit = int(query.get("limit", 0)) or len(every)
        metadata: Object = {"resourceVersion": str(version)}
        if first + limit < len(every):
            metadata["continue"] = f"{first + limit}.{version}"
        # Items of a list do not repeat its kind.
        items = [
            {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
            for item in every[first : first + limit]
        ]
        return web.json_response({"kind": f"{kind}List", "metadata": metadata, "items": items})

    async def watch_objects(self, kind: str, request: web.Request) -> web.StreamResponse:
        version = int(request.query["resourceVersion"])
        if version < self._compacted:
            raise EXPIRED
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(contextlib.suppress(TimeoutError, ConnectionError))
            watch = asyncio.timeout(float(request.query["timeoutSeconds"]))
            await stack.enter_async_context(watch)
            self._watches.add(watch)
            stack.callback(self._watches.discard, watch)
            async for event in self.watch_events(kind, version, request):
                await response.write(json.dumps(event).encode() + b"\n")
        return response

    async def watch_events(self, kind: str, version: int, request: web.Request) -> AsyncIterator[Object]:
        """What happens after `version`, and bookmarks between."""
        while True:
            changed = self._changed
            for change in [change for change in self._history if change.version > version]:
                if change.kind == kind and (event := _watch_event(change, request)):
                    yield event
                version = change.version
            try:
                async with asyncio.timeout(self.bookmark_seconds):
                    await changed.wait()
            except TimeoutError:
                if self._version < version:
                    continue
                version = self._version
                bookmark = {"kind": kind, "metadata": {"resourceVersion": str(version)}}
                yield {"type": "BOOKMARK", "object": bookmark}

    # HTTP.

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            if self.tokens is not None:
                token = request.headers.get("Authorization", "").removeprefix("Bearer ")
                if token not in self.tokens:
                    raise ApiStatusError(401, "Unauthorized", "Unauthorized")
            if request.method != "GET":
                return await self._write(request)
            kind = next((kind for kind, path in COLLECTIONS.items() if path == request.path), None)
            if kind is None:
                raise ApiStatusError(404, "NotFound", "the server could not find the requested resource")
            self.requests.append((request.path, dict(request.query)))
            if request.query.get("watch") == "true":
                return await self.watch_objects(kind, request)
            return await self.list_objects(kind, request)
        except ApiStatusError as error:
            return web.json_response(error.status, status=error.code, headers=error.headers)

    async def _write(self, request: web.Request) -> web.StreamResponse:
        """PATCH with a whole object (server-side apply) and DELETE, at `object_path`; Events as in
        `FakeEvents`.
        """
        if event := fake_events.PATH.fullmatch(request.path):
            try:
                body = json.loads(await request.read())
                status = self.events.write(request.method, event[1], event[2], body, request.content_type)
            except EventError as error:
                raise ApiStatusError(error.status, error.reason, str(error)) from error
            return web.json_response(body, status=status)
        if request.method == "PATCH":
            self.apply(yaml.safe_load(await request.read()))
            return web.json_response({})
        for objects in self._objects.values():
            if request.method == "DELETE" and request.path in objects:
                self.delete(objects[request.path])
                return web.json_response({})
        raise ApiStatusError(404, "NotFound", f"{request.method} {request.path} not found")


def selects(request: web.Request, item: Object) -> bool:
    """Whether an object passes the request's selectors: `!key` and `metadata.name=` are understood."""
    absent = request.query.get("labelSelector", "").removeprefix("!")
    name = request.query.get("fieldSelector", "").removeprefix("metadata.name=")
    metadata = item["metadata"]
    return absent not in (metadata.get("labels") or {}) and name in ("", metadata["name"])


def _watch_event(change: Change, request: web.Request) -> Object | None:
    """A change as this watch sees it: what leaves the selection is deleted, what enters it is added."""
    was, is_ = (item is not None and selects(request, item) for item in (change.before, change.after))
    if not (was or is_):
        return None
    kind = "MODIFIED" if was and is_ else "ADDED" if is_ else "DELETED"
    item = change.after if is_ else change.before
    assert item is not None
    return {"type": kind, "object": with_version(item, change.version)}


def with_version(item: Object, version: int) -> Object:
    return {**item, "metadata": {**item["metadata"], "resourceVersion": str(version)}}


@contextlib.contextmanager
def running_in_a_thread(server: FakeApiServer) -> Iterator[FakeApiServer]:
    """Serve from a thread with a loop of its own, for tests that are not asynchronous; write over HTTP."""
    started, ended = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with server:
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="fake API server")
    thread.start()
    try:
        if not started.wait(10):
            raise TimeoutError("the fake API server did not start")
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


async def _serve(port: int, files: list[Path]) -> None:
    server = FakeApiServer(port)
    for file in files:
        for document in yaml.safe_load_all(file.read_text()):
            server.apply(*(document["items"] if document["kind"] == "List" else [document]))
    async with server:
        print(f"serving {server.url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the objects of manifests as an API server would.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("files", nargs="*", type=Path)
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments.port, arguments.files))
