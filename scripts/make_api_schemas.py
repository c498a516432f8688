"""Writes what the demo's API server knows of Kubernetes' types, from Kubernetes' own OpenAPI document.

    python scripts/make_api_schemas.py swagger.json v1.36 > userspace_proxy/demo/api_server/schemas.json

`swagger.json` is api/openapi-spec/swagger.json of the Kubernetes repository, the release is for `kubectl
version`. Kept are the types that our kinds reach: their fields, which of those are required, and how a
strategic merge patch merges them. Descriptions are left out.
"""

from __future__ import annotations

import json
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
FORMS = {("integer", "int32"): "int32", ("integer", "int64"): "int64", ("number", "double"): "double"}


def main() -> None:
    """Print the schemas of the document that the first argument names."""
    document, release = sys.argv[1:]
    definitions = json.loads(Path(document).read_text())["definitions"]
    types: dict[str, Any] = {}
    waiting = [PREFIX + root for root in ROOTS]
    while waiting:
        name = waiting.pop()
        if short(name) not in types and "properties" in definitions[name]:
            types[short(name)] = schema(definitions[name])
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


STRATEGY = "x-kubernetes-patch-strategy"


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


if __name__ == "__main__":
    main()
