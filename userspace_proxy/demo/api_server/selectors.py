"""Label and field selectors: `app=web,tier in (a,b),!old` and `metadata.name=web,status.phase!=Running`.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, assert_never

from userspace_proxy.demo.api_server.kinds import Resource
from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.statuses import StatusError, bad_request


class Operator(Enum):
    """What is asked of a key."""

    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    DOES_NOT_EXIST = "!"
    GREATER = ">"
    LESS = "<"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term of a label selector."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def is_met(self, labels: Mapping[str, str]) -> bool:
        """Whether labels fulfil it."""
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value is None or value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None
            case Operator.GREATER:
                return _is_number(value) and int(value or 0) > int(self.values[0])
            case Operator.LESS:
                return _is_number(value) and int(value or 0) < int(self.values[0])
            case _:
                assert_never(self.operator)


def _is_number(value: str | None) -> bool:
    return value is not None and re.fullmatch(r"-?\d{1,18}", value) is not None


_KEY: Final = r"(?P<key>[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?)"
_VALUE: Final = r"[A-Za-z0-9]?([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_TERMS: Final = (
    (Operator.DOES_NOT_EXIST, re.compile(rf"!\s*{_KEY}")),
    (Operator.EXISTS, re.compile(_KEY)),
    (Operator.NOT_IN, re.compile(rf"{_KEY}\s*!=\s*(?P<value>{_VALUE})")),
    (Operator.IN, re.compile(rf"{_KEY}\s*==?\s*(?P<value>{_VALUE})")),
    (Operator.GREATER, re.compile(rf"{_KEY}\s*>\s*(?P<value>-?\d{{1,18}})")),
    (Operator.LESS, re.compile(rf"{_KEY}\s*<\s*(?P<value>-?\d{{1,18}})")),
    (Operator.NOT_IN, re.compile(rf"{_KEY}\s+notin\s*\((?P<list>[^()]*)\)")),
    (Operator.IN, re.compile(rf"{_KEY}\s+in\s*\((?P<list>[^()]*)\)")),
)
_BETWEEN_TERMS: Final = re.compile(r",(?![^()]*\))")


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """The terms of a label selector, all of which must be met; none for empty text.

    Raises StatusError (400) for what is no selector.
    """
    if not text.strip():
        return ()
    return tuple(_requirement(term.strip(), text) for term in _BETWEEN_TERMS.split(text))


def _requirement(term: str, text: str) -> Requirement:
    for operator, pattern in _TERMS:
        if found := pattern.fullmatch(term):
            groups = found.groupdict()
            if (listed := groups.get("list")) is not None:
                values = tuple(value.strip() for value in listed.split(","))
                if all(re.fullmatch(_VALUE, value) for value in values):
                    return Requirement(groups["key"], operator, values)
            else:
                value = groups.get("value")
                return Requirement(groups["key"], operator, () if value is None else (value,))
    raise bad_request(f'unable to parse requirement: "{term}" in the label selector "{text}"')


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """One term of a field selector."""

    field: str
    value: str
    is_equal: bool

    def is_met(self, fields: Mapping[str, str]) -> bool:
        """Whether fields fulfil it; a field without a value is empty text."""
        return (fields.get(self.field, "") == self.value) is self.is_equal


_FIELD_TERM: Final = re.compile(r"(?P<field>[^=!]+?)(?P<operator>==|!=|=)(?P<value>.*)")
_ALWAYS_SELECTABLE: Final = ("metadata.name", "metadata.namespace")


def parse_fields(text: str, resource: Resource) -> tuple[FieldRequirement, ...]:
    """The terms of a field selector; none for empty text. Raises StatusError (400) for other fields."""
    found = []
    for term in filter(None, text.split(",")):
        match = _FIELD_TERM.fullmatch(term)
        if match is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        name = match["field"]
        if name not in resource.selectable and not (
            name == "metadata.name" or (name == "metadata.namespace" and resource.is_namespaced)
        ):
            raise _unsupported(name, resource)
        found.append(FieldRequirement(name, match["value"], match["operator"] != "!="))
    return tuple(found)


def _unsupported(name: str, resource: Resource) -> StatusError:
    known = ", ".join((*_ALWAYS_SELECTABLE, *resource.selectable))
    return bad_request(f"field label not supported: {name} (there are {known})")


def selectable_fields(item: Object, resource: Resource) -> dict[str, str]:
    """What a field selector may ask for, as text, beside name and namespace."""
    return {name: _text(_at(item, name)) for name in resource.selectable}


def _at(item: Object, path: str) -> Any:
    value: Any = item
    if path == "source":
        source = item.get("source") or {}
        return source.get("component") or item.get("reportingComponent")
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case _:
            return str(value)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a request asks to see."""

    labels: Sequence[Requirement] = ()
    fields: Sequence[FieldRequirement] = ()
    namespace: str = ""

    def selects(self, labels: Mapping[str, str], fields: Mapping[str, str], namespace: str) -> bool:
        """Whether an object with these is among it."""
        return (
            (not self.namespace or namespace == self.namespace)
            and all(requirement.is_met(labels) for requirement in self.labels)
            and all(requirement.is_met(fields) for requirement in self.fields)
        )
