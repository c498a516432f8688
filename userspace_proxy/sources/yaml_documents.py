"""YAML as kubectl reads it, safe to feed with anybody's file.

libyaml's events are put together here rather than by PyYAML, because that

- makes strings of what is no JSON: timestamps, sexagesimal numbers (`22:22`), `1e3`, keys of any type;
- bounds nesting (PyYAML's composer recurses in C, so that a deep file ends the process) and what aliases
  expand to;
- is several times faster, which a dump of a large cluster feels.

Source: YAML 1.1 as far as Kubernetes' own parser (sigs.k8s.io/yaml) follows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

MAX_DEPTH = 100
MAX_ALIASED_VALUES = 100_000

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_COLLECTION_TAGS = frozenset({None, "!", f"{_TAG}map", f"{_TAG}seq"})
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}
_NUMBER = re.compile(r"[-+]?(?P<integer>0|[1-9][0-9]{0,30})|[-+]?[0-9]*\.?[0-9]+([eE][-+][0-9]+)?")
_MERGE = "<<"


class YAMLDocumentError(ValueError):
    """The text is no YAML, or more than a manifest can need; says the line."""


@dataclass(slots=True)
class _Collection:
    """A list or mapping that is still being read."""

    value: dict[str, object] | list[object]
    anchor: str | None
    values_before: int
    key: str | None = None
    merged: list[dict[str, object]] = field(default_factory=list)


def parse_documents(data: bytes) -> Iterator[object]:
    """The documents of a YAML stream as dicts, lists, strings, numbers, booleans and None.

    Raises `YAMLDocumentError` where reading cannot go on; documents before that have been yielded by then.
    """
    try:
        yield from _documents(data)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise YAMLDocumentError(f"{line}{error.problem}") from error
    except yaml.YAMLError as error:
        raise YAMLDocumentError(" ".join(str(error).split())) from error


def _documents(data: bytes) -> Iterator[object]:
    open_collections: list[_Collection] = []
    anchors: dict[str, tuple[object, int]] = {}
    values = aliased_values = 0
    for event in yaml.parse(data, Loader=_Loader):
        match event:
            case ScalarEvent():
                values += 1
                # A key stays as it is written, as JSON's keys are strings.
                parent = open_collections[-1] if open_collections else None
                is_key = parent is not None and isinstance(parent.value, dict) and parent.key is None
                value: object = event.value if is_key else _scalar(event)
                anchor, size = event.anchor, 1
            case AliasEvent():
                if event.anchor not in anchors:
                    raise _error(event, f"the alias *{event.anchor} names nothing that is complete")
                value, size = anchors[event.anchor]
                values += size
                aliased_values += size
                anchor = None
                if aliased_values > MAX_ALIASED_VALUES:
                    raise _error(event, f"aliases expand to more than {MAX_ALIASED_VALUES} values")
            case MappingStartEvent() | SequenceStartEvent():
                if event.tag not in _COLLECTION_TAGS:
                    raise _error(event, f"the tag {event.tag!r} has no meaning in a manifest")
                if len(open_collections) == MAX_DEPTH:
                    raise _error(event, f"nested deeper than {MAX_DEPTH}")
                empty: dict[str, object] | list[object] = {} if isinstance(event, MappingStartEvent) else []
                open_collections.append(_Collection(empty, event.anchor, values))
                values += 1
                continue
            case MappingEndEvent() | SequenceEndEvent():
                closed = open_collections.pop()
                value = _merged(closed)
                anchor, size = closed.anchor, values - closed.values_before
            case DocumentStartEvent():
                anchors.clear()
                continue
            case _:
                continue
        if anchor is not None:
            anchors[anchor] = (value, size)
        if open_collections:
            _add(open_collections[-1], value, event)
        else:
            yield value


def _add(collection: _Collection, value: object, event: yaml.Event) -> None:
    if isinstance(collection.value, list):
        collection.value.append(value)
    elif collection.key is None:
        if not isinstance(value, str):
            raise _error(event, "a key is not a string")
        collection.key = value
    elif collection.key == _MERGE:
        collection.key = None
        mappings = value if isinstance(value, list) else [value]
        for mapping in mappings:
            if not isinstance(mapping, dict):
                raise _error(event, "only mappings can be merged by <<")
            collection.merged.append(mapping)
    else:
        collection.value[collection.key] = value
        collection.key = None


def _merged(closed: _Collection) -> object:
    """The mapping with what `<<` merges into it: its own keys win, then the earliest mapping named."""
    if not closed.merged:
        return closed.value
    merged: dict[str, object] = {}
    for mapping in (*reversed(closed.merged), closed.value):
        merged.update(mapping)  # type: ignore[arg-type]
    return merged


def _scalar(event: ScalarEvent) -> object:
    text: str = event.value
    is_plain, is_quoted = event.implicit
    if is_quoted or event.tag in ("!", f"{_TAG}str"):
        return text
    if not is_plain and event.tag not in {f"{_TAG}{name}" for name in ("int", "float", "bool", "null")}:
        raise _error(event, f"the tag {event.tag!r} has no meaning in a manifest")
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.fullmatch(text)
    if number is None:
        return text
    return int(text) if number["integer"] else float(text)


def _error(event: yaml.Event, problem: str) -> YAMLDocumentError:
    line = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
    return YAMLDocumentError(line + problem)
