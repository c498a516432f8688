"""From the API's JSON to `objects`, one object at a time, losing only what a bad field spoils.

Good input takes one typed decode. Only where that fails is the object taken apart field by field:

- a bad field is named and its default stands in for it, as if it had been absent;
- unless the rest would then mean something else (an endpoint whose `ready` is unreadable must not count as
  ready): then what holds the field is lost too, up to the nearest list entry - a port, an endpoint - or the
  whole object. `_DECISIVE` says which fields these are;
- a list of plain values is lost whole, because its entries are told apart by position (of an endpoint's
  `addresses` the first is the one that counts);
- a label keeps its key and gets an empty value, because some labels work by being there; an annotation goes.

`null` is what Kubernetes takes it for: absent. Unknown fields are not looked at.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, Union, get_args, get_origin

import msgspec

from userspace_proxy.core import objects
from userspace_proxy.core.object_names import is_dns_subdomain
from userspace_proxy.core.problem import Problem

_SHOWN_CHARACTERS = 60

_LABELS = "metadata.labels"

_DECISIVE: dict[type[msgspec.Struct], frozenset[str]] = {
    objects.ObjectMeta: frozenset({"namespace", "labels"}),
    objects.Service: frozenset({"spec"}),
    objects.ServiceSpec: frozenset({"type", "internal_traffic_policy"}),
    objects.ServicePortSpec: frozenset({"name", "protocol"}),
    objects.LoadBalancerIngress: frozenset({"ip_mode"}),
    objects.EndpointPort: frozenset({"name", "port", "protocol"}),
    objects.EndpointConditions: frozenset({"ready", "serving", "terminating"}),
    objects.SliceEndpoint: frozenset({"conditions"}),
}
"""Fields, beside the required ones, whose loss would change the meaning of what is left."""


class _Named(Protocol):
    @property
    def metadata(self) -> objects.ObjectMeta: ...


_T = TypeVar("_T", bound=_Named)


@dataclass(frozen=True, slots=True)
class Decoded(Generic[_T]):
    """What could be made of one object (None: nothing usable is left), and what is wrong with it."""

    object: _T | None
    problems: tuple[Problem, ...] = ()


def decode(struct: type[_T], json: bytes | msgspec.Raw, origin: str) -> Decoded[_T]:
    """Decode one object of the kind `struct` from its JSON; `origin` goes into the problems. Never raises."""
    try:
        decoded = msgspec.json.decode(json, type=struct)
    except msgspec.ValidationError:
        pass
    except (ValueError, RecursionError) as error:
        return _unusable(struct, origin, f"cannot be read as JSON: {error}")
    else:
        if _has_names(decoded.metadata):
            return Decoded(decoded)
    try:
        value = msgspec.json.decode(json)
    except (ValueError, RecursionError) as error:
        return _unusable(struct, origin, f"cannot be read as JSON: {error}")
    return _recover_object(struct, value, origin)


def convert(struct: type[_T], value: object, origin: str) -> Decoded[_T]:
    """As `decode`, from what a JSON or YAML parser made: dicts, lists and plain values. Never raises."""
    try:
        converted = msgspec.convert(value, struct)
    except msgspec.ValidationError:
        return _recover_object(struct, value, origin)
    return Decoded(converted) if _has_names(converted.metadata) else _recover_object(struct, value, origin)


def describe(value: object) -> str:
    """Any parsed value as a short, printable clause for a problem's reason."""
    match value:
        case None | bool():
            return str(value).lower().replace("none", "null")
        case int() if value.bit_length() > 64:
            return "a number of more than 64 bits"
        case int() | float():
            return str(value)
        case str() if len(value) > _SHOWN_CHARACTERS:
            return f"{value[:_SHOWN_CHARACTERS]!r}…"
        case str():
            return repr(value)
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"


def _has_names(metadata: objects.ObjectMeta) -> bool:
    """Whether the names can go into rules and logs as they are."""
    names = (metadata.name, metadata.namespace) if metadata.namespace else (metadata.name,)
    return all(map(is_dns_subdomain, names))


def _unusable(struct: type[_T], origin: str, reason: str) -> Decoded[_T]:
    return Decoded(None, (Problem(origin, struct.__name__, "", "", "", reason),))


def _recover_object(struct: type[_T], value: object, origin: str) -> Decoded[_T]:
    namespace, name = _names(value)
    problems: list[Problem] = []

    def name_problem(field: str, reason: str) -> None:
        problems.append(Problem(origin, struct.__name__, namespace, name, field, reason))

    try:
        recovered: _T = _recover(value, struct, "", name_problem)
    except _LostError:
        return Decoded(None, tuple(problems))
    if _has_names(recovered.metadata):
        return Decoded(recovered, tuple(problems))
    for field in ("name", "namespace"):
        text = getattr(recovered.metadata, field)
        if not is_dns_subdomain(text):
            name_problem(f"metadata.{field}", f"{describe(text)} is not a DNS name")
    return Decoded(None, tuple(problems))


def _names(value: object) -> tuple[str, str]:
    """Namespace and name for a problem, as far as they can be shown."""
    metadata = value.get("metadata") if isinstance(value, dict) else None
    names = (metadata.get("namespace"), metadata.get("name")) if isinstance(metadata, dict) else ("", "")
    namespace, name = (text if isinstance(text, str) and is_dns_subdomain(text) else "" for text in names)
    return namespace, name


class _LostError(Exception):
    """Nothing is left of the value; why has been named."""


_NameProblem = Callable[[str, str], None]


def _recover(value: object, wanted: Any, path: str, name_problem: _NameProblem) -> Any:
    """What is left of `value` as a `wanted`, with every bad field under `path` named. Raises `_LostError`."""
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError:
        pass
    wanted = _required_type(wanted)
    if isinstance(value, dict) and isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return _recover_struct(value, wanted, path, name_problem)
    if isinstance(value, dict) and get_origin(wanted) is dict:
        return _recover_texts(value, path, name_problem)
    if isinstance(value, list) and get_origin(wanted) is list:
        return _recover_list(value, get_args(wanted)[0], path, name_problem)
    name_problem(path, f"{describe(value)} is not {_expected(value, wanted)}")
    raise _LostError


def _recover_struct(
    value: dict[object, object], struct: type[msgspec.Struct], path: str, name_problem: _NameProblem
) -> msgspec.Struct:
    fields: dict[str, Any] = {}
    lost = False
    for field in msgspec.structs.fields(struct):
        field_path = f"{path}.{field.encode_name}" if path else field.encode_name
        field_value = value.get(field.encode_name)
        if field_value is not None:
            try:
                fields[field.name] = _recover(field_value, field.type, field_path, name_problem)
            except _LostError:
                lost = lost or field.required or field.name in _DECISIVE.get(struct, ())
        elif field.required:
            name_problem(field_path, "is missing")
            lost = True
    if lost:
        raise _LostError
    return struct(**fields)


def _recover_list(value: list[object], wanted: Any, path: str, name_problem: _NameProblem) -> list[Any]:
    entries = []
    for index, entry in enumerate(value):
        try:
            entries.append(_recover(entry, wanted, f"{path}[{index}]", name_problem))
        except _LostError:
            if not (isinstance(wanted, type) and issubclass(wanted, msgspec.Struct)):
                raise
    return entries


def _recover_texts(value: dict[object, object], path: str, name_problem: _NameProblem) -> dict[str, str]:
    texts = {}
    for key, text in value.items():
        if not isinstance(key, str):
            name_problem(path, f"the key {describe(key)} is not a string")
        elif isinstance(text, str):
            texts[key] = text
        elif text is None:
            texts[key] = ""
        else:
            name_problem(f"{path}[{describe(key)}]", f"{describe(text)} is not a string")
            if path == _LABELS:
                texts[key] = ""
    return texts


def _required_type(wanted: Any) -> Any:
    """`X` of `X | None`, and of an annotated `X`."""
    if get_origin(wanted) in (Union, types.UnionType):
        wanted = next(choice for choice in get_args(wanted) if choice is not types.NoneType)
    return getattr(wanted, "__origin__", wanted) if hasattr(wanted, "__metadata__") else wanted


def _expected(value: object, wanted: Any) -> str:
    if wanted is int and isinstance(value, int) and not isinstance(value, bool):
        return "a 32-bit integer"
    names = {int: "an integer", str: "a string", bool: "a boolean", list: "a list"}
    return names.get(get_origin(wanted) or wanted, "an object")
