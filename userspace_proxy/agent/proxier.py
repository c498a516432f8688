"""Follows the plan: listeners and endpoints to the workers at once, portals to the rules after that.

Theory of operation. Everything is level-triggered: what is wanted is compared with what is, so a failed step
is simply taken again. The order of a change is

    listener → endpoints, acknowledged by the worker → rules → old rules gone → old listener closed

so the rules lead to listeners that serve, and a listener closes only when no committed rule leads to it.
Serving never waits for iptables. `_workers_lock` is held while workers are told something, so that a listener
is not retired and wanted again at the same time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn
from typing import Protocol as TypingProtocol

from userspace_proxy.agent.listeners import Listeners
from userspace_proxy.agent.operator_ejections import OperatorEjections
from userspace_proxy.agent.plan_reports import PlanReports
from userspace_proxy.agent.portal_capture import PortalCapture
from userspace_proxy.agent.shared_ports import SharedPorts
from userspace_proxy.agent.supervision import run_together
from userspace_proxy.core.cluster_state import ClusterState, OriginOf
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.endpoint_selection import Outcome
from userspace_proxy.core.event_series import RecordEvent, unrecorded
from userspace_proxy.core.listener_retirement import is_wanted, plan_retirement
from userspace_proxy.core.objects import Event
from userspace_proxy.core.problem import Problem
from userspace_proxy.core.proxy_plan import (
    HealthCheck,
    ListenerName,
    PlanChange,
    PlannedDestination,
    PlannedServicePort,
    ProxyPlan,
)
from userspace_proxy.core.service_annotations import ServiceSettings
from userspace_proxy.core.service_port import (
    Frontend,
    IPFamily,
    Protocol,
    ProxyPort,
    ServiceName,
    ServicePortName,
    udp_idle_timeouts,
)
from userspace_proxy.dataplane.listening_sockets import ListeningSockets
from userspace_proxy.dataplane.messages import ListenerConfig, ServicePortConfig
from userspace_proxy.iptables.portal_rules import AdoptedPorts, Destination, Portal, Refusal
from userspace_proxy.logs.formats import at_verbosity
from userspace_proxy.observability.problem_ledger import ProblemLedger
from userspace_proxy.observability.sync_record import ChangeRecord

logger = logging.getLogger(__name__)

AT_EACH_CHANGE: Final = at_verbosity(2)
AT_EACH_OBJECT: Final = at_verbosity(4)

_REFUSALS: Final = {Outcome.SERVE: None, Outcome.REFUSE: Refusal.REJECT, Outcome.DROP: Refusal.DROP}


class Workers(TypingProtocol):
    """What serving needs of the worker pool."""

    async def configure(
        self, service_ports: Iterable[ServicePortConfig], removed: Iterable[str] = ()
    ) -> None: ...

    async def retire(self) -> None: ...


class Proxier:
    """The `Sink` of a source; `run` does the work until it is cancelled.

    `origin_of` says where an object came from; `serve_health_checks` is told all of them whenever one has
    changed; `node_changed` is called when the Node object says something else about this node, and
    `serving_began` once, when all that was listed first is served.
    `max_descriptors` is what this process may have open. Listeners that cannot be opened are tried again
    every `retry_seconds`, and when another one has closed.
    """

    def __init__(
        self,
        *,
        state: ClusterState,
        sockets: ListeningSockets,
        workers: Workers,
        captures: Sequence[PortalCapture],
        origin_of: OriginOf,
        serve_health_checks: Callable[[Mapping[ServiceName, HealthCheck]], None],
        node_changed: Callable[[], None],
        shared_ports: SharedPorts,
        ejections: OperatorEjections,
        udp_timeout_seconds: float | None,
        max_descriptors: int,
        retry_seconds: float = 5.0,
        record_event: RecordEvent = unrecorded,
        serving_began: Callable[[], None] = lambda: None,
    ) -> None:
        self._serving_began = serving_began
        self.ledger = ProblemLedger(record_event)
        self.changes = ChangeRecord([capture.family for capture in captures], time.time)
        self._state = state
        self._sockets = sockets
        self._workers = workers
        self._captures = {capture.family: capture for capture in captures}
        self._plan = ProxyPlan(frozenset(self._captures))
        self._origin_of = origin_of
        self._serve_health_checks = serve_health_checks
        self._node_changed = node_changed
        self._reports = PlanReports(self._plan, self.ledger, origin_of)
        self._listeners = Listeners(self._plan, sockets, max_descriptors, record_event)
        self._shared_ports = shared_ports
        self._ejections = ejections
        self._udp_timeout_seconds = udp_timeout_seconds
        self._changed = asyncio.Event()
        self._workers_lock = asyncio.Lock()
        self._retry_seconds = retry_seconds
        self._retry_at: float | None = None
        self._portals: dict[Frontend, Portal] = {}
        self._own_addresses: frozenset[str] = frozenset()
        self._pod_cidrs: tuple[str, ...] = ()
        self._given: dict[ListenerName, tuple[Endpoint, ...]] = {}
        self._outdated: set[ServicePortName] = set()
        self._is_serving = False

    @property
    def plan(self) -> ProxyPlan:
        """What is followed; to be read."""
        return self._plan

    @property
    def health_checks(self) -> Mapping[ServiceName, HealthCheck]:
        """What load balancers are to be told now."""
        return self._plan.health_checks

    @property
    def service_ports(self) -> Mapping[ServicePortName, PlannedServicePort]:
        """What is served."""
        return self._plan.service_ports

    @property
    def unopened_listeners(self) -> int:
        """How many listeners cannot be opened."""
        return self._listeners.unopened

    def observe(self, events: Sequence[Event]) -> None:
        """Fold events in; their effect follows."""
        node = self._state.node_facts
        for event in events:
            findings = self._state.apply(event, self._origin_of)
            self.changes.seen(event, findings)
            for key, problems in findings.items():
                name = f"{key.namespace}/{key.name}"
                logger.log(AT_EACH_OBJECT, "Object changed: kind=%s name=%s", key.kind.value, name)
                self.ledger.report(str(key), problems)
        if self._state.node_facts != node:
            self._node_changed()
        self._changed.set()

    def follow(self, settings: ServiceSettings, cluster_cidrs: tuple[str, ...]) -> None:
        """From now on Services have `settings`, unless their annotations differ, and pods `cluster_cidrs`."""
        self._state.cluster_cidrs = cluster_cidrs
        for key, problems in self._state.settle_again(settings, self._origin_of).items():
            self.ledger.report(str(key), problems)
        self._changed.set()

    def report(self, scope: str, problems: Sequence[Problem]) -> None:
        """Name what a source could not read."""
        self.ledger.report(scope, problems)

    async def run(self) -> NoReturn:
        """Adopt what an earlier run left, then follow the state for ever.

        Raises `StartupError` if the machine cannot hold the listeners that are wanted at the start.
        """
        adopted: dict[Frontend, AdoptedPorts] = {}
        for capture in self._captures.values():
            adopted |= await capture.adopt()
        self._listeners.adopt(adopted)
        capturing = {
            f"rules of {family.value}": capture.run(self._rules_committed)
            for family, capture in self._captures.items()
        }
        await run_together(
            {"serving": self._keep_serving(), "shared ports": self._shared_ports.run(), **capturing}
        )
        raise AssertionError("serving never ends")

    async def _keep_serving(self) -> NoReturn:
        clock = asyncio.get_running_loop().time
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._retry_at):
                    await self._changed.wait()
            self._changed.clear()
            if self._state.is_complete:
                is_retry = self._retry_at is not None and clock() >= self._retry_at
                await self._serve_changes(is_retry)
                if not self._listeners.has_unopened:
                    self._retry_at = None
                elif is_retry or self._retry_at is None:
                    self._retry_at = clock() + self._retry_seconds

    async def _serve_changes(self, is_retry: bool) -> None:
        async with self._workers_lock:
            self.changes.begin()
            dirty = sorted(self._state.take_dirty())
            change = self._plan.update(self._state, dirty)
            # A Service that went while no agent ran is not among the changes.
            self._ejections.follow(dirty if self._is_serving else None, self._state)
            if not self._is_serving:
                self._listeners.require_room()
            opened = await self._listeners.open(change.changed)
            if is_retry:
                opened |= await self._listeners.retry()
            service_ports = self._plan.service_ports
            concerned = dict.fromkeys([*(planned.name for planned in change.changed), *opened])
            pod_cidrs = self._state.pod_cidrs(IPFamily.IPV6)
            if pod_cidrs != self._pod_cidrs:
                self._pod_cidrs = pod_cidrs
                concerned |= dict.fromkeys(name for name in service_ports if name.family is IPFamily.IPV6)
            configs = [self._config_of(service_ports[name]) for name in concerned]
            # Those with a listener end when no rule leads to it any more.
            ended = [name.key for name in change.removed if name not in self._sockets.by_service_port]
            await self._workers.configure([config for config in configs if config.listeners], ended)
            logger.log(
                AT_EACH_CHANGE,
                "Change served: service_ports=%d removed=%d listeners_opened=%d",
                len(configs),
                len(change.removed),
                len(opened),
            )
        self._reports.name_conflicts(change.conflicts_changed)
        is_first, own_addresses = not self._is_serving, self._state.own_addresses
        is_for_rules = change.portals_changed or opened or self._has_idle_listener(change) or is_first
        if is_for_rules:
            self._hand_over_portals()
        else:
            self.changes.in_effect()
        if is_for_rules or own_addresses != self._own_addresses:
            self._own_addresses = own_addresses
            self._shared_ports.look_at(self._portals, own_addresses)
        if change.health_checks_changed or is_first:
            self._serve_health_checks(self._plan.health_checks)
        if is_first:
            self._is_serving = True
            self._serving_began()
            logger.info(
                "Serving: service_ports=%d listeners=%d", len(self._plan.service_ports), len(self._sockets)
            )

    async def tell_workers(self, names: Iterable[ServicePortName]) -> None:
        """Have the workers of these Service ports know what `ejections` says by now; returns when they do."""
        async with self._workers_lock:
            planned = [self._plan.service_ports[name] for name in names if name in self._plan.service_ports]
            configs = [self._config_of(each) for each in planned]
            await self._workers.configure([config for config in configs if config.listeners])

    def _has_idle_listener(self, change: PlanChange) -> bool:
        """Whether one is open that the plan has no more; it closes after a sync, if no rule leads to it."""
        names = (*change.removed, *(planned.name for planned in change.changed))
        return any(
            not is_wanted(listener, self._plan.service_ports)
            for name in names
            for listener in self._sockets.listeners_of(name)
        )

    def _config_of(
        self, planned: PlannedServicePort, listeners: Sequence[ListenerName] | None = None
    ) -> ServicePortConfig:
        """The whole state of a Service port for its worker, with all its open listeners or these alone.

        While rules still lead to a listener it goes on serving: with its last endpoints if they are all gone
        now (accepting and then closing would be a lie to the client; the rules refuse in a moment), with
        those of another class of traffic if its own class is gone. `_rules_committed` ends both.
        """
        name = planned.name
        timeouts = udp_idle_timeouts(planned.service_port.port, self._udp_timeout_seconds)
        selections = dict(planned.selections)
        fallback = planned.selections[0][1]
        configs = []
        for listener in self._sockets.listeners_of(name) if listeners is None else listeners:
            endpoints = selections.get(listener.policy, fallback).endpoints
            if not endpoints and self._is_led_to(listener) and self._given.get(listener):
                endpoints = self._given[listener]
                self._outdated.add(name)
            self._given[listener] = endpoints
            configs.append(
                ListenerConfig(
                    policy=listener.policy.value,
                    proxy_port=self._sockets.port_of(listener),
                    endpoints=tuple((endpoint.address, int(endpoint.port)) for endpoint in endpoints),
                )
            )
        settings = planned.service_port.settings
        is_tcp = name.protocol is Protocol.TCP
        return ServicePortConfig(
            key=name.key,
            label=str(name),
            protocol=name.protocol.value,
            family=name.family.value,
            affinity_timeout_seconds=planned.service_port.affinity_timeout_seconds,
            udp_unanswered_seconds=timeouts.unanswered_seconds,
            udp_answered_seconds=timeouts.answered_seconds,
            listeners=tuple(configs),
            max_connections=settings.max_connections if is_tcp else settings.max_udp_flows,
            max_per_client=(
                settings.max_connections_per_client if is_tcp else settings.max_udp_flows_per_client
            ),
            drain_removed_seconds=settings.drain_removed_seconds,
            idle_endpoints=tuple((endpoint.address, int(endpoint.port)) for endpoint in planned.idle),
            workers=settings.workers if is_tcp else 1,
            pod_cidrs=self._pod_cidrs if name.family is IPFamily.IPV6 else (),
            balancing=settings.balancing.value,
            sends_proxy_protocol=settings.sends_proxy_protocol and is_tcp,
            taken_out=self._ejections.told(name),
        )

    def _hand_over_portals(self) -> None:
        """Let the rules of each family lead to every frontend's listeners, which serve by now."""
        portals: dict[IPFamily, dict[Frontend, Portal]] = {family: {} for family in self._captures}
        for frontend, planned in self._plan.portals.items():
            portal = Portal(
                frontend,
                str(planned.owner),
                self._destination_of(planned.outside),
                self._destination_of(planned.inside),
                planned.source_ranges,
            )
            known = self._portals.get(frontend)
            # The same object where nothing differs, which spares the rules a comparison of all.
            portals[planned.owner.family][frontend] = known if known == portal else portal
        self._portals = {frontend: portal for found in portals.values() for frontend, portal in found.items()}
        for family, capture in self._captures.items():
            capture.want(portals[family])

    def _destination_of(self, planned: PlannedDestination) -> Destination:
        """Where a class of traffic goes; if its listener could not be opened, it is refused until it is.

        A rule that stands may lead to what is somebody else's by now, or keep open the very listener whose
        port is wanted; see docs/decisions/0009-refusing-ports.md.
        """
        refusal = _REFUSALS[planned.outcome]
        if planned.listener not in self._sockets:
            return Destination(ProxyPort(0), refusal or Refusal.NO_LISTENER)
        return Destination(self._sockets.port_of(planned.listener), refusal)

    async def _rules_committed(self) -> None:
        """Do what had to wait for the rules.

        Listeners that neither the plan nor a rule leads to are closed. Those that the rules refuse now lose
        the endpoints that they kept until then. Workers of an earlier agent drain once nothing can lead to
        what only they serve; a family that cannot be written, and had no rules, keeps nobody from that.
        """
        async with self._workers_lock:
            if all(capture.has_committed for capture in self._captures.values()):
                self.changes.in_effect()
            if not any(capture.may_lead_as_earlier for capture in self._captures.values()):
                self._listeners.adopt({})
                await self._workers.retire()
            service_ports = self._plan.service_ports
            retirement = plan_retirement(self._sockets.by_service_port, service_ports, self._is_led_to)
            outdated, self._outdated = self._outdated & service_ports.keys(), set()
            configs = [
                self._config_of(service_ports[name], retirement.reduced.get(name))
                for name in retirement.reduced.keys() | outdated
            ]
            if configs or retirement.removed:
                await self._workers.configure(configs, [name.key for name in retirement.removed])
            for name in retirement.closing:
                self._sockets.close(name)
                self._given.pop(name, None)
        if retirement.closing and self._listeners.has_unopened:
            self._retry_at = asyncio.get_running_loop().time()
            self._changed.set()

    def _is_led_to(self, name: ListenerName) -> bool:
        """Whether an installed rule leads to the listener."""
        capture = self._captures[name.service_port.family]
        return capture.leads_to(name.service_port.protocol, self._sockets.port_of(name))
