"""The types of the API, and reading an object by them: what is of a wrong type is refused.

schemas.json is made by scripts/make_api_schemas.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import msgspec

from userspace_proxy.demo.api_server.objects import Object, parse_timestamp


class Merging(msgspec.Struct, frozen=True):
    """How a strategic merge patch treats a field: `key` tells the entries of a list apart."""

    strategy: str
    key: str = ""

    @property
    def merges(self) -> bool:
        """Whether a list is merged rather than replaced."""
        return "merge" in self.strategy.split(",")

    @property
    def retains_keys(self) -> bool:
        """Whether a patch may say which keys are to be left."""
        return "retainKeys" in self.strategy.split(",")


class Schema(msgspec.Struct, frozen=True):
    """A type: the form of each field, as `int32`, `core.v1.ServicePort`, `[]string` or `map string`.

    `wire` has their numbers in protobuf, with a dictionary of its own for an embedded struct. To the fields
    among `pointers` zero and empty text are values; elsewhere they are the same as nothing.
    """

    fields: dict[str, str]
    required: frozenset[str] = frozenset()
    patch: dict[str, Merging] = {}
    wire: dict[int, str | dict[int, str]] = {}
    pointers: frozenset[str] = frozenset()

    def means_zero(self, field: str) -> bool:
        """Whether zero, or an empty value, says something in a field."""
        return field in self.pointers or field in self.required


class Schemas(msgspec.Struct, frozen=True):
    """All types, by name, of a release of Kubernetes."""

    release: str
    types: dict[str, Schema]


@cache
def load() -> Schemas:
    """The types, read once."""
    text = resources.files(__package__).joinpath("schemas.json").read_bytes()
    return msgspec.json.decode(text, type=Schemas)


class DecodeError(Exception):
    """A value cannot be what its field wants, in the words of Go's decoder."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What an object says in fields that there are, and the paths of those that there are not."""

    item: Object
    unknown: tuple[str, ...]


INT_RANGES: Final = {"int32": range(-(2**31), 2**31), "int64": range(-(2**63), 2**63)}
_QUANTITY: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?")
_TIMES: Final = ("meta.v1.Time", "meta.v1.MicroTime")
_GO_NAMES: Final = {"boolean": "bool", "double": "float64"}


def decode(item: Any, schema: str) -> Decoded:
    """Read an object of a type. Fields without a value are left out, as if they had not been written.

    Raises DecodeError for a value of a wrong type.
    """
    unknown: list[str] = []
    known = _struct(item, schema, _Place("", "", ""), unknown)
    return Decoded(known, tuple(unknown))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands: its path as we say it, and as Go does: the struct, the fields, and no index."""

    path: str
    owner: str
    fields: str

    def field(self, name: str, owner: str) -> _Place:
        return _Place(_joined(self.path, name), owner, _joined(self.fields, name))

    def at(self, suffix: str) -> _Place:
        return _Place(self.path + suffix, self.owner, self.fields)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _struct(value: Any, schema: str, place: _Place, unknown: list[str]) -> Object:
    if not isinstance(value, dict):
        raise _mistyped(value, schema, place)
    types = load().types
    known = types[schema]
    owner = schema.rpartition(".")[2]
    found: Object = {}
    for name, part in value.items():
        form = known.fields.get(name)
        inner = place.field(name, owner)
        if form is None:
            unknown.append(inner.path)
        elif part is not None:
            read = _value(part, form, inner, unknown)
            if read or known.means_zero(name) or form in types:
                found[name] = read
    return found


def _value(value: Any, form: str, place: _Place, unknown: list[str]) -> Any:
    if form.startswith("[]"):
        if not isinstance(value, list):
            raise _mistyped(value, form, place)
        return [_value(part, form[2:], place.at(f"[{at}]"), unknown) for at, part in enumerate(value)]
    if form.startswith("map "):
        if not isinstance(value, dict):
            raise _mistyped(value, form, place)
        return {
            key: _value(part, form[4:], place.at(f".{key}"), unknown)
            for key, part in value.items()
            if part is not None
        }
    if form in load().types:
        return _struct(value, form, place, unknown)
    return _scalar(value, form, place)


def _scalar(value: Any, form: str, place: _Place) -> Any:
    if form in INT_RANGES:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is int and value in INT_RANGES[form]:
            return value
    elif form == "api.resource.Quantity":
        if type(value) in (int, float):
            return str(value)
        if isinstance(value, str):
            return _quantity(value)
    elif form == "util.intstr.IntOrString":
        if isinstance(value, str) or (type(value) is int and value in INT_RANGES["int32"]):
            return value
    elif form in _TIMES:
        if isinstance(value, str):
            return _time(value)
    elif form == "boolean":
        if isinstance(value, bool):
            return value
    elif form == "string":
        if isinstance(value, str):
            return value
    else:  # what is of any form, such as FieldsV1
        return value
    raise _mistyped(value, form, place)


def _quantity(text: str) -> str:
    if not _QUANTITY.fullmatch(text):
        pattern = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"
        raise DecodeError(f"quantities must match the regular expression '{pattern}'")
    return text


def _time(text: str) -> str:
    if parse_timestamp(text) is None:
        raise DecodeError(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse it')
    return text


def _shape(value: Any) -> str:
    match value:
        case dict():
            return "object"
        case list():
            return "array"
        case str():
            return "string"
        case bool():
            return "bool"
        case _:
            return "number"


def _mistyped(value: Any, form: str, place: _Place) -> DecodeError:
    given = _shape(value)
    if given == "number" and form in INT_RANGES:
        given = f"number {value}"
    where = f"struct field {place.owner}.{place.fields}" if place.owner else "value"
    return DecodeError(f"json: cannot unmarshal {given} into Go {where} of type {_go_name(form)}")


def _go_name(form: str) -> str:
    if form.startswith("[]"):
        return f"[]{_go_name(form[2:])}"
    if form.startswith("map "):
        return f"map[string]{_go_name(form[4:])}"
    return _GO_NAMES.get(form) or ".".join(form.split(".")[-2:])
