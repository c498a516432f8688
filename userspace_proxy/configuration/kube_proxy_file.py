"""The configuration file: a KubeProxyConfiguration, in YAML or JSON, read and written.

Reading makes texts of the fields, as flags have them, so that one reader an option is enough. Everything that
is wrong is found in one go, each thing with its path. Source: the kubeproxy.config.k8s.io/v1alpha1 reference.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, assert_never

from userspace_proxy.configuration.accepted_options import ACCEPTED_FIELDS, Why
from userspace_proxy.configuration.options import OPTIONS, OUR_SECTION, Kind, Option
from userspace_proxy.configuration.values import listed
from userspace_proxy.core.decoding import describe
from userspace_proxy.core.problem import Problem
from userspace_proxy.sources.yaml_documents import YAMLDocumentError, parse_documents

API_VERSION: Final = "kubeproxy.config.k8s.io/v1alpha1"
KIND: Final = "KubeProxyConfiguration"
_BY_FIELD: Final = {option.field: option for option in OPTIONS.values() if option.field}
_KNOWN: Final = frozenset({*_BY_FIELD, *ACCEPTED_FIELDS})
_SECTIONS: Final = frozenset(
    ".".join(parts[:length])
    for parts in (path.split(".") for path in _KNOWN)
    for length in range(1, len(parts))
)


@dataclass(slots=True)
class ConfigurationFile:
    """What a file says: `texts` by option, the `ignored` fields that ask for something, and what is wrong."""

    path: str
    texts: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, Why] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def complain(self, field: str, reason: str) -> None:
        self.problems.append(Problem(self.path, "", "", "", field, reason))


def read_file(path: str, content: bytes) -> ConfigurationFile:
    """Read `content`; `path` goes into what is said of it. Never raises."""
    found = ConfigurationFile(path)
    try:
        documents = [document for document in parse_documents(content) if document is not None]
    except YAMLDocumentError as error:
        found.complain("", f"cannot be read as YAML: {error}")
        return found
    if len(documents) != 1 or not isinstance(documents[0], dict):
        found.complain("", f"holds {_what(documents)}, where one {KIND} is expected")
        return found
    fields = documents[0]
    for name, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        if name not in fields:
            found.complain(name, f"is missing, and should be {expected}")
        elif fields[name] != expected:
            found.complain(name, f"{describe(fields[name])} is not {expected}")
    if not found.problems:  # else the fields are another kind's
        _read_fields({key: fields[key] for key in fields if key not in ("apiVersion", "kind")}, "", found)
    return found


def _what(documents: list[object]) -> str:
    if not documents:
        return "nothing"
    return describe(documents[0]) if len(documents) == 1 else f"{len(documents)} documents"


def _read_fields(fields: Mapping[str, object], prefix: str, found: ConfigurationFile) -> None:
    for name, value in fields.items():
        path = f"{prefix}{name}"
        if path in _BY_FIELD:
            _read_option(_BY_FIELD[path], value, found)
        elif path in ACCEPTED_FIELDS:
            if not _is_zero(value):
                found.ignored[path] = ACCEPTED_FIELDS[path]
        elif path not in _SECTIONS:
            found.complain(path, f"is no field of {KIND}{_suggestion(path)}")
        elif isinstance(value, dict):
            _read_fields(value, f"{path}.", found)
        elif value is not None:
            found.complain(path, f"{describe(value)} is not an object")


def _suggestion(path: str) -> str:
    section = path.rpartition(".")[0]
    siblings = [known for known in (*_KNOWN, *_SECTIONS) if known.rpartition(".")[0] == section]
    near = difflib.get_close_matches(path, siblings, 1, 0.8)
    return f"; did you mean {near[0]}?" if near else ""


def _is_zero(value: object) -> bool:
    """Whether a field says no more than if it were absent."""
    match value:
        case dict():
            return all(map(_is_zero, value.values()))
        case str():
            return value in ("", "0", "0s")
        case _:
            return not value


def _read_option(option: Option, value: object, found: ConfigurationFile) -> None:
    if value is None or value == "" or (option.zero_is_default and _is_zero(value)):
        return
    if option.kind is Kind.STRINGS and isinstance(value, list):
        wrong = [index for index, entry in enumerate(value) if not isinstance(entry, str)]
        for index in wrong:
            found.complain(f"{option.field}[{index}]", f"{describe(value[index])} is not a string")
        if not wrong:
            found.texts[option.name] = listed(value)
        return
    if not _fits(option.kind, value):
        found.complain(option.field, f"{describe(value)} is not {option.kind.value}")
        return
    found.texts[option.name] = json.dumps(value) if not isinstance(value, str) else value


def _fits(kind: Kind, value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case Kind.STRING | Kind.DURATION:
            return isinstance(value, str)
        case Kind.STRINGS:
            return False
        case Kind.INTEGER:
            return is_number and isinstance(value, int)
        case Kind.BOOLEAN:
            return isinstance(value, bool)
        case Kind.NUMBER:
            return is_number
        case Kind.SECONDS | Kind.LIMIT:
            return is_number or isinstance(value, str)
        case _:
            assert_never(kind)


def write_file(texts: Mapping[str, str]) -> str:
    """The file that says what `texts` say, by option; those that are missing or empty are written as null."""
    content: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND}
    for option in OPTIONS.values():
        if not option.field:
            continue
        *sections, name = option.field.split(".")
        holder = content
        for section in sections:
            holder = holder.setdefault(section, {})
        holder[name] = _field_of(option.kind, texts.get(option.name, ""))
    ours = content.pop(OUR_SECTION)
    return _yaml({**dict(sorted(content.items())), OUR_SECTION: ours})


def _field_of(kind: Kind, text: str) -> object:
    if not text:
        return None
    match kind:
        case Kind.STRING | Kind.DURATION:
            return text
        case Kind.STRINGS:
            return text.split(",")
        case Kind.INTEGER | Kind.NUMBER | Kind.BOOLEAN:
            return json.loads(text)
        case Kind.SECONDS | Kind.LIMIT:
            return int(text) if text.isdecimal() else text
        case _:
            assert_never(kind)


def _yaml(value: Mapping[str, Any], indent: str = "") -> str:
    """YAML whose plain values are JSON's, so that nothing is taken for something else."""
    lines = []
    for key, entry in value.items():
        if isinstance(entry, dict):
            lines.append(f"{indent}{key}:\n{_yaml(entry, f'{indent}  ')}")
        else:
            lines.append(f"{indent}{key}: {json.dumps(entry)}\n")
    return "".join(lines)
