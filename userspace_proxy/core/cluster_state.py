"""What the cluster says now: events folded into checked Services, slices and the own node.

The fold is level-triggered. It remembers which Services may have changed since somebody last asked, so that
a change of one Service costs the work of one, and a relist in which nothing differs costs none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, assert_never

from userspace_proxy.core.endpoint import CheckedSlice, read_endpoint_slice
from userspace_proxy.core.endpoint_selection import NodeIdentity
from userspace_proxy.core.ip_addresses import family_of, why_not_dialled
from userspace_proxy.core.local_traffic import cidrs_of
from userspace_proxy.core.objects import (
    ApiObject,
    Deleted,
    EndpointSlice,
    Event,
    Kind,
    Listed,
    Node,
    Service,
    Upserted,
    kind_of,
)
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.problem import Problem
from userspace_proxy.core.service_annotations import (
    DEFAULT_SETTINGS,
    PREFIX,
    ServiceSettings,
    is_of_ours,
)
from userspace_proxy.core.service_checks import read_service, settle_again
from userspace_proxy.core.service_port import IPFamily, ServiceName, ServicePort

_ZONE_LABEL = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class ObjectId:
    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return (
            f"{self.kind.value} {self.namespace}/{self.name}"
            if self.namespace
            else f"{self.kind.value} {self.name}"
        )


OriginOf: TypeAlias = Callable[[ObjectId], str]
"""Where an object came from, for its problems: a file, or the API server."""
Findings: TypeAlias = dict[ObjectId, tuple[Problem, ...]]
"""What is wrong with each object that was read anew; empty where it is all right now, or gone."""


@dataclass(slots=True)
class _Entry:
    """What came of an object. The object itself is not kept: it is several times as large.

    `annotations` are those of ours, of a Service, and `uid` is a Service's.
    """

    checked: tuple[ServicePort, ...] | CheckedSlice | None
    problems: tuple[Problem, ...]
    annotations: tuple[tuple[str, str], ...] = ()
    uid: str = ""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What we know of this node from its object, which may be away: then that is little.

    `addresses` begin with those of type InternalIP; `pod_cidrs` are what its pods get their addresses from.
    """

    identity: NodeIdentity
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()

    def addresses_of(self, family: IPFamily) -> tuple[str, ...]:
        return tuple(text for text in self.addresses if family_of(ipaddress.ip_address(text)) is family)


def read_node(name: str, node: Node | None) -> NodeFacts:
    """The facts of the node `name` by its object."""
    if node is None:
        return NodeFacts(NodeIdentity(name))
    internal: list[str] = []
    others: list[str] = []
    for entry in (node.status.addresses if node.status else None) or ():
        try:
            address = ipaddress.ip_address(entry.address)
        except ValueError:
            continue  # a Hostname entry
        if why_not_dialled(address) is None:
            (internal if entry.type == "InternalIP" else others).append(str(address))
    pod_cidrs: list[str] = []
    if node.spec is not None:
        pod_cidrs = node.spec.pod_cidrs or [cidr for cidr in (node.spec.pod_cidr,) if cidr]
    return NodeFacts(
        NodeIdentity(name, (node.metadata.labels or {}).get(_ZONE_LABEL) or None),
        tuple(dict.fromkeys((*internal, *others))),
        tuple(pod_cidrs),
    )


def _is_leaving(node: Node) -> bool:
    """Whether it is being deleted, or the cluster autoscaler is about to. kube-proxy's /healthz asks that."""
    taints = (node.spec.taints if node.spec else None) or ()
    return node.metadata.deletion_timestamp is not None or any(
        taint.key == "ToBeDeletedByClusterAutoscaler" for taint in taints
    )


@dataclass(slots=True)
class ClusterState:
    """Feed it with `apply`; after that, plan again what `take_dirty` names.

    On `proxy_ports` this node takes redirected traffic only; none of them if that is None. `own_addresses`
    are all by which the node is reached: those of its interfaces, and those that its object states. The node
    `is_node_leaving` if no new connections should be sent to it.
    `default_settings` are those of Services whose annotations do not say otherwise. `cluster_cidrs` are what
    all pods get their addresses from, as far as somebody said so.
    """

    node_name: str
    proxy_ports: PortRange | None = None
    default_settings: ServiceSettings = DEFAULT_SETTINGS
    cluster_cidrs: tuple[str, ...] = ()
    _entries: dict[ObjectId, _Entry] = field(default_factory=dict)
    _slices: dict[ServiceName, dict[ObjectId, CheckedSlice]] = field(default_factory=dict)
    _dirty: set[ServiceName] = field(default_factory=set)
    _listed: set[Kind] = field(default_factory=set)
    _local_addresses: frozenset[str] = frozenset()
    own_addresses: frozenset[str] = field(default=frozenset(), init=False)
    node_facts: NodeFacts = field(init=False)
    is_node_known: bool = field(default=False, init=False)
    is_node_leaving: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.node_facts = read_node(self.node_name, None)

    @property
    def is_complete(self) -> bool:
        """Whether every kind was listed once. Nothing may be programmed before that.

        The Node too, though the list may say that there is none: its zone, pod CIDRs and addresses decide
        about all the rest, which would be wrong for a moment.
        """
        return self._listed == set(Kind)

    @property
    def node(self) -> NodeIdentity:
        return self.node_facts.identity

    def node_addresses(self, family: IPFamily) -> tuple[str, ...]:
        return self.node_facts.addresses_of(family)

    def pod_cidrs(self, family: IPFamily) -> tuple[str, ...]:
        """What pods, this node's at least, get their addresses from, as far as that is known."""
        return cidrs_of(family, (*self.cluster_cidrs, *self.node_facts.pod_cidrs))

    def service_ports(self, name: ServiceName) -> tuple[ServicePort, ...]:
        """The checked ports of a Service, empty if there is none of that name that is ours to serve."""
        entry = self._entries.get(ObjectId(Kind.SERVICE, name.namespace, name.name))
        return entry.checked if entry is not None and isinstance(entry.checked, tuple) else ()

    def uid_of(self, key: ObjectId) -> str:
        """A Service's uid; "" for what is not known, and for other kinds."""
        entry = self._entries.get(key)
        return entry.uid if entry is not None else ""

    def service_of(self, key: ObjectId) -> ServiceName | None:
        """Whose slice that is; None if it is none that is used."""
        entry = self._entries.get(key)
        return (
            entry.checked.service if entry is not None and isinstance(entry.checked, CheckedSlice) else None
        )

    def slices_of(self, name: ServiceName) -> Sequence[CheckedSlice]:
        """In the order of their names, so that the answer does not depend on the order in which they came."""
        return [*self.slices_by_name(name).values()]

    def slices_by_name(self, name: ServiceName) -> dict[str, CheckedSlice]:
        """The same with their names."""
        slices = self._slices.get(name, {})
        return {key.name: slices[key] for key in sorted(slices, key=lambda key: key.name)}

    def services_with_endpoint_on(self, addresses: Collection[str]) -> Iterator[ServiceName]:
        """The Services some endpoint of which has one of `addresses`."""
        for name, slices in self._slices.items():
            if any(host.address in addresses for checked in slices.values() for host in checked.hosts):
                yield name

    def take_dirty(self) -> set[ServiceName]:
        """The Services that may have changed since the last call."""
        dirty, self._dirty = self._dirty, set()
        return dirty

    def settle_again(self, settings: ServiceSettings, origin_of: OriginOf) -> Findings:
        """From now on Services whose annotations do not say otherwise have `settings`."""
        self.default_settings = settings
        changed: Findings = {}
        for key, entry in self._entries.items():
            if isinstance(entry.checked, tuple) and entry.checked:
                ports, problems = settle_again(
                    entry.checked, dict(entry.annotations), settings, origin_of(key)
                )
                others = tuple(found for found in entry.problems if not is_of_ours(found.field))
                if ports != entry.checked:
                    self._entries[key] = replace(entry, checked=ports, problems=others + problems)
                    self._dirty.add(ServiceName(key.namespace, key.name))
                    changed[key] = others + problems
        return changed

    def plan_all_again(self) -> None:
        """Have `take_dirty` name every Service."""
        self._dirty.update(
            ServiceName(key.namespace, key.name) for key in self._entries if key.kind is Kind.SERVICE
        )

    def readdress(self, addresses: frozenset[str]) -> None:
        """From now on the interfaces of this node have exactly `addresses` (IPs in canonical spelling)."""
        self._local_addresses = addresses
        self._dirty.update(self.services_with_endpoint_on(self._unite_addresses()))

    def apply(self, event: Event, origin_of: OriginOf) -> Findings:
        """Fold one event in."""
        match event:
            case Listed(kind=kind, objects=objects):
                self._listed.add(kind)
                by_id = {id_of(item): item for item in objects}
                gone = [key for key in self._entries if key.kind is kind and key not in by_id]
                changed: Findings = {key: self._remove(key) for key in gone}
                for key, item in by_id.items():
                    changed.update(self._put(key, item, origin_of))
                return changed
            case Upserted(object=item):
                return self._put(id_of(item), item, origin_of)
            case Deleted(kind=kind, namespace=namespace, name=name):
                key = ObjectId(kind, namespace, name)
                return {key: self._remove(key)} if key in self._entries else {}
            case _:
                assert_never(event)

    def _put(self, key: ObjectId, item: ApiObject, origin_of: OriginOf) -> Findings:
        known = self._entries.get(key)
        entry: _Entry
        match item:
            case Service():
                stated = (item.metadata.annotations or {}).items()
                entry = _Entry(
                    *read_service(item, origin_of(key), self.default_settings),
                    tuple(pair for pair in stated if pair[0].startswith(PREFIX)),
                    item.metadata.uid,
                )
            case EndpointSlice():
                entry = _Entry(*read_endpoint_slice(item, origin_of(key)))
            case Node():
                if key.name != self.node_name:
                    return {}
                self._replace_node(item)
                entry = _Entry(None, ())
            case _:
                assert_never(item)
        if known == entry:
            return {}
        self._entries[key] = entry
        if known is None or known.checked != entry.checked:
            match entry.checked:
                case CheckedSlice() | None:
                    self._drop_slice(key, known)
                    self._keep_slice(key, entry.checked)
                case _:
                    self._dirty.add(ServiceName(key.namespace, key.name))
        return {key: entry.problems}

    def _keep_slice(self, key: ObjectId, checked: CheckedSlice | None) -> None:
        if checked is not None:
            self._slices.setdefault(checked.service, {})[key] = checked
            self._dirty.add(checked.service)

    def _remove(self, key: ObjectId) -> tuple[Problem, ...]:
        known = self._entries.pop(key)
        match key.kind:
            case Kind.SERVICE:
                self._dirty.add(ServiceName(key.namespace, key.name))
            case Kind.ENDPOINT_SLICE:
                self._drop_slice(key, known)
            case Kind.NODE:
                self._replace_node(None)
            case _:
                assert_never(key.kind)
        return ()

    def _drop_slice(self, key: ObjectId, known: _Entry | None) -> None:
        if known is None or not isinstance(known.checked, CheckedSlice):
            return
        service = known.checked.service
        remaining = self._slices[service]
        del remaining[key]
        if not remaining:
            del self._slices[service]
        self._dirty.add(service)

    def _replace_node(self, node: Node | None) -> None:
        self.is_node_known = node is not None
        self.is_node_leaving = node is not None and _is_leaving(node)
        before, self.node_facts = self.node_facts, read_node(self.node_name, node)
        self._unite_addresses()
        if self.node_facts != before:
            self._dirty.update(self._slices)  # hints and addresses may now choose differently

    def _unite_addresses(self) -> frozenset[str]:
        """Bring `own_addresses` up to date. Returns those that came or went."""
        before, self.own_addresses = (
            self.own_addresses,
            self._local_addresses.union(self.node_facts.addresses),
        )
        return before ^ self.own_addresses


def id_of(item: ApiObject) -> ObjectId:
    """The identity of a decoded object."""
    namespace = "" if isinstance(item, Node) else item.metadata.namespace  # whatever a manifest says
    return ObjectId(kind_of(item), namespace, item.metadata.name)
