"""HTTP: who may ask, what a request means, and its answer.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from userspace_proxy.demo.api_server import discovery, openapi, patches, paths, protobuf, reads, scale
from userspace_proxy.demo.api_server.database import DatabaseError
from userspace_proxy.demo.api_server.kinds import DEPLOYMENTS, PODS, Resource, groups
from userspace_proxy.demo.api_server.lifecycle import DeleteOptions, Part
from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.paths import Target
from userspace_proxy.demo.api_server.protobuf import ProtobufError
from userspace_proxy.demo.api_server.reads import Watch
from userspace_proxy.demo.api_server.rendering import Rendering
from userspace_proxy.demo.api_server.statuses import (
    StatusError,
    bad_request,
    not_allowed,
    not_found,
    unauthorized,
    unknown_path,
    unsupported_media_type,
)
from userspace_proxy.demo.api_server.store import Store
from userspace_proxy.demo.api_server.writer import FieldValidation, Manner, Writer, Written

MOST_BODY_BYTES: Final = 3 * 1024 * 1024
MOST_WATCHES: Final = 1_000

_JSON: Final = "application/json"
_STREAMING_PARTS: Final = ("attach", "exec", "portforward", "proxy")
_log = logging.getLogger(__name__)


class PodLogsError(Exception):
    """There is no log to give; the text says why."""


class PodLogs(Protocol):
    """Where the logs of pods come from."""

    def __call__(
        self,
        namespace: str,
        name: str,
        container: str,
        follow: bool,
        tail_lines: int | None,
        previous: bool,
    ) -> AsyncIterator[bytes]:
        """A container's output; with `follow` until the container ends. Raises PodLogsError."""


class Routes:
    """Answers requests that bring the token."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        *,
        token: str,
        pod_logs: PodLogs | None,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._writer = writer
        self._token = f"Bearer {token}".encode()
        self._pod_logs = pod_logs
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
            message = f"the body of the request has more than {MOST_BODY_BYTES} bytes"
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
        if part and resource.subresource(part) is None:
            raise _no_such_part(resource, part)
        if resource is PODS and part == "log":
            return await self._logs(request, target)
        if resource is PODS and part == "binding":
            return await self._bind(request, target)
        if resource is DEPLOYMENTS and part == "scale":
            return await self._scale(request, target)
        match request.method:
            case "GET":
                return await self._read(request, target)
            case "POST" if not target.name:
                body = await _body(request, resource.schema)
                written = await self._writer.create(resource, target.namespace, body, _manner(request))
                return self._written(request, target, written, 201)
            case "PUT" if target.name:
                body = await _body(request, resource.schema)
                done = await self._writer.replace(resource, target.key, body, Part(part), _manner(request))
                return self._written(request, target, done)
            case "PATCH" if target.name and part != Part.FINALIZE.value:
                patch, kind = await _patch(request)
                done = await self._writer.patch(
                    resource, target.key, patch, kind, Part(part), _manner(request)
                )
                return self._written(request, target, done)
            case "DELETE" if not part:
                return await self._delete(request, target)
            case method:
                raise not_allowed(f"the server does not allow {method} on {request.path}")

    def _about(self, request: web.Request) -> web.Response:
        """What the server says of itself."""
        if request.method != "GET":
            raise unknown_path()
        is_aggregated = "as=APIGroupDiscoveryList" in request.headers.get("Accept", "")
        match request.path.strip("/").split("/"):
            case ["healthz" | "livez" | "readyz", *_]:
                return web.Response(text="ok")
            case ["version"]:
                return _json(discovery.version())
            case ["api" | "apis" as root] if is_aggregated:
                body = msgspec.json.encode(discovery.aggregated(root == "api"))
                return web.Response(body=body, headers={"Content-Type": discovery.AGGREGATED})
            case ["api"]:
                return _json(discovery.api_versions())
            case ["apis"]:
                return _json(discovery.group_list())
            case ["api", "v1"]:
                return _json(discovery.resource_list(groups()[""]))
            case ["apis", group] if group and group in groups():
                return _json(discovery.group(group))
            case ["apis", group, "v1"] if group and group in groups():
                return _json(discovery.resource_list(groups()[group]))
            case ["openapi", "v3"]:
                return _json(openapi.root())
            case ["openapi", "v3", *rest] if (document := openapi.document("/".join(rest))) is not None:
                return _json(document)
            case _:
                raise unknown_path()

    async def _read(self, request: web.Request, target: Target) -> web.StreamResponse:
        rendering = self._rendering(request, target.resource)
        if reads.is_true(request.query, "watch"):
            return await self._watch(request, Watch(self._store, target, request.query, rendering))
        if not target.name:
            page = reads.page(self._store, target, request.query)
            return _raw(rendering.listed(page.found, page.metadata))
        stored = self._store.get(target.resource, target.key)
        if stored is None:
            raise not_found(target.resource, target.name)
        return _raw(rendering.one(stored))

    async def _watch(self, request: web.Request, watch: Watch) -> web.StreamResponse:
        if self._watches >= MOST_WATCHES:
            message = f"there are {MOST_WATCHES} watches already, which is all this server does"
            raise StatusError(429, "TooManyRequests", message, headers={"Retry-After": "1"})
        self._watches += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": _JSON})
            await response.prepare(request)
            try:
                async with asyncio.timeout(watch.seconds):
                    async for line in watch.lines():
                        await _send(request, response, line)
            except TimeoutError:
                pass
            return response
        finally:
            self._watches -= 1

    async def _delete(self, request: web.Request, target: Target) -> web.Response:
        options = await _delete_options(request)
        manner = _manner(request)
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
        before = self._store.get(resource, target.key)
        left = await self._writer.delete(resource, target.key, options, manner)
        if left is not None or before is None:
            return _raw(self._rendering(request, resource).one(left)) if left else _json({})
        details = {"name": target.name, "kind": resource.plural, "uid": before.read()["metadata"]["uid"]}
        if resource.group:
            details["group"] = resource.group
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return _json(status | {"details": details})

    async def _bind(self, request: web.Request, target: Target) -> web.Response:
        if request.method != "POST":
            raise not_allowed("a pod's binding can only be created")
        await self._writer.bind(target.key, await _body(request, _BINDING), _manner(request))
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return _json(status, 201)

    async def _scale(self, request: web.Request, target: Target) -> web.Response:
        match request.method:
            case "GET":
                stored = self._store.get(target.resource, target.key)
                if stored is None:
                    raise not_found(target.resource, target.name)
                return _json(scale.scale_of(stored.read()))
            case "PUT":
                body = await _body(request, scale.SCHEMA)
                written = await self._writer.scale(target.key, lambda _: body, _manner(request))
            case "PATCH":
                patch, kind = await _patch(request)
                written = await self._writer.scale(
                    target.key,
                    lambda before: patches.patched(before, patch, kind, scale.SCHEMA),
                    _manner(request),
                )
            case method:
                raise not_allowed(f"a scale is read and changed, not {method}")
        return _json(scale.scale_of(written.stored.read()))

    async def _logs(self, request: web.Request, target: Target) -> web.StreamResponse:
        if request.method != "GET":
            raise not_allowed("a log can only be read")
        stored = self._store.get(PODS, target.key)
        if stored is None:
            raise not_found(PODS, target.name)
        query = request.query
        if unknown := [name for name in _UNKNOWN_LOG_OPTIONS if query.get(name) not in (None, "", "false")]:
            raise bad_request(f"this API server gives logs without {', '.join(unknown)}: leave that out")
        container = _container(stored.read(), query.get("container", ""))
        if self._pod_logs is None:
            raise StatusError(501, "NotImplemented", "this cluster keeps no logs of pods")
        chunks = self._pod_logs(
            target.namespace,
            target.name,
            container,
            reads.is_true(query, "follow"),
            reads.number(query, "tailLines") if query.get("tailLines") else None,
            reads.is_true(query, "previous"),
        )
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        try:
            first = await anext(aiter(chunks), b"")
        except PodLogsError as error:
            raise bad_request(str(error)) from error
        await response.prepare(request)
        if first:
            await _send(request, response, first)
        async for chunk in chunks:
            await _send(request, response, chunk)
        return response

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


_BINDING: Final = "core.v1.Binding"
_DELETE_OPTIONS: Final = "meta.v1.DeleteOptions"
_UNKNOWN_LOG_OPTIONS: Final = ("sinceSeconds", "sinceTime", "timestamps", "limitBytes")


def _no_such_part(resource: Resource, part: str) -> StatusError:
    if resource is PODS and part in _STREAMING_PARTS:
        return not_allowed(
            f"this API server cannot do {part}: `userspace-proxy demo exec` and `userspace-proxy demo shell` "
            "lead into a pod"
        )
    return unknown_path()


def _container(pod: Object, asked: str) -> str:
    """The container whose log is wanted: a pod's only one needs no name."""
    known: list[str] = [container["name"] for container in pod["spec"]["containers"]]
    name = pod["metadata"]["name"]
    if asked in known:
        return asked
    if asked:
        raise bad_request(f"container {asked} is not valid for pod {name}")
    if len(known) > 1:
        choices = " ".join(known)
        raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{choices}]")
    return known[0]


async def _send(request: web.Request, response: web.StreamResponse, chunk: bytes) -> None:
    """Send a part of an answer. Whoever takes nothing for long is cut off."""
    try:
        async with asyncio.timeout(reads.WRITE_SECONDS):
            await response.write(chunk)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise


async def _body(request: web.Request, schema: str) -> Any:
    """What a request brings: an object of a type, if it is in protobuf; in JSON that is yet to be seen."""
    body = await request.read()
    match request.content_type:
        case "application/json" | "application/octet-stream":
            return _decoded(body)
        case protobuf.MEDIA_TYPE:
            try:
                return protobuf.decode(body, schema)
            except ProtobufError as error:
                raise bad_request(f"the body of the request is no {schema} in protobuf: {error}") from error
        case kind:
            raise unsupported_media_type(
                f"the body of the request was in an unknown format ({kind}) - accepted media types include: "
                f"{_JSON}, {protobuf.MEDIA_TYPE}"
            )


async def _patch(request: web.Request) -> tuple[Any, str]:
    kind = request.content_type
    if kind not in patches.KINDS:
        patches.patched({}, {}, kind, "")
    return _decoded(await request.read()), kind


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body of the request is no JSON: {error}") from error


async def _delete_options(request: web.Request) -> DeleteOptions:
    query = request.query
    given = await _body(request, _DELETE_OPTIONS) if request.body_exists else {}
    try:
        options = msgspec.convert(given, DeleteOptions)
    except msgspec.ValidationError as error:
        raise bad_request(f"the body of the request is no DeleteOptions: {error}") from error
    asked: dict[str, Any] = {}
    if "gracePeriodSeconds" in query:
        asked["grace_period_seconds"] = reads.number(query, "gracePeriodSeconds")
    if policy := query.get("propagationPolicy"):
        asked["propagation_policy"] = policy
    options = msgspec.structs.replace(options, **asked)
    if options.propagation_policy not in (None, "Background", "Foreground", "Orphan"):
        raise bad_request(
            f"propagationPolicy is one of Background, Foreground and Orphan, not {options.propagation_policy}"
        )
    return options


def _manner(request: web.Request) -> Manner:
    validation = request.query.get("fieldValidation") or FieldValidation.WARN.value
    dry_run = request.query.get("dryRun", "")
    try:
        kind = FieldValidation(validation)
    except ValueError as error:
        raise bad_request(f"fieldValidation is one of Ignore, Warn and Strict, not {validation}") from error
    if dry_run not in ("", "All"):
        raise bad_request(f"dryRun is All or nothing, not {dry_run}")
    return Manner(kind, dry_run == "All")


def _json(body: Object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return _raw(msgspec.json.encode(body), status, headers)


def _raw(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers={"Content-Type": _JSON, **(headers or {})})
