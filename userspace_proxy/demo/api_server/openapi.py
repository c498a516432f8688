"""OpenAPI v3 documents: what `kubectl explain` shows, and how kubectl learns that the server checks fields.

Source: https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-v3
"""

from __future__ import annotations

from typing import Final

from userspace_proxy.demo.api_server import patches, schemas
from userspace_proxy.demo.api_server.kinds import RESOURCES, Resource
from userspace_proxy.demo.api_server.objects import Object

EMPTY_V2: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""The media type of a version 2 document. kubectl asks for it to find other kinds; an empty one does."""

_KIND: Final = "x-kubernetes-group-version-kind"
_REFERENCE: Final = "#/components/schemas/"
SCALARS: Final[dict[str, Object]] = {
    "boolean": {"type": "boolean"},
    "double": {"type": "number", "format": "double"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "string": {"type": "string"},
    "api.resource.Quantity": {"type": "string"},
    "meta.v1.FieldsV1": {"type": "object"},
    "meta.v1.MicroTime": {"type": "string", "format": "date-time"},
    "meta.v1.Time": {"type": "string", "format": "date-time"},
    "util.intstr.IntOrString": {"type": "string", "format": "int-or-string"},
}


def root() -> Object:
    """The answer at /openapi/v3: where the document of each group and version is."""
    paths = {resource.path.lstrip("/") for resource in RESOURCES}
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in sorted(paths)}}


def document(path: str) -> Object | None:
    """The document of a group and version, by its path such as `apis/apps/v1`; None if there is none."""
    resources = [resource for resource in RESOURCES if resource.path.lstrip("/") == path]
    if not resources:
        return None
    types: dict[str, Object] = {}
    for resource in resources:
        _collect(resource.schema, types)
        types[resource.schema] = types[resource.schema] | {_KIND: [_gvk(resource)]}
    paths: Object = {}
    for resource in resources:
        paths |= _paths(resource)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": schemas.load().release},
        "paths": paths,
        "components": {"schemas": types},
    }


def _collect(name: str, types: dict[str, Object]) -> None:
    if name in types:
        return
    schema = schemas.load().types[name]
    properties: Object = {}
    types[name] = {"type": "object", "properties": properties}
    if schema.required:
        types[name]["required"] = sorted(schema.required)
    for field, form in schema.fields.items():
        described = _form(form, types)
        if merging := schema.patch.get(field):
            described = described | {"x-kubernetes-patch-strategy": merging.strategy}
            if merging.key:
                described["x-kubernetes-patch-merge-key"] = merging.key
        properties[field] = described


def _form(form: str, types: dict[str, Object]) -> Object:
    if form.startswith("[]"):
        return {"type": "array", "items": _form(form[2:], types)}
    if form.startswith("map "):
        return {"type": "object", "additionalProperties": _form(form[4:], types)}
    if form in SCALARS:
        return SCALARS[form]
    _collect(form, types)
    return {"allOf": [{"$ref": _REFERENCE + form}]}


def _paths(resource: Resource) -> Object:
    """The operations by which kubectl tells that fields are checked here."""
    scope = "/namespaces/{namespace}" if resource.is_namespaced else ""
    collection = f"{resource.path}{scope}/{resource.plural}"
    media = {kind: {"schema": {"type": "object"}} for kind in patches.KINDS}
    return {
        collection: {"get": _operation(resource), "post": _operation(resource)},
        f"{collection}/{{name}}": {
            "get": _operation(resource),
            "put": _operation(resource),
            "patch": _operation(resource) | {"requestBody": {"content": media}},
            "delete": _operation(resource),
        },
    }


def _operation(resource: Resource) -> Object:
    names = ("fieldValidation", "dryRun", "fieldManager")
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]
    answer = {"content": {"application/json": {"schema": {"$ref": _REFERENCE + resource.schema}}}}
    return {
        "parameters": parameters,
        "responses": {"200": {"description": "OK", **answer}},
        _KIND: _gvk(resource),
    }


def _gvk(resource: Resource) -> Object:
    return {"group": resource.group, "kind": resource.kind, "version": resource.version}
