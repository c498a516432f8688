"""HTTP: who may ask, what a request means, and its answer.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from datetime import datetime
from typing import Final

import msgspec
from aiohttp import web

from userspace_proxy.demo.api_server import discovery, openapi, patches, paths, reads, requests, scale
from userspace_proxy.demo.api_server.database import DatabaseError
from userspace_proxy.demo.api_server.kinds import DEPLOYMENTS, PODS, Resource
from userspace_proxy.demo.api_server.lifecycle import Part
from userspace_proxy.demo.api_server.limits import Limits
from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.paths import Target
from userspace_proxy.demo.api_server.pod_logs import PodLogs, PodLogsError, log_request
from userspace_proxy.demo.api_server.rendering import Rendering
from userspace_proxy.demo.api_server.statuses import (
    StatusError,
    bad_request,
    not_allowed,
    not_found,
    unauthorized,
    unknown_path,
)
from userspace_proxy.demo.api_server.store import Store
from userspace_proxy.demo.api_server.watches import Watch
from userspace_proxy.demo.api_server.writer import Manner, Writer, Written

_JSON: Final = "application/json"
_BINDING: Final = "core.v1.Binding"
_SUCCESS: Final[Object] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
_VERBS: Final = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}
_HEALTH: Final = ("/healthz", "/livez", "/readyz")
_STREAMING_PARTS: Final = ("attach", "exec", "portforward", "proxy")
_log = logging.getLogger(__name__)


class Routes:
    """Answers requests that bring the token."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        *,
        token: str,
        pod_logs: PodLogs | None,
        limits: Limits,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._writer = writer
        self._token = f"Bearer {token}".encode()
        self._pod_logs = pod_logs
        self._limits = limits
        self._now = now
        self._watches = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to any request; of what goes wrong, a Status."""
        try:
            given = request.headers.get("Authorization", "").encode(errors="replace")
            if not hmac.compare_digest(given, self._token):
                raise unauthorized()
            return await self._answer(request)
        except StatusError as error:
            return _json(error.status, error.code, error.headers)
        except DatabaseError as error:
            return _json(StatusError(507, "InternalError", str(error)).status, 507)
        except web.HTTPRequestEntityTooLarge:
            message = f"the body of the request has more than {self._limits.body_bytes} bytes"
            return _json(StatusError(413, "RequestEntityTooLarge", message).status, 413)
        except (web.HTTPException, ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            _log.exception("Request failed: %s %s", request.method, request.path)
            message = f"Internal error occurred: {error!r}"
            return _json(StatusError(500, "InternalError", message).status, 500)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        target = paths.parse(request.path)
        if target is None:
            return self._about(request)
        resource, part = target.resource, target.part
        if resource.is_namespaced and not target.namespace and request.method != "GET":
            raise not_allowed(f"{request.method} needs a namespace in its path")
        if part:
            _check_part(request, resource, part)
        if resource is PODS and part == "log":
            return await self._logs(request, target)
        if resource is DEPLOYMENTS and part == "scale":
            return await self._scale(request, target)
        if request.method == "GET":
            return await self._read(request, target)
        return await self._write(request, target, requests.manner(request))

    async def _write(self, request: web.Request, target: Target, manner: Manner) -> web.Response:
        resource, part = target.resource, target.part
        match request.method:
            case "POST" if part == "binding":
                await self._writer.bind(target.key, await requests.body(request, _BINDING), manner)
                return _json(_SUCCESS | {"code": 201}, 201)
            case "POST" if not target.name:
                body = await requests.body(request, resource.schema)
                written = await self._writer.create(resource, target.namespace, body, manner)
                return self._written(request, target, written, 201)
            case "PUT" if target.name:
                body = await requests.body(request, resource.schema)
                written = await self._writer.replace(resource, target.key, body, Part(part), manner)
                return self._written(request, target, written)
            case "PATCH" if target.name:
                patch, kind = await requests.patch(request)
                written = await self._writer.patch(resource, target.key, patch, kind, Part(part), manner)
                return self._written(request, target, written)
            case "DELETE" if not part:
                return await self._delete(request, target, manner)
            case method:
                raise not_allowed(f"the server does not allow {method} on {request.path}")

    def _about(self, request: web.Request) -> web.Response:
        """What the server says of itself."""
        if request.path in _HEALTH:
            return web.Response(text="ok")
        if request.path == "/openapi/v2":
            return web.Response(headers={"Content-Type": openapi.EMPTY_V2})
        is_aggregated = "as=APIGroupDiscoveryList" in request.headers.get("Accept", "")
        described = discovery.described(request.path, is_aggregated=is_aggregated)
        if described is None or request.method != "GET":
            raise unknown_path(request.path)
        is_other_form = described.get("kind") == "APIGroupDiscoveryList"
        return _json(described, headers={"Content-Type": discovery.AGGREGATED} if is_other_form else None)

    async def _read(self, request: web.Request, target: Target) -> web.StreamResponse:
        rendering = self._rendering(request, target.resource)
        if reads.is_true(request.query, "watch"):
            watch = Watch(self._store, target, request.query, rendering, self._limits)
            return await self._watch(request, watch)
        if not target.name:
            page = reads.page(self._store, target, request.query)
            return _raw(rendering.listed(page.found, page.metadata))
        stored = self._store.get(target.resource, target.key)
        if stored is None:
            raise not_found(target.resource, target.name)
        return _raw(rendering.one(stored))

    async def _watch(self, request: web.Request, watch: Watch) -> web.StreamResponse:
        if self._watches >= self._limits.watches:
            message = f"there are {self._watches} watches already, which is all this server does"
            raise StatusError(429, "TooManyRequests", message, headers={"Retry-After": "1"})
        self._watches += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": _JSON})
            await response.prepare(request)
            with suppress(TimeoutError):
                async with asyncio.timeout(watch.seconds), aclosing(watch.lines()) as lines:
                    async for line in lines:
                        await self._send(request, response, line)
            return response
        finally:
            self._watches -= 1

    async def _delete(self, request: web.Request, target: Target, manner: Manner) -> web.Response:
        options = await requests.delete_options(request)
        if options.dry_run:
            manner = Manner(manner.validation, is_dry_run=True)
        resource = target.resource
        if not target.name:
            if "deletecollection" not in resource.verbs:
                raise not_allowed(f"{resource.qualified} are deleted one by one")
            found = reads.page(self._store, target, request.query).found
            for stored in found:
                try:
                    await self._writer.delete(resource, stored.key, options, manner)
                except StatusError as error:
                    if error.code != 404:  # somebody else was faster
                        raise
            return _raw(self._rendering(request, resource).listed(found, {}))
        stored, is_gone = await self._writer.delete(resource, target.key, options, manner)
        if not is_gone:
            return _raw(self._rendering(request, resource).one(stored))
        details = {"name": target.name, "kind": resource.plural, "uid": stored.read()["metadata"]["uid"]}
        return _json(_SUCCESS | {"details": details | ({"group": resource.group} if resource.group else {})})

    async def _scale(self, request: web.Request, target: Target) -> web.Response:
        manner = requests.manner(request)
        match request.method:
            case "GET":
                stored = self._store.get(target.resource, target.key)
                if stored is None:
                    raise not_found(target.resource, target.name)
                return _json(scale.scale_of(stored.read()))
            case "PUT":
                body = await requests.body(request, scale.SCHEMA)
                written = await self._writer.scale(target.key, lambda _: body, manner)
            case _:
                patch, kind = await requests.patch(request)
                written = await self._writer.scale(
                    target.key, lambda before: patches.patched(before, patch, kind, scale.SCHEMA), manner
                )
        return _json(scale.scale_of(written.stored.read()))

    async def _logs(self, request: web.Request, target: Target) -> web.StreamResponse:
        stored = self._store.get(PODS, target.key)
        if stored is None:
            raise not_found(PODS, target.name)
        asked = log_request(stored.read(), request.query, self._now())
        if self._pod_logs is None:
            raise StatusError(501, "NotImplemented", "this cluster keeps no logs of pods")
        chunks = self._pod_logs(target.namespace, target.name, asked)
        async with AsyncExitStack() as stack:
            if isinstance(chunks, AsyncGenerator):
                stack.push_async_callback(chunks.aclose)
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            try:
                chunk = await anext(chunks, None)
            except PodLogsError as error:
                raise bad_request(str(error)) from error
            await response.prepare(request)
            while chunk is not None:
                await self._send(request, response, chunk)
                chunk = await anext(chunks, None)
            return response

    async def _send(self, request: web.Request, response: web.StreamResponse, chunk: bytes) -> None:
        """Send a part of an answer. Whoever takes nothing for long is cut off."""
        try:
            async with asyncio.timeout(self._limits.write_seconds):
                await response.write(chunk)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise

    def _written(
        self, request: web.Request, target: Target, written: Written, status: int = 200
    ) -> web.Response:
        response = _raw(self._rendering(request, target.resource).one(written.stored), status)
        for warning in written.warnings:
            quoted = warning.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{quoted}"')
        return response

    def _rendering(self, request: web.Request, resource: Resource) -> Rendering:
        as_table = "as=Table" in request.headers.get("Accept", "")
        return Rendering(resource, as_table, request.query.get("includeObject", "Metadata"), self._now)


def _check_part(request: web.Request, resource: Resource, part: str) -> None:
    """Raise StatusError for a part that there is not, or that has no such verb."""
    subresource = resource.subresource(part)
    if subresource is None:
        if resource is PODS and part in _STREAMING_PARTS:
            raise not_allowed(
                f"this API server cannot do {part}: `userspace-proxy demo exec` and `userspace-proxy demo "
                "shell` lead into a pod"
            )
        raise unknown_path(request.path)
    if _VERBS.get(request.method) not in subresource.verbs:
        raise not_allowed(f"{resource.qualified}/{part} has no {request.method}")


def _json(body: Object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return _raw(msgspec.json.encode(body), status, headers)


def _raw(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers={"Content-Type": _JSON, **(headers or {})})
