"""The kinds of objects that the demo cluster's parts speak about, and where the API serves them.

A `Resource` is read as plain JSON unless `read_as` says which struct holds the fields that somebody needs:
`PODS.read_as(Pod)`. What a struct has no field for is passed over, so objects that were read as one are
changed by patches and never written back whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar, cast

T = TypeVar("T")
U = TypeVar("U")

JsonObject: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """One kind of object. `group_version` is its `apiVersion`, `decoded_as` what its JSON is decoded to."""

    group_version: str
    kind: str
    plural: str
    decoded_as: type[T]
    is_namespaced: bool = True

    def read_as(self, type_: type[U]) -> Resource[U]:
        """The same objects, decoded to `type_`."""
        return cast(Resource[U], replace(self, decoded_as=cast(type[T], type_)))

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The URL path of one object, or of all (in `namespace`, or anywhere with None)."""
        prefix = "/api/v1" if self.group_version == "v1" else f"/apis/{self.group_version}"
        within = f"/namespaces/{namespace}" if self.is_namespaced and namespace else ""
        parts = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{prefix}{within}/{self.plural}{parts}"


def timestamp(moment: datetime) -> str:
    """A moment as the API writes it: UTC, in whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _resource(group_version: str, kind: str, plural: str, is_namespaced: bool = True) -> Resource[JsonObject]:
    return Resource(group_version, kind, plural, dict, is_namespaced)


NAMESPACES = _resource("v1", "Namespace", "namespaces", is_namespaced=False)
NODES = _resource("v1", "Node", "nodes", is_namespaced=False)
PODS = _resource("v1", "Pod", "pods")
SERVICES = _resource("v1", "Service", "services")
ENDPOINTS = _resource("v1", "Endpoints", "endpoints")
EVENTS = _resource("v1", "Event", "events")
DEPLOYMENTS = _resource("apps/v1", "Deployment", "deployments")
ENDPOINT_SLICES = _resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
LEASES = _resource("coordination.k8s.io/v1", "Lease", "leases")
