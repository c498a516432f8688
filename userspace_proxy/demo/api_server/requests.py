"""What a request brings, in its body and in its query, beside the path."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import web

from userspace_proxy.demo.api_server import patches, protobuf
from userspace_proxy.demo.api_server.decoding import FieldValidation
from userspace_proxy.demo.api_server.lifecycle import DeleteOptions
from userspace_proxy.demo.api_server.protobuf import ProtobufError
from userspace_proxy.demo.api_server.reads import number
from userspace_proxy.demo.api_server.statuses import bad_request, unsupported_media_type
from userspace_proxy.demo.api_server.writer import Manner

_JSON: Final = "application/json"
_DELETE_OPTIONS: Final = "meta.v1.DeleteOptions"


async def body(request: web.Request, schema: str) -> Any:
    """What a request brings: an object of a type, if it is in protobuf; in JSON that is yet to be seen."""
    text = await request.read()
    match request.content_type:
        case "application/json" | "application/octet-stream":
            return _decoded(text)
        case protobuf.MEDIA_TYPE:
            try:
                return protobuf.decode(text, schema)
            except ProtobufError as error:
                raise bad_request(f"the body of the request is no {schema} in protobuf: {error}") from error
        case kind:
            raise unsupported_media_type(
                f"the body of the request was in an unknown format ({kind}) - accepted media types include: "
                f"{_JSON}, {protobuf.MEDIA_TYPE}"
            )


async def patch(request: web.Request) -> tuple[Any, str]:
    """A patch, and which kind it is (its media type). Raises StatusError (400, 415)."""
    kind = request.content_type
    patches.check_kind(kind)
    return _decoded(await request.read()), kind


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body of the request is no JSON: {error}") from error


async def delete_options(request: web.Request) -> DeleteOptions:
    """How a request wants something deleted, by its body and its query. Raises StatusError (400)."""
    query = request.query
    given = await body(request, _DELETE_OPTIONS) if request.body_exists else {}
    try:
        options = msgspec.convert(given, DeleteOptions)
    except msgspec.ValidationError as error:
        raise bad_request(f"the body of the request is no DeleteOptions: {error}") from error
    asked: dict[str, Any] = {}
    if "gracePeriodSeconds" in query:
        asked["grace_period_seconds"] = number(query, "gracePeriodSeconds")
    if policy := query.get("propagationPolicy"):
        asked["propagation_policy"] = policy
    options = msgspec.structs.replace(options, **asked)
    if options.propagation_policy not in (None, "Background", "Foreground", "Orphan"):
        raise bad_request(
            f"propagationPolicy is one of Background, Foreground and Orphan, not {options.propagation_policy}"
        )
    return options


def manner(request: web.Request) -> Manner:
    """How a request wants to be carried out. Raises StatusError (400)."""
    validation = request.query.get("fieldValidation") or FieldValidation.WARN.value
    dry_run = request.query.get("dryRun", "")
    try:
        kind = FieldValidation(validation)
    except ValueError as error:
        raise bad_request(f"fieldValidation is one of Ignore, Warn and Strict, not {validation}") from error
    if dry_run not in ("", "All"):
        raise bad_request(f"dryRun is All or nothing, not {dry_run}")
    return Manner(kind, dry_run == "All")
