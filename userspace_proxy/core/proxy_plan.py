"""From the cluster's state to what must listen where, and what leads there.

The plan is folded like the state: `update` takes the Services that may have changed, plans those again, and
says what differs. It decides neither proxy ports nor the order of work; that is the agent's. (One file of
some length: every step of `update` reads and writes the same tables.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.endpoint_selection import (
    Outcome,
    Selection,
    candidates_of,
    ready_addresses,
    select_endpoints,
)
from userspace_proxy.core.frontend_claims import FrontendClaim, FrontendClaims
from userspace_proxy.core.plan_conflicts import (
    LostClaim,
    LostHealthCheck,
    UndialledEndpoint,
    WhyUndialled,
)
from userspace_proxy.core.service_port import (
    EVERY_LOCAL_ADDRESS,
    Exposure,
    Frontend,
    IPFamily,
    Port,
    Protocol,
    ServiceName,
    ServicePort,
    ServicePortName,
    TrafficPolicy,
)

_Key = TypeVar("_Key")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ListenerName:
    """A class of one Service port's traffic, which has a listener, and so a proxy port, of its own."""

    service_port: ServicePortName
    policy: TrafficPolicy


@dataclass(frozen=True, slots=True)
class PlannedServicePort:
    """A Service port, where it is reached, and the endpoints that each class of its traffic may use.

    `idle` are those that are listed and that no class may use. It is empty where nothing depends on it: it is
    there for Services whose connections end when their endpoints are removed, which these are not.
    """

    service_port: ServicePort
    exposures: tuple[Exposure, ...]
    selections: tuple[tuple[TrafficPolicy, Selection], ...]
    idle: tuple[Endpoint, ...] = ()

    @property
    def name(self) -> ServicePortName:
        return self.service_port.name


@dataclass(frozen=True, slots=True)
class PlannedDestination:
    """A listener, and what happens to a new connection there."""

    listener: ListenerName
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class PlannedPortal:
    """Where a frontend leads who comes from outside, and the node with its pods; see `Exposure`."""

    owner: ServicePortName
    outside: PlannedDestination
    inside: PlannedDestination
    source_ranges: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What a load balancer is told on a Service's healthCheckNodePort.

    A pod with an address in both families is one local endpoint.
    """

    port: Port
    local_endpoints: int


@dataclass(frozen=True, slots=True)
class PlanChange:
    """What differs after an update.

    `conflicts_changed`: whose lost claims or undialled endpoints are others than before, and the Services
    whose lost health check is. `portals_changed`: some frontend appeared, went, or leads elsewhere.
    """

    changed: tuple[PlannedServicePort, ...] = ()
    removed: tuple[ServicePortName, ...] = ()
    conflicts_changed: frozenset[ServicePortName | ServiceName] = frozenset()
    portals_changed: bool = False
    health_checks_changed: bool = False


@dataclass(slots=True)
class ProxyPlan:
    """The desired state: `service_ports` to serve, `portals` that lead to them, `health_checks` to answer."""

    families: frozenset[IPFamily]
    service_ports: dict[ServicePortName, PlannedServicePort] = field(default_factory=dict)
    portals: dict[Frontend, PlannedPortal] = field(default_factory=dict)
    health_checks: dict[ServiceName, HealthCheck] = field(default_factory=dict)
    lost_claims: dict[ServicePortName, tuple[LostClaim, ...]] = field(default_factory=dict)
    undialled: dict[ServicePortName, tuple[UndialledEndpoint, ...]] = field(default_factory=dict)
    lost_health_checks: dict[ServiceName, LostHealthCheck] = field(default_factory=dict)
    _names: dict[ServiceName, tuple[ServicePortName, ...]] = field(default_factory=dict)
    _claims: FrontendClaims = field(default_factory=FrontendClaims)

    def update(self, state: ClusterState, dirty: Collection[ServiceName]) -> PlanChange:
        """Plan `dirty` again, with whatever else their addresses touch."""
        wanted: dict[ServicePortName, ServicePort] = {}
        removed: list[ServicePortName] = []
        contested: set[Frontend] = set()
        for service in dirty:
            gone, touched = self._claim(service, state, wanted)
            removed += gone
            contested |= touched
        for name in self._neighbours(state, contested) - wanted.keys():
            wanted[name] = self.service_ports[name].service_port
        conflicts = {name: self._conflicts_of(name) for name in (*wanted, *removed)}
        for name in removed:
            self._forget(name)
        changed = [planned for port in wanted.values() if (planned := self._plan(port, state)) is not None]
        for planned in changed:
            contested.update(exposure.frontend for exposure in planned.exposures)
        lost_checks = dict(self.lost_health_checks)
        conflicting = {name for name, before in conflicts.items() if self._conflicts_of(name) != before}
        to_check = {*dirty, *(name.service for name in conflicting), *self._with_health_check_at(contested)}
        rechecked = [service for service in to_check if self._check_health(service, state)]
        return PlanChange(
            tuple(changed),
            tuple(removed),
            frozenset((*conflicting, *_differing(lost_checks, self.lost_health_checks))),
            portals_changed=self._lead(contested),
            health_checks_changed=bool(rechecked),
        )

    def portals_of(self, name: ServicePortName) -> Iterator[tuple[Frontend, PlannedPortal]]:
        """The portals that lead to a planned Service port."""
        for exposure in self.service_ports[name].exposures:
            portal = self.portals.get(exposure.frontend)
            if portal is not None and portal.owner == name:
                yield exposure.frontend, portal

    def _claim(
        self, service: ServiceName, state: ClusterState, wanted: dict[ServicePortName, ServicePort]
    ) -> tuple[list[ServicePortName], set[Frontend]]:
        """Bring the claims of one Service up to date. Returns what is gone and the frontends touched."""
        touched: set[Frontend] = set()
        ports = [port for port in state.service_ports(service) if port.name.family in self.families]
        for port in ports:
            wanted[port.name] = port
            touched |= self._claims.replace(port.name, port.created, _claims_of(port))
        names = tuple(port.name for port in ports)
        gone = [name for name in self._names.get(service, ()) if name not in names]
        for name in gone:
            touched |= self._claims.replace(name, "", ())
        if names:
            self._names[service] = names
        else:
            self._names.pop(service, None)
        return gone, touched

    def _forget(self, name: ServicePortName) -> None:
        del self.service_ports[name]
        self.lost_claims.pop(name, None)
        self.undialled.pop(name, None)

    def _conflicts_of(self, name: ServicePortName) -> tuple[object, ...]:
        return self.lost_claims.get(name), self.undialled.get(name)

    def _neighbours(self, state: ClusterState, contested: Iterable[Frontend]) -> set[ServicePortName]:
        """Service ports that claim, or have as an endpoint, a frontend that changed hands."""
        addresses = {frontend.address for frontend in contested}
        if not addresses:
            return set()
        if not addresses.isdisjoint(EVERY_LOCAL_ADDRESS.values()):
            addresses |= state.own_addresses
        names = {
            name
            for service in state.services_with_endpoint_on(addresses)
            for name in self._names.get(service, ())
        }
        for frontend in contested:
            names.update(self._claims.claimants_of(frontend))
        return names

    def _plan(self, port: ServicePort, state: ClusterState) -> PlannedServicePort | None:
        """Plan one Service port; None if that changes nothing."""
        name = port.name
        exposures = port.exposures()
        candidates = listed = candidates_of(name, state.slices_of(name.service))
        undialled = tuple(
            UndialledEndpoint(candidate.endpoint, why)
            for candidate in candidates
            if (why := self._why_undialled(candidate.endpoint, name, state)) is not None
        )
        _put(self.undialled, name, undialled)
        if undialled:
            left_out = {each.endpoint for each in undialled}
            candidates = tuple(candidate for candidate in candidates if candidate.endpoint not in left_out)
        lost = tuple(
            LostClaim(exposure.frontend, name, owner, self._claims.precedence_over(name, exposure.frontend))
            for exposure in exposures
            if (owner := self._claims.owner_of(exposure.frontend)) is not None and owner != name
        )
        _put(self.lost_claims, name, lost)
        used = {policy for exposure in exposures for policy in (exposure.outside, exposure.inside)}
        selections = tuple(
            (policy, select_endpoints(candidates, policy, state.node))
            for policy in TrafficPolicy
            if policy in used
        )
        idle: tuple[Endpoint, ...] = ()
        if port.settings.drain_removed_seconds is not None:
            usable = {endpoint for _, selection in selections for endpoint in selection.endpoints}
            idle = tuple(c.endpoint for c in listed if c.endpoint not in usable)
        planned = PlannedServicePort(port, exposures, selections, idle)
        if self.service_ports.get(name) == planned:
            return None
        self.service_ports[name] = planned
        return planned

    def _why_undialled(
        self, endpoint: Endpoint, name: ServicePortName, state: ClusterState
    ) -> WhyUndialled | None:
        """Why dialling the endpoint would not lead there, or None if it would."""
        if Frontend(endpoint.address, name.protocol, endpoint.port) in self._claims:
            return WhyUndialled.OWN_FRONTEND
        if endpoint.address not in state.own_addresses:
            return None
        if _node_port(name.family, name.protocol, endpoint.port) in self._claims:
            return WhyUndialled.OWN_FRONTEND
        if state.proxy_ports is not None and endpoint.port in state.proxy_ports:
            return WhyUndialled.PROXY_PORT
        return None

    def _with_health_check_at(self, contested: Iterable[Frontend]) -> Iterator[ServiceName]:
        """The Services whose healthCheckNodePort may have become or ceased to be a NodePort."""
        numbers = {item.port for item in contested if item.address in EVERY_LOCAL_ADDRESS.values()}
        for checks in (self.health_checks, self.lost_health_checks):
            yield from (service for service, check in checks.items() if check.port in numbers)

    def _check_health(self, service: ServiceName, state: ClusterState) -> bool:
        """Bring one Service's health check up to date. Returns whether what is to be answered changed."""
        ports = [self.service_ports[name].service_port for name in self._names.get(service, ())]
        number = ports[0].health_check_node_port if ports else None
        check = lost = None
        if number is not None:
            node_ports = (_node_port(family, Protocol.TCP, number) for family in IPFamily)
            owner = next(filter(None, map(self._claims.owner_of, node_ports)), None)
            if owner is not None or (state.proxy_ports is not None and number in state.proxy_ports):
                lost = LostHealthCheck(number, owner)
            else:
                families = {port.name.family for port in ports}
                check = HealthCheck(
                    number, max(self._ready_here(state, service, family) for family in families)
                )
        _put(self.lost_health_checks, service, lost)
        if self.health_checks.get(service) == check:
            return False
        _put(self.health_checks, service, check)
        return True

    def _ready_here(self, state: ClusterState, service: ServiceName, family: IPFamily) -> int:
        """How many endpoints of a family are ready on this node, each counted once whatever its ports.

        Those that no Service port may dial do not count.
        """
        addresses = ready_addresses(state.slices_of(service), family, state.node_name)
        for_nothing = set.intersection(
            *(
                {each.endpoint.address for each in self.undialled.get(name, ())}
                for name in self._names[service]
                if name.family is family
            )
        )
        return len(addresses - for_nothing)

    def _lead(self, frontends: Iterable[Frontend]) -> bool:
        """Let each of `frontends` lead to its owner. Returns whether anything leads elsewhere now."""
        changed = False
        for frontend in frontends:
            owner = self._claims.owner_of(frontend)
            portal = None
            if owner is not None:
                planned = self.service_ports[owner]
                (exposure,) = (e for e in planned.exposures if e.frontend == frontend)
                outcomes = {policy: selection.outcome for policy, selection in planned.selections}
                outside, inside = (
                    PlannedDestination(ListenerName(owner, policy), outcomes[policy])
                    for policy in (exposure.outside, exposure.inside)
                )
                portal = PlannedPortal(owner, outside, inside, exposure.source_ranges)
            if self.portals.get(frontend) != portal:
                changed = True
                if portal is None:
                    del self.portals[frontend]
                else:
                    self.portals[frontend] = portal
        return changed


def _claims_of(port: ServicePort) -> Iterator[FrontendClaim]:
    for exposure in port.exposures():
        yield FrontendClaim(exposure.frontend, exposure.frontend.address == port.cluster_ip)


def _node_port(family: IPFamily, protocol: Protocol, port: Port) -> Frontend:
    return Frontend(EVERY_LOCAL_ADDRESS[family], protocol, port)


def _put(table: dict[_Key, _T], key: _Key, value: _T | None) -> None:
    """Keep `value`, or no entry at all where there is none."""
    if value:
        table[key] = value
    else:
        table.pop(key, None)


def _differing(one: Mapping[_Key, _T], other: Mapping[_Key, _T]) -> set[_Key]:
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
