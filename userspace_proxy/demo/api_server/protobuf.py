"""Reading objects in Kubernetes' protobuf form, in which some of kubectl's commands send what they create.

Only reading: whoever sends it takes JSON in answer. Sources: the envelope is runtime.Unknown, at
https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding; the wire format
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from userspace_proxy.demo.api_server import schemas
from userspace_proxy.demo.api_server.objects import Object

MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"

_MAGIC: Final = b"k8s\x00"
_MOST_DEPTH: Final = 50
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ProtobufError(Exception):
    """Bytes that are no such object."""


def decode(body: bytes, schema: str) -> Object:
    """An object of a type, as JSON would have said it. Raises ProtobufError."""
    if not body.startswith(_MAGIC):
        raise ProtobufError("it does not begin with k8s and a zero byte")
    try:
        envelope = dict(_fields(body[len(_MAGIC) :]))
        kind = dict(_fields(envelope.get(1, b"")))
        item = _message(envelope.get(2, b""), schema, 0)
        item |= {"apiVersion": kind.get(1, b"").decode(), "kind": kind.get(2, b"").decode()}
    except (IndexError, ValueError, AttributeError, TypeError, OverflowError) as error:
        raise ProtobufError(f"it ends too early, or is of another type: {error}") from error
    return item


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an int, or bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
                yield tag >> 3, value
            case 2:
                length, at = _varint(data, at)
                if at + length > len(data):
                    raise ValueError(f"a field of {length} bytes where {len(data) - at} are left")
                yield tag >> 3, data[at : at + length]
                at += length
            case wire_type:
                raise ValueError(f"wire type {wire_type}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift >= 70:
            raise ValueError("a number of more than ten bytes")


def _message(data: bytes, schema: str, depth: int) -> Object:
    if depth > _MOST_DEPTH:
        raise ValueError("too deep")
    known = schemas.load().types[schema]
    item: Object = {}
    _collect(data, known.wire, known.fields, item, depth)
    return item


def _collect(
    data: bytes, wire: Mapping[int, Any], forms: Mapping[str, str], item: Object, depth: int
) -> None:
    """Put a message's fields into `item`; those of an embedded struct stand among them."""
    for number, value in _fields(data):
        match wire.get(number):
            case None:
                pass
            case dict() as embedded:
                _collect(value, embedded, forms, item, depth + 1)
            case name:
                form = forms[name]
                if form.startswith("[]"):
                    item.setdefault(name, []).append(_value(value, form[2:], depth))
                elif form.startswith("map "):
                    entry = dict(_fields(value))
                    item.setdefault(name, {})[entry.get(1, b"").decode()] = _value(
                        entry.get(2, b""), form[4:], depth
                    )
                else:
                    item[name] = _value(value, form, depth)


def _value(value: Any, form: str, depth: int) -> Any:
    match form:
        case "string":
            return value.decode()
        case "int32" | "int64":
            return value - (1 << 64) if value >> 63 else value
        case "boolean":
            return bool(value)
        case "api.resource.Quantity":
            return dict(_fields(value)).get(1, b"0").decode()
        case "util.intstr.IntOrString":
            parts = dict(_fields(value))
            if parts.get(1):
                return parts.get(3, b"").decode()
            return _value(parts.get(2, 0), "int32", depth)
        case "meta.v1.Time" | "meta.v1.MicroTime":
            return _time(dict(_fields(value)))
        case "meta.v1.FieldsV1":
            return None
        case schema:
            return _message(value, schema, depth + 1)


def _time(parts: Mapping[int, int]) -> str | None:
    """A time of seconds and nanoseconds; None for none at all."""
    if not parts:
        return None
    moment = _EPOCH + timedelta(seconds=_value(parts.get(1, 0), "int64", 0))
    micros = parts.get(2, 0) // 1000
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{micros:06}Z" if micros else "Z")
