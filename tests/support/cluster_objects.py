"""Where the agent under test gets its objects from: a directory of manifests, or an API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tests.support.fake_api_server import write_kubeconfig
from userspace_proxy.core.objects import ApiObject, Kind, kind_of
from userspace_proxy.demo.namespaces import Namespace

_API_VERSIONS = {Kind.SERVICE: "v1", Kind.NODE: "v1", Kind.ENDPOINT_SLICE: "discovery.k8s.io/v1"}


class ClusterObjects(Protocol):
    """A cluster's objects, as a test writes them. `flags` lead `userspace-proxy run` there."""

    flags: tuple[str, ...]

    def apply(self, *items: ApiObject) -> None:
        """Create or replace."""

    def delete(self, *items: ApiObject) -> None: ...


class ManifestDirectory:
    """A file an object. A write is a rename, so no reader sees half of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.flags: tuple[str, ...] = ("--manifests", str(directory))
        directory.mkdir()

    def apply(self, *items: ApiObject) -> None:
        for item in items:
            self.write(self.file_of(item).name, json.dumps(manifest_of(item), indent=2))

    def delete(self, *items: ApiObject) -> None:
        for item in items:
            self.file_of(item).unlink()

    def write(self, name: str, text: str) -> Path:
        """Write any text at all as the file `name`."""
        unfinished = self.directory / f".{name}"
        unfinished.write_text(text)
        return unfinished.rename(self.directory / name)

    def file_of(self, item: ApiObject) -> Path:
        return self.directory / f"{kind_of(item).value}-{item.metadata.name}.json"


class ApiServer:
    """An API server at `url` that `where` reaches; it is written to by server-side apply, over curl."""

    def __init__(self, where: Namespace, url: str, kubeconfig: Path) -> None:
        self._where = where
        self._url = url
        self.flags: tuple[str, ...] = ("--kubeconfig", str(write_kubeconfig(kubeconfig, url)))

    def apply(self, *items: ApiObject) -> None:
        for item in items:
            kind = ("--header", "Content-Type: application/apply-patch+yaml")
            self._curl("PATCH", item, "?fieldManager=test&force=true", *kind, "--data", "@-")

    def delete(self, *items: ApiObject) -> None:
        for item in items:
            self._curl("DELETE", item)

    def _curl(self, method: str, item: ApiObject, query: str = "", *flags: str) -> None:
        url = self._url + path_of(item) + query
        body = json.dumps(manifest_of(item))
        self._where.run("curl", "-sS", "--fail", "-X", method, *flags, url, stdin=body)


def manifest_of(item: ApiObject) -> dict[str, Any]:
    """What `kubectl get -o json` would print."""
    kind = kind_of(item)
    return {"apiVersion": _API_VERSIONS[kind], "kind": kind.value, **msgspec.to_builtins(item)}


def path_of(item: ApiObject) -> str:
    """Where an API server has the object."""
    kind = kind_of(item)
    version = _API_VERSIONS[kind]
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = "" if kind is Kind.NODE else f"/namespaces/{item.metadata.namespace}"
    return f"{prefix}{namespace}/{kind.value.lower()}s/{item.metadata.name}"
