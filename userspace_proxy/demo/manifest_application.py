"""Applying manifests to the API server of a demo cluster, as `kubectl apply` would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from userspace_proxy.demo.api_client import ApiClient, ApiError
from userspace_proxy.demo.api_resources import JsonObject, Resource
from userspace_proxy.errors import UsageError, UserspaceProxyError

_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
"""What a later `kubectl apply` compares with; without it kubectl would warn."""

_STRICT: Final = {"fieldValidation": "Strict"}
"""A field that there is not is refused, as by kubectl."""


class ManifestRefusedError(UserspaceProxyError):
    """The API server does not take an object: where it is written, and what the server says."""


def read_objects(files: Sequence[Path]) -> list[tuple[Path, JsonObject]]:
    """The objects of all documents, lists taken apart. Raises `UsageError` for what is no such file."""
    found: list[tuple[Path, JsonObject]] = []
    for file in files:
        try:
            documents = list(yaml.safe_load_all(file.read_text()))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"manifests: {file} cannot be read: {error}") from error
        for document in documents:
            if document is None:
                continue
            items = document.get("items", [document]) if isinstance(document, dict) else [document]
            for item in items:
                if not isinstance(item, dict) or not item.get("kind") or not item.get("apiVersion"):
                    raise UsageError(f"manifests: {file} has a document without `apiVersion` and `kind`")
                found.append((file, item))
    return found


async def apply(client: ApiClient, objects: Sequence[tuple[Path, JsonObject]]) -> None:
    """Make these objects, or change those that are there. Raises `ManifestRefusedError`."""
    known: dict[tuple[str, str], Resource[JsonObject]] = {}
    for file, item in objects:
        kind = item["apiVersion"], item["kind"]
        try:
            if kind not in known:
                known |= await _discovered(client, item["apiVersion"])
            if kind not in known:
                raise ManifestRefusedError(
                    f'{file}: no matches for kind "{kind[1]}" in version "{kind[0]}"; '
                    "the demo's API server does not have it"
                )
            await put(client, known[kind], item)
        except ApiError as error:
            raise ManifestRefusedError(f"{file}: {error.message}") from error


async def put(client: ApiClient, resource: Resource[JsonObject], item: JsonObject) -> None:
    """Make an object, or change the one that is there so that it says the same. Raises `ApiError`."""
    metadata: dict[str, Any] = item.get("metadata") or {}
    namespace = metadata.get("namespace") or "default" if resource.is_namespaced else None
    annotations = {**(metadata.get("annotations") or {}), _LAST_APPLIED: msgspec.json.encode(item).decode()}
    item = {**item, "metadata": {**metadata, "annotations": annotations}}
    try:
        await client.create(resource, namespace, item, query=_STRICT)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        await client.patch(resource, namespace, metadata["name"], item, query=_STRICT)


async def _discovered(client: ApiClient, version: str) -> dict[tuple[str, str], Resource[JsonObject]]:
    """The kinds that the server has in an `apiVersion`; none if it does not know it."""
    try:
        body = await client.request("GET", "/api/v1" if version == "v1" else f"/apis/{version}")
    except ApiError as error:
        if error.is_not_found:
            return {}
        raise
    listed = msgspec.json.decode(body)["resources"]
    return {
        (version, entry["kind"]): Resource(version, entry["kind"], entry["name"], dict, entry["namespaced"])
        for entry in listed
        if "/" not in entry["name"]
    }
