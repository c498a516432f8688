"""Writes what the demo's API server knows of Kubernetes' types, from Kubernetes' own sources of one release.

    python scripts/make_api_schemas.py v1.36 swagger.json api apimachinery \
        > userspace_proxy/demo/api_server/schemas.json

`swagger.json` is api/openapi-spec/swagger.json of the repository kubernetes/kubernetes; `api` and
`apimachinery` are the folders of the repositories of these names. Kept are the types that our kinds reach:
their fields, which of those are required, how a strategic merge patch merges them, the numbers that they have
in protobuf, and which are pointers in Go, where zero says something that absence does not. Descriptions are
left out.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOTS = (
    "api.apps.v1.Deployment",
    "api.autoscaling.v1.Scale",
    "api.coordination.v1.Lease",
    "api.core.v1.Binding",
    "api.core.v1.Endpoints",
    "api.core.v1.Event",
    "api.core.v1.Namespace",
    "api.core.v1.Node",
    "api.core.v1.Pod",
    "api.core.v1.Service",
    "api.discovery.v1.EndpointSlice",
    "api.events.v1.Event",
    "apimachinery.pkg.apis.meta.v1.DeleteOptions",
)
PREFIX = "io.k8s."
STRATEGY = "x-kubernetes-patch-strategy"
FORMS = {("integer", "int32"): "int32", ("integer", "int64"): "int64", ("number", "double"): "double"}


def main() -> None:
    """Print the schemas."""
    release, document, api, machinery = sys.argv[1:]
    definitions = json.loads(Path(document).read_text())["definitions"]
    go = dict(go_structs("meta.v1", Path(machinery, "pkg/apis/meta/v1/types.go").read_text()))
    for folder in {Path(root.replace(".", "/")).parent for root in ROOTS if root.startswith("api.")}:
        group = str(folder.relative_to("api")).replace("/", ".")
        go |= go_structs(group, Path(api, folder.relative_to("api"), "types.go").read_text())
    types: dict[str, Any] = {}
    waiting = [PREFIX + root for root in ROOTS]
    while waiting:
        name = waiting.pop()
        if short(name) not in types and "properties" in definitions[name]:
            types[short(name)] = schema(definitions[name])
            types[short(name)] |= encoding(short(name), types[short(name)]["fields"], go)
            waiting += references(definitions[name]["properties"])
    json.dump({"release": release, "types": types}, sys.stdout, indent=1, sort_keys=True)
    print()


def schema(definition: dict[str, Any]) -> dict[str, Any]:
    """One type: name and form of each field, and what is said of them beside."""
    properties = definition["properties"]
    found: dict[str, Any] = {"fields": {name: form(value) for name, value in properties.items()}}
    if required := definition.get("required"):
        found["required"] = sorted(required)
    if patch := {name: merging(value) for name, value in properties.items() if STRATEGY in value}:
        found["patch"] = patch
    return found


def merging(value: dict[str, Any]) -> dict[str, str]:
    """How a strategic merge patch treats a field."""
    key = value.get("x-kubernetes-patch-merge-key")
    return {"strategy": value[STRATEGY]} | ({"key": key} if key else {})


def form(value: dict[str, Any]) -> str:
    """A field's type in a word: `int32`, `core.v1.ServicePort`, `[]string`, `map string`."""
    if reference := value.get("$ref"):
        return short(reference.rpartition("/")[2])
    match value["type"]:
        case "array":
            return f"[]{form(value['items'])}"
        case "object":
            return f"map {form(value['additionalProperties'])}"
        case kind:
            return FORMS.get((kind, value.get("format")), kind)


def references(value: Any) -> Iterator[str]:
    """The types that a definition names."""
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for part in value.values():
            yield from references(part)


def short(name: str) -> str:
    """`core.v1.Pod` for io.k8s.api.core.v1.Pod, `meta.v1.Time` for that of the machinery."""
    return ".".join(name.split(".")[-3:])


GO_STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
GO_FIELD = re.compile(
    r'^\t(?:\w+ +)?(?P<type>\S+) +`json:"(?P<name>\w*)[^"]*".*?protobuf:"\w+,(?P<number>\d+),', re.MULTILINE
)


def go_structs(group: str, source: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The structs of a file, each with type, name in JSON, and number in protobuf of its fields."""
    for struct in GO_STRUCT.finditer(source):
        yield f"{group}.{struct[1]}", [field.groupdict() for field in GO_FIELD.finditer(struct[2])]


def encoding(name: str, known: dict[str, str], go: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    """The fields of a type by their numbers in protobuf, and which are pointers.

    The fields of an embedded struct have names among the others', but numbers of their own.
    """
    wire: dict[str, Any] = {}
    pointers: list[str] = []
    for field in go.get(name, ()):
        if not field["name"]:
            embedded = encoding(f"{name.rpartition('.')[0]}.{field['type']}", known, go)
            wire[field["number"]] = embedded["wire"]
            pointers += embedded.get("pointers", ())
        elif field["name"] in known:
            wire[field["number"]] = field["name"]
            if field["type"].startswith("*"):
                pointers.append(field["name"])
    return {"wire": wire} | ({"pointers": sorted(pointers)} if pointers else {})


if __name__ == "__main__":
    main()
