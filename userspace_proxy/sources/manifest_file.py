"""What one manifest file says: its objects, and what is wrong with it. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from userspace_proxy.core.decoding import convert, describe
from userspace_proxy.core.legacy_endpoints import Endpoints, endpoint_slices
from userspace_proxy.core.objects import ApiObject, EndpointSlice, Node, Service
from userspace_proxy.core.problem import Problem
from userspace_proxy.sources.yaml_documents import YAMLDocumentError, parse_documents

DEFAULT_NAMESPACE = "default"

_STRUCTS: dict[tuple[str, str], type[Service | Endpoints | Node | EndpointSlice]] = {
    ("v1", "Service"): Service,
    ("v1", "Endpoints"): Endpoints,
    ("v1", "Node"): Node,
    ("discovery.k8s.io/v1", "EndpointSlice"): EndpointSlice,
}


class UnreadableManifestError(ValueError):
    """The file is no YAML or JSON as a whole; says where."""


@dataclass(frozen=True, slots=True)
class Manifest:
    objects: tuple[ApiObject, ...] = ()
    problems: tuple[Problem, ...] = ()


def parse_manifest(origin: str, data: bytes) -> Manifest:
    """Read a file's content; `origin` is its path, which also tells JSON (`.json`) from YAML.

    What kubectl prints works as it is: several documents, `List` and typed lists in any nesting. Raises
    `UnreadableManifestError` if there is no telling what the file holds; single bad objects are problems.
    """
    found: list[ApiObject] = []
    problems: list[Problem] = []
    for value in _flattened(_documents(origin, data)):
        if not isinstance(value, dict):
            problems.append(Problem(origin, "", "", "", "", f"{describe(value)} is not a Kubernetes object"))
            continue
        header = _header(value)
        struct = _STRUCTS.get((header.api_version, header.kind))
        if struct is None:
            problems.append(_unknown_problem(origin, value, header))
            continue
        decoded = convert(struct, value if struct is Node else _in_a_namespace(value), origin)
        problems.extend(decoded.problems)
        match decoded.object:
            case None:
                pass
            case Endpoints():
                found.extend(endpoint_slices(decoded.object))
            case _:
                found.append(decoded.object)
    return Manifest(tuple(found), tuple(problems))


def _documents(origin: str, data: bytes) -> list[object]:
    try:
        if origin.endswith(".json"):
            return [msgspec.json.decode(data)] if data.strip() else []
        return [document for document in parse_documents(data) if document is not None]
    except YAMLDocumentError as error:
        raise UnreadableManifestError(f"is no YAML: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UnreadableManifestError(f"is no JSON: {error}") from error


def _flattened(documents: list[object]) -> Iterator[object]:
    """The documents with lists replaced by their items, in order."""
    waiting = documents[::-1]
    while waiting:
        value = waiting.pop()
        kind = value.get("kind") if isinstance(value, dict) else None
        items = value.get("items") if isinstance(value, dict) else None
        if not (isinstance(value, dict) and isinstance(kind, str) and kind.endswith("List")):
            yield value
        elif items is None:
            continue
        elif not isinstance(items, list):
            yield value
        elif kind == "List":
            waiting.extend(reversed(items))
        else:
            # The items of a typed list may leave it to the list to say what they are.
            said = {"apiVersion": value.get("apiVersion"), "kind": kind.removesuffix("List")}
            waiting.extend({**said, **item} if isinstance(item, dict) else item for item in reversed(items))


def _in_a_namespace(value: dict[object, object]) -> dict[object, object]:
    metadata = value.get("metadata")
    if isinstance(metadata, dict) and metadata.get("namespace") in (None, ""):
        return {**value, "metadata": {**metadata, "namespace": DEFAULT_NAMESPACE}}
    return value


@dataclass(frozen=True, slots=True)
class _Header:
    """What an object says it is; "" for whatever is absent or cannot be shown."""

    api_version: str
    kind: str
    namespace: str
    name: str


def _header(value: dict[object, object]) -> _Header:
    metadata = value.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    texts = (value.get("apiVersion"), value.get("kind"), metadata.get("namespace"), metadata.get("name"))
    return _Header(*(text if isinstance(text, str) and _is_shown(text) else "" for text in texts))


def _is_shown(text: str) -> bool:
    return len(text) <= 253 and text.isprintable()


def _unknown_problem(origin: str, value: dict[object, object], header: _Header) -> Problem:
    if header.kind.endswith("List"):
        field, reason = "items", f"{describe(value.get('items'))} is not a list"
    elif not header.kind:
        field, reason = "kind", "is missing"
    elif not header.api_version:
        field, reason = "apiVersion", "is missing"
    elif header.kind in {kind for _, kind in _STRUCTS}:
        field, reason = "apiVersion", f"{header.api_version} is not a version that is read"
    else:
        field, reason = "kind", f"{header.kind} is not a kind that is read"
    return Problem(origin, header.kind, header.namespace, header.name, field, reason)
