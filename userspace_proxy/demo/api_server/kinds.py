"""The resources there are: their names, their verbs, what selects them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Subresource:
    """A part of an object with a path of its own; `kind` if it is another than the object's."""

    name: str
    verbs: tuple[str, ...]
    kind: str = ""
    group: str = ""
    version: str = ""


_STATUS: Final = Subresource("status", ("get", "patch", "update"))
VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Resource:
    """A collection of objects of one kind.

    `schema` names its type in schemas.json, `stored_as` the collection that it is kept in, if another kind's:
    the two forms of an Event share one. `selectable` are the fields that a field selector may name, beside
    name and namespace. With `has_generation` the server counts changes of the spec.
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    schema: str
    short_names: tuple[str, ...] = ()
    is_namespaced: bool = True
    categories: tuple[str, ...] = ()
    subresources: tuple[Subresource, ...] = ()
    selectable: tuple[str, ...] = ()
    has_generation: bool = False
    stored_as: str = ""

    @property
    def storage(self) -> str:
        """The collection that its objects are kept in."""
        return self.stored_as or self.qualified

    @property
    def qualified(self) -> str:
        """The plural with its group, as messages name it: `services`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def verbs(self) -> tuple[str, ...]:
        """What can be done with its objects; namespaces are deleted one by one."""
        return tuple(verb for verb in VERBS if verb != "deletecollection" or self.kind != "Namespace")

    @property
    def group_version(self) -> str:
        """What an object's apiVersion says."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """Where its group and version are found."""
        return f"/apis/{self.group_version}" if self.group else f"/api/{self.version}"

    @property
    def has_status(self) -> bool:
        """Whether its status is written apart from the rest."""
        return _STATUS in self.subresources

    def subresource(self, name: str) -> Subresource | None:
        """The part of that name."""
        return next((part for part in self.subresources if part.name == name), None)


NAMESPACES: Final = Resource(
    group="",
    version="v1",
    kind="Namespace",
    plural="namespaces",
    singular="namespace",
    schema="core.v1.Namespace",
    short_names=("ns",),
    is_namespaced=False,
    subresources=(_STATUS, Subresource("finalize", ("update",))),
    selectable=("status.phase",),
)
NODES: Final = Resource(
    group="",
    version="v1",
    kind="Node",
    plural="nodes",
    singular="node",
    schema="core.v1.Node",
    short_names=("no",),
    is_namespaced=False,
    subresources=(_STATUS,),
    selectable=("spec.unschedulable",),
)
PODS: Final = Resource(
    group="",
    version="v1",
    kind="Pod",
    plural="pods",
    singular="pod",
    schema="core.v1.Pod",
    short_names=("po",),
    categories=("all",),
    subresources=(
        _STATUS,
        Subresource("binding", ("create",), kind="Binding", version="v1"),
        Subresource("log", ("get",)),
    ),
    selectable=(
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    has_generation=True,
)
SERVICES: Final = Resource(
    group="",
    version="v1",
    kind="Service",
    plural="services",
    singular="service",
    schema="core.v1.Service",
    short_names=("svc",),
    categories=("all",),
    subresources=(_STATUS,),
    selectable=("spec.clusterIP", "spec.type"),
)
ENDPOINTS: Final = Resource(
    group="",
    version="v1",
    kind="Endpoints",
    plural="endpoints",
    singular="endpoints",
    schema="core.v1.Endpoints",
    short_names=("ep",),
)
DEPLOYMENTS: Final = Resource(
    group="apps",
    version="v1",
    kind="Deployment",
    plural="deployments",
    singular="deployment",
    schema="apps.v1.Deployment",
    short_names=("deploy",),
    categories=("all",),
    subresources=(
        _STATUS,
        Subresource("scale", ("get", "patch", "update"), kind="Scale", group="autoscaling", version="v1"),
    ),
    has_generation=True,
)
ENDPOINT_SLICES: Final = Resource(
    group="discovery.k8s.io",
    version="v1",
    kind="EndpointSlice",
    plural="endpointslices",
    singular="endpointslice",
    schema="discovery.v1.EndpointSlice",
    has_generation=True,
)
LEASES: Final = Resource(
    group="coordination.k8s.io",
    version="v1",
    kind="Lease",
    plural="leases",
    singular="lease",
    schema="coordination.v1.Lease",
)
EVENTS: Final = Resource(
    group="",
    version="v1",
    kind="Event",
    plural="events",
    singular="event",
    schema="core.v1.Event",
    short_names=("ev",),
    selectable=(
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
)
NEW_EVENTS: Final = Resource(
    group="events.k8s.io",
    version="v1",
    kind="Event",
    plural="events",
    singular="event",
    schema="events.v1.Event",
    short_names=("ev",),
    selectable=(
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ),
    stored_as="events",
)

RESOURCES: Final = (
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    ENDPOINTS,
    EVENTS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    LEASES,
    NEW_EVENTS,
)
"""All of them, the core group first."""


def groups() -> dict[str, list[Resource]]:
    """The resources of each group, by its name."""
    found: dict[str, list[Resource]] = {}
    for resource in RESOURCES:
        found.setdefault(resource.group, []).append(resource)
    return found


def find(group: str, version: str, plural: str) -> Resource | None:
    """The resource of a path, if there is one."""
    return next((r for r in RESOURCES if (r.group, r.version, r.plural) == (group, version, plural)), None)
