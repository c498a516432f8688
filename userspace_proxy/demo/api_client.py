"""Requests to a Kubernetes API server, as the demo's controllers and kubelets make them.

It is small because it knows no schema: objects come as what their `Resource` says and go as whatever msgspec
encodes. It works with a real kube-apiserver as well. Source: "Kubernetes API Concepts".
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from enum import Enum
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from userspace_proxy.demo.api_resources import JsonObject, Resource
from userspace_proxy.errors import UserspaceProxyError
from userspace_proxy.sources.lines import Lines, LineTooLongError

T = TypeVar("T")

ANSWER_SECONDS = 30.0
PAGE_OBJECTS = 500
SHOWN_CHARACTERS = 500
GOODBYE_SECONDS = 0.25
"""As aiohttp's documentation has it, under "Graceful Shutdown"."""


class PatchType(Enum):
    """How a patch is to be read; the value is its media type."""

    MERGE = "application/merge-patch+json"
    """RFC 7396: objects are merged, lists replaced, null deletes."""
    STRATEGIC = "application/strategic-merge-patch+json"
    """As MERGE, but lists are merged by their elements' keys. Kubernetes' built-in kinds only."""


class ApiError(UserspaceProxyError):
    """A request was refused, or got no answer.

    `code` is the HTTP status (None: no answer came, it may be tried again); `reason` and `message` are those
    of the API's Status object.
    """

    def __init__(self, code: int | None, reason: str, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def is_not_found(self) -> bool:
        return self.code == 404

    @property
    def is_conflict(self) -> bool:
        """Whether somebody else changed the object meanwhile (`Conflict`), or made it (`AlreadyExists`)."""
        return self.code == 409

    @property
    def is_gone(self) -> bool:
        """Whether the server has forgotten the version that was asked for: list again."""
        return self.code == 410

    @property
    def is_final(self) -> bool:
        """Whether the same request would be refused again: the request is at fault, not the server."""
        return self.code is not None and 400 <= self.code < 500 and self.code not in (409, 410, 429)


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None


class Identity(msgspec.Struct, frozen=True):
    """What of an object says which one it is, and in which version."""

    metadata: _Metadata = _Metadata()


class _ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str | None = msgspec.field(default=None, name="continue")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMetadata = _ListMetadata()
    items: list[msgspec.Raw] | None = None


class _Status(msgspec.Struct, frozen=True):
    code: int | None = None
    reason: str = ""
    message: str = ""


class WatchEvent(msgspec.Struct, frozen=True):
    """One line of a watch: `type` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: msgspec.Raw


class RawList(msgspec.Struct, frozen=True):
    """All objects of one list, each still as JSON, and the version from which to watch."""

    items: list[msgspec.Raw]
    version: str


class ApiClient:
    """A session with the API server at `server` (a URL without a path), open within `async with`.

    `tls` verifies an https server (None: the system's authorities); `token` is sent as a bearer token.
    Every method raises `ApiError` and nothing else. Any number of requests may be under way at once.
    """

    def __init__(
        self,
        server: str,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        user_agent: str = "userspace-proxy-demo",
    ) -> None:
        self._server = server.rstrip("/")
        self._tls: ssl.SSLContext | bool = tls if tls is not None else True
        self._headers = {"Accept": "application/json", "User-Agent": user_agent}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session: aiohttp.ClientSession | None = None
        self._was_cut_short = False

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._server,
            headers=self._headers,
            # Watches hold a connection each; a limit would let them starve the requests.
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._was_cut_short:
            # What is closed before its end says goodbye in TLS by itself, and nobody can wait for that.
            await asyncio.sleep(GOODBYE_SECONDS)

    async def get(self, resource: Resource[T], namespace: str | None, name: str) -> T:
        """One object."""
        return decoded(await self.request("GET", resource.path(namespace, name)), resource.decoded_as)

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> list[T]:
        """All objects of one kind, in `namespace` or anywhere."""
        query = selection(label_selector, field_selector)
        found = await self.list_raw(resource, namespace, query)
        return [decoded(item, resource.decoded_as) for item in found.items]

    async def list_raw(
        self, resource: Resource[T], namespace: str | None, query: Mapping[str, str]
    ) -> RawList:
        """All objects, page by page."""
        items: list[msgspec.Raw] = []
        page_query = {**query, "limit": str(PAGE_OBJECTS)}
        while True:
            body = await self.request("GET", resource.path(namespace), query=page_query)
            page = decoded(body, _Page)
            items.extend(page.items or ())
            if not page.metadata.continue_:
                return RawList(items, page.metadata.resource_version)
            page_query["continue"] = page.metadata.continue_

    async def create(
        self,
        resource: Resource[T],
        namespace: str | None,
        body: object,
        *,
        name: str = "",
        subresource: str = "",
        query: Mapping[str, str] | None = None,
    ) -> T:
        """Make an object; with `subresource` (`binding`, `eviction`) post to that of the object `name`."""
        path = resource.path(namespace, name, subresource)
        return decoded(await self.request("POST", path, query=query, body=body), resource.decoded_as)

    async def replace(
        self, resource: Resource[T], namespace: str | None, name: str, body: object, *, subresource: str = ""
    ) -> T:
        """Write a whole object. With a resourceVersion in `body` that is not the latest: 409."""
        path = resource.path(namespace, name, subresource)
        return decoded(await self.request("PUT", path, body=body), resource.decoded_as)

    async def patch(
        self,
        resource: Resource[T],
        namespace: str | None,
        name: str,
        body: object,
        *,
        type_: PatchType = PatchType.MERGE,
        subresource: str = "",
        query: Mapping[str, str] | None = None,
    ) -> T:
        """Change some fields. A `metadata.resourceVersion` or `uid` in `body` is a condition: 409."""
        path = resource.path(namespace, name, subresource)
        answer = await self.request("PATCH", path, query=query, body=body, content_type=type_.value)
        return decoded(answer, resource.decoded_as)

    async def delete(
        self,
        resource: Resource[T],
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        """Ask for an object's end. With `uid` only if it is that one (409 otherwise).

        `grace_seconds` is what a pod's processes are given (None: as the pod says; 0: gone at once).
        """
        options: JsonObject = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        await self.request("DELETE", resource.path(namespace, name), body=options)

    async def watch(
        self,
        resource: Resource[T],
        namespace: str | None,
        version: str,
        query: Mapping[str, str],
        silence_seconds: float,
    ) -> AsyncGenerator[WatchEvent, None]:
        """What happens after `version`, until the server ends it.

        Raises `ApiError` also for what the stream says (410: list again), and with code None if nothing came
        for `silence_seconds`. Close the generator (`contextlib.aclosing`) to end the request.
        """
        query = {**query, "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_SECONDS, sock_read=silence_seconds)
        lines = Lines()
        async with self._answer("GET", resource.path(namespace), params=query, timeout=timeout) as response:
            async for chunk in response.content.iter_any():
                for line in lines.feed(chunk):
                    event = decoded(line, WatchEvent)
                    if event.type == "ERROR":
                        raise _refusal(decoded(event.object, _Status), None)
                    yield event

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> bytes:
        """The body of a successful answer to any request."""
        data = None if body is None else msgspec.json.encode(body)
        headers = None if body is None else {"Content-Type": content_type}
        async with self._answer(method, path, params=query, data=data, headers=headers) as response:
            return await response.read()

    @asynccontextmanager
    async def _answer(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer, whose body is still to be read."""
        assert self._session is not None, "the client is used outside `async with`"
        with _failures_translated():
            try:
                async with self._session.request(method, path, **options) as response:
                    await _raise_if_refused(response)
                    yield response
            except (asyncio.CancelledError, GeneratorExit):
                self._was_cut_short = True
                raise


def selection(label_selector: str, field_selector: str) -> dict[str, str]:
    """The query parameters that select objects."""
    query = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in query.items() if value}


def decoded(body: bytes | msgspec.Raw, type_: type[T]) -> T:
    """What a server sent. Raises `ApiError` (without a code) if it is not what it should be."""
    try:
        return msgspec.json.decode(body, type=type_)
    except (ValueError, RecursionError) as error:
        raise ApiError(None, "Unreadable", f"the API server answered what cannot be read: {error}") from error


async def _raise_if_refused(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    try:
        status = msgspec.json.decode(await response.read(), type=_Status)
    except (ValueError, RecursionError):
        status = _Status(message=f"{response.status} {response.reason or ''}".rstrip())
    raise _refusal(msgspec.structs.replace(status, code=response.status), response.headers.get("Retry-After"))


def _refusal(status: _Status, retry_after: str | None) -> ApiError:
    seconds = float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else 0.0
    message = status.message[:SHOWN_CHARACTERS] or "no reason given"
    return ApiError(status.code, status.reason, message, seconds)


@contextmanager
def _failures_translated() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise ApiError(None, "Timeout", "the API server did not answer in time") from error
    except (aiohttp.ClientError, OSError, LineTooLongError) as error:
        message = f"the API server cannot be reached: {error}"[:SHOWN_CHARACTERS]
        raise ApiError(None, "Unreachable", message) from error
