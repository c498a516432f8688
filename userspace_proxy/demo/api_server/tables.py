"""Objects as rows, for `kubectl get`: the columns of each kind, some of them for `-o wide` only.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from userspace_proxy.core.service_port import host_port
from userspace_proxy.demo.api_server.cells import (
    NONE,
    UNKNOWN,
    UNSET,
    Cells,
    age,
    label_selector_text,
    shortened,
    since,
)
from userspace_proxy.demo.api_server.kinds import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    EVENTS,
    LEASES,
    NAMESPACES,
    NEW_EVENTS,
    NODES,
    PODS,
    SERVICES,
    Resource,
)
from userspace_proxy.demo.api_server.objects import Object, selector_text
from userspace_proxy.demo.api_server.pod_cells import pod_cells

RowOf: TypeAlias = Callable[[Object, datetime], Cells]


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `priority` 1 is for wide tables."""

    name: str
    type: str = "string"
    format: str = ""
    priority: int = 0


def columns_of(resource: Resource) -> list[Object]:
    """The definitions of a resource's columns."""
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": "",
            "priority": column.priority,
        }
        for column in _TABLES[resource][0]
    ]


def cells_of(resource: Resource, item: Object, now: datetime) -> list[Any]:
    """The cells of an object, one for each column."""
    return list(_TABLES[resource][1](item, now))


def columns(*names: str, wide: Iterable[str] = ()) -> tuple[Column, ...]:
    """Columns of text by their names; the first is the object's name."""
    narrow = [Column(name, format="name" if index == 0 else "") for index, name in enumerate(names)]
    return (*narrow, *(Column(name, priority=1) for name in wide))


def _deployment(item: Object, now: datetime) -> Cells:
    spec, status = item.get("spec", {}), item.get("status", {})
    containers = spec.get("template", {}).get("spec", {}).get("containers", ())
    return (
        item["metadata"]["name"],
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age(item, now),
        ",".join(container.get("name", "") for container in containers),
        ",".join(container.get("image", "") for container in containers),
        label_selector_text(spec.get("selector", {})) or NONE,
    )


def _endpoints(item: Object, now: datetime) -> Cells:
    found: list[str] = []
    for subset in item.get("subsets", ()):
        addresses = [address.get("ip", "") for address in subset.get("addresses", ())]
        ports = [port.get("port") for port in subset.get("ports", ())]
        found += [host_port(ip, port) for port in ports for ip in addresses] if ports else addresses
    return item["metadata"]["name"], shortened(found, NONE), age(item, now)


def _endpoint_slice(item: Object, now: datetime) -> Cells:
    ports = [str(port.get("port", "*")) for port in item.get("ports", ())]
    addresses = [
        address for endpoint in item.get("endpoints", ()) for address in endpoint.get("addresses", ())
    ]
    return (
        item["metadata"]["name"],
        item.get("addressType", ""),
        shortened(ports, UNSET),
        shortened(addresses, UNSET),
        age(item, now),
    )


def _event(item: Object, now: datetime) -> Cells:
    involved = item.get("involvedObject", {})
    series, source = item.get("series", {}), item.get("source", {})
    first = item.get("firstTimestamp") or item.get("eventTime")
    last = series.get("lastObservedTime") or item.get("lastTimestamp") or item.get("eventTime")
    count = series.get("count") or item.get("count") or 1
    sources = [part for part in (source.get("component"), source.get("host")) if part]
    reporter = item.get("reportingComponent", "")
    if not sources and reporter:
        sources = [part for part in (reporter, item.get("reportingInstance")) if part]
    return (
        since(last, now),
        item.get("type", ""),
        item.get("reason", ""),
        f"{involved.get('kind', '').lower()}/{involved.get('name', '')}",
        (item.get("message") or "").strip(),
        involved.get("fieldPath", ""),
        ", ".join(sources),
        since(first, now),
        count,
        item["metadata"]["name"],
    )


def _lease(item: Object, now: datetime) -> Cells:
    return item["metadata"]["name"], item.get("spec", {}).get("holderIdentity", ""), age(item, now)


def _namespace(item: Object, now: datetime) -> Cells:
    return item["metadata"]["name"], item.get("status", {}).get("phase", ""), age(item, now)


def _node(item: Object, now: datetime) -> Cells:
    status = item.get("status", {})
    conditions = {
        condition.get("type"): condition.get("status") for condition in status.get("conditions", ())
    }
    ready = {"True": "Ready", "False": "NotReady"}.get(conditions.get("Ready", ""), "Unknown")
    if item.get("spec", {}).get("unschedulable"):
        ready += ",SchedulingDisabled"
    info = status.get("nodeInfo", {})
    addresses = {
        address.get("type"): address.get("address") for address in reversed(status.get("addresses", []))
    }
    return (
        item["metadata"]["name"],
        ready,
        _roles(item["metadata"].get("labels", {})) or NONE,
        age(item, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", NONE),
        addresses.get("ExternalIP", NONE),
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    )


def _roles(labels: dict[str, str]) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = {key.removeprefix(prefix) for key in labels if key.startswith(prefix) and key != prefix}
    if role := labels.get("kubernetes.io/role"):
        roles.add(role)
    return ",".join(sorted(roles))


def _service(item: Object, now: datetime) -> Cells:
    spec = item.get("spec", {})
    kind = spec.get("type", "ClusterIP")
    return (
        item["metadata"]["name"],
        kind,
        spec.get("clusterIP") or NONE,
        _external_ip(item),
        ",".join(_service_port(port) for port in spec.get("ports", ())) or NONE,
        age(item, now),
        selector_text(spec.get("selector", {})) or NONE,
    )


def _external_ip(item: Object) -> str:
    spec = item.get("spec", {})
    given = ",".join(spec.get("externalIPs", ()))
    match spec.get("type"):
        case "ExternalName":
            return spec.get("externalName") or NONE
        case "LoadBalancer":
            ingress = item.get("status", {}).get("loadBalancer", {}).get("ingress", ())
            balanced = [entry.get("ip") or entry.get("hostname") or "" for entry in ingress]
            return ",".join(filter(None, (*balanced, given))) or "<pending>"
        case _:
            return given or NONE


def _service_port(port: Object) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node_port}/{port.get('protocol')}"


_AGE: Final = "Age"
_COUNT: Final = "integer"
_EVENT_COLUMNS: Final = (
    Column("Last Seen"),
    Column("Type"),
    Column("Reason"),
    Column("Object"),
    Column("Message"),
    Column("Subobject", priority=1),
    Column("Source", priority=1),
    Column("First Seen", priority=1),
    Column("Count", _COUNT, priority=1),
    Column("Name", format="name", priority=1),
)

_TABLES: Final[dict[Resource, tuple[tuple[Column, ...], RowOf]]] = {
    DEPLOYMENTS: (
        columns("Name", "Ready", "Up-to-date", "Available", _AGE, wide=("Containers", "Images", "Selector")),
        _deployment,
    ),
    ENDPOINTS: (columns("Name", "Endpoints", _AGE), _endpoints),
    ENDPOINT_SLICES: (columns("Name", "AddressType", "Ports", "Endpoints", _AGE), _endpoint_slice),
    EVENTS: (_EVENT_COLUMNS, _event),
    NEW_EVENTS: (_EVENT_COLUMNS, _event),
    LEASES: (columns("Name", "Holder", _AGE), _lease),
    NAMESPACES: (columns("Name", "Status", _AGE), _namespace),
    NODES: (
        columns(
            *("Name", "Status", "Roles", _AGE, "Version"),
            wide=("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime"),
        ),
        _node,
    ),
    PODS: (
        columns(
            *("Name", "Ready", "Status", "Restarts", _AGE),
            wide=("IP", "Node", "Nominated Node", "Readiness Gates"),
        ),
        pod_cells,
    ),
    SERVICES: (
        columns("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", _AGE, wide=("Selector",)),
        _service,
    ),
}
