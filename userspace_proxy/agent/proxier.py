"""Follows the plan: listeners and endpoints to the workers at once, portals to the rules after that.

Theory of operation. Everything is level-triggered: what is wanted is compared with what is, so a failed step
is simply taken again. The order of a change is

    listener → endpoints, acknowledged by the worker → rules → old rules gone → old listener closed

so only portals whose listeners serve are handed to the rules, and a listener closes only when no committed
rule leads to it. Serving never waits for iptables. `_workers_lock` is held while workers are told something,
so that a listener is not retired and wanted again at the same time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NoReturn
from typing import Protocol as TypingProtocol

import msgspec

from userspace_proxy.agent.plan_reports import PlanReports
from userspace_proxy.agent.portal_capture import PortalCapture
from userspace_proxy.agent.supervision import run_together
from userspace_proxy.core.cluster_state import ClusterState, OriginOf
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.endpoint_selection import Outcome
from userspace_proxy.core.objects import Event
from userspace_proxy.core.problem import Problem
from userspace_proxy.core.proxy_plan import (
    HealthCheck,
    ListenerName,
    PlannedDestination,
    PlannedServicePort,
    ProxyPlan,
)
from userspace_proxy.core.service_port import (
    Frontend,
    IPFamily,
    Protocol,
    ProxyPort,
    ServiceName,
    ServicePortName,
    udp_idle_timeouts,
)
from userspace_proxy.dataplane.listening_sockets import ListenerError, ListeningSockets
from userspace_proxy.dataplane.messages import ListenerConfig, ServicePortConfig
from userspace_proxy.errors import StartupError
from userspace_proxy.iptables.portal_rules import AdoptedPorts, Destination, Portal, Refusal
from userspace_proxy.observability.problem_ledger import ProblemLedger

logger = logging.getLogger(__name__)

_REFUSALS: Final = {Outcome.SERVE: None, Outcome.REFUSE: Refusal.REJECT, Outcome.DROP: Refusal.DROP}
_OPEN_AT_ONCE: Final = 200
_RESERVED_DESCRIPTORS: Final = 512
_RETRY_SECONDS: Final = 5.0


class Workers(TypingProtocol):
    """What serving needs of the worker pool."""

    async def configure(
        self, service_ports: Iterable[ServicePortConfig], removed: Iterable[str] = ()
    ) -> None: ...


class Proxier:
    """The `Sink` of a source; `run` does the work until it is cancelled.

    `max_descriptors` is what this process may have open; `origin_of` says where an object came from;
    `serve_health_checks` is told all of them whenever one has changed; `node_changed` is called when the Node
    object says something else about this node. `listening_ports` says, in a thread, where processes of the
    node listen.
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
        listening_ports: Callable[[], Collection[tuple[Protocol, int]]],
        udp_timeout_seconds: float | None,
        max_descriptors: int,
    ) -> None:
        self.ledger = ProblemLedger()
        self._state = state
        self._sockets = sockets
        self._workers = workers
        self._captures = {capture.family: capture for capture in captures}
        self._plan = ProxyPlan(frozenset(self._captures))
        self._origin_of = origin_of
        self._serve_health_checks = serve_health_checks
        self._node_changed = node_changed
        self._reports = PlanReports(self._plan, self.ledger, origin_of, listening_ports)
        self._udp_timeout_seconds = udp_timeout_seconds
        self._max_descriptors = max_descriptors
        self._changed = asyncio.Event()
        self._workers_lock = asyncio.Lock()
        self._adopted: dict[Frontend, AdoptedPorts] = {}
        self._unopened: set[ServicePortName] = set()
        self._portals: dict[Frontend, Portal] = {}
        self._given: dict[ListenerName, tuple[Endpoint, ...]] = {}
        self._outdated: set[ServicePortName] = set()
        self._is_serving = False

    @property
    def health_checks(self) -> Mapping[ServiceName, HealthCheck]:
        """What load balancers are to be told now."""
        return self._plan.health_checks

    def observe(self, events: Sequence[Event]) -> None:
        """Fold events in; their effect follows."""
        node = self._state.node_facts
        for event in events:
            for key, problems in self._state.apply(event, self._origin_of).items():
                self.ledger.report(str(key), problems)
        if self._state.node_facts != node:
            self._node_changed()
        self._changed.set()

    def report(self, scope: str, problems: Sequence[Problem]) -> None:
        """Name what a source could not read."""
        self.ledger.report(scope, problems)

    async def run(self) -> NoReturn:
        """Adopt what an earlier run left, then follow the state for ever.

        Raises `StartupError` if the machine cannot hold the listeners that are wanted at the start.
        """
        for capture in self._captures.values():
            self._adopted.update(await capture.adopt())
        # Until the first commit the old rules stand, and nobody else may listen where they lead.
        self._sockets.keep_ports(
            (frontend.protocol, port)
            for frontend, adopted in self._adopted.items()
            for port in (adopted.outside, adopted.inside)
            if port is not None
        )
        capturing = (capture.run(self._rules_committed) for capture in self._captures.values())
        await run_together(self._keep_serving(), *capturing)
        raise AssertionError("serving never ends")

    async def _keep_serving(self) -> NoReturn:
        while True:
            try:
                async with asyncio.timeout(_RETRY_SECONDS if self._unopened else None):
                    await self._changed.wait()
            except TimeoutError:
                pass  # try the listeners that could not be opened again
            self._changed.clear()
            if self._state.is_complete:
                await self._serve_changes()

    async def _serve_changes(self) -> None:
        async with self._workers_lock:
            change = self._plan.update(self._state, sorted(self._state.take_dirty()))
            wanted = {planned.name: planned for planned in change.changed}
            retried = self._unopened & self._plan.service_ports.keys()
            self._unopened &= retried
            for name in retried:
                wanted.setdefault(name, self._plan.service_ports[name])
            if not self._is_serving:
                self._refuse_what_cannot_fit(wanted.values())
            opened = await self._open_listeners(wanted.values())
            configs = [self._config_of(planned) for planned in wanted.values()]
            await self._workers.configure([config for config in configs if config.listeners])
        self._reports.name_conflicts(change.conflicts_changed)
        if change.portals_changed or opened or not self._is_serving:
            self._hand_over_portals()
            await self._reports.name_shared_ports(self._portals, self._state.node_facts.addresses)
        if change.health_checks_changed:
            self._serve_health_checks(self._plan.health_checks)
        if not self._is_serving:
            self._is_serving = True
            logger.info(
                "Serving: service_ports=%d listeners=%d", len(self._plan.service_ports), len(self._sockets)
            )

    def _refuse_what_cannot_fit(self, planned: Iterable[PlannedServicePort]) -> None:
        needed = sum(len(port.selections) for port in planned)
        if needed + _RESERVED_DESCRIPTORS > self._max_descriptors:
            raise StartupError(
                f"{needed} listeners are needed, and {_RESERVED_DESCRIPTORS} descriptors beside them, "
                f"but this process may have only {self._max_descriptors} open: raise the limit "
                "(LimitNOFILE= in a systemd unit, ulimit -n in a shell)"
            )

    async def _open_listeners(self, planned: Iterable[PlannedServicePort]) -> int:
        """Open what is missing; returns how many. What cannot be opened is named and tried again later."""
        opened = 0
        for port in planned:
            failed = port.name in self._unopened
            self._unopened.discard(port.name)
            for policy, _ in port.selections:
                name = ListenerName(port.name, policy)
                if name in self._sockets:
                    continue
                try:
                    if len(self._sockets) + _RESERVED_DESCRIPTORS >= self._max_descriptors:
                        raise ListenerError(f"{self._max_descriptors} descriptors are all that are allowed")
                    self._sockets.open(name, self._adopted_port(name))
                except ListenerError as error:
                    self._unopened.add(port.name)
                    if not failed:
                        logger.error("Listener not opened: service_port=%s reason=%s", port.name.key, error)
                else:
                    opened += 1
                    if opened % _OPEN_AT_ONCE == 0:
                        await asyncio.sleep(0)
        return opened

    def _adopted_port(self, name: ListenerName) -> ProxyPort | None:
        """Where the rules of an earlier run lead this class of traffic, so that they can stay."""
        for frontend, portal in self._plan.portals_of(name.service_port):
            adopted = self._adopted.get(frontend)
            if adopted is None:
                continue
            if portal.outside.listener == name and adopted.outside is not None:
                return adopted.outside
            if portal.inside.listener == name and adopted.inside is not None:
                return adopted.inside
        return None

    def _config_of(self, planned: PlannedServicePort) -> ServicePortConfig:
        """The whole state of a Service port for its worker.

        While rules still lead to a listener it goes on serving: with its last endpoints if they are all gone
        now (accepting and then closing would be a lie to the client; the rules refuse in a moment), with
        those of another class of traffic if its own class is gone. `_rules_committed` ends both.
        """
        name = planned.name
        timeouts = udp_idle_timeouts(planned.service_port.port, self._udp_timeout_seconds)
        selections = dict(planned.selections)
        fallback = planned.selections[0][1]
        listeners = []
        for listener in self._sockets.listeners_of(name):
            endpoints = selections.get(listener.policy, fallback).endpoints
            if not endpoints and self._is_led_to(listener) and self._given.get(listener):
                endpoints = self._given[listener]
                self._outdated.add(name)
            self._given[listener] = endpoints
            listeners.append(
                ListenerConfig(
                    policy=listener.policy.value,
                    proxy_port=self._sockets.port_of(listener),
                    endpoints=tuple((endpoint.address, int(endpoint.port)) for endpoint in endpoints),
                )
            )
        return ServicePortConfig(
            key=name.key,
            label=str(name),
            protocol=name.protocol.value,
            family=name.family.value,
            affinity_timeout_seconds=planned.service_port.affinity_timeout_seconds,
            udp_unanswered_seconds=timeouts.unanswered_seconds,
            udp_answered_seconds=timeouts.answered_seconds,
            listeners=tuple(listeners),
        )

    def _hand_over_portals(self) -> None:
        """Let the rules of each family lead to every frontend whose listener serves."""
        portals: dict[IPFamily, dict[Frontend, Portal]] = {family: {} for family in self._captures}
        for frontend, planned in self._plan.portals.items():
            if planned.outside.listener in self._sockets and planned.inside.listener in self._sockets:
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
        return Destination(self._sockets.port_of(planned.listener), _REFUSALS[planned.outcome])

    async def _rules_committed(self) -> None:
        """Do what had to wait for the rules.

        Listeners that neither the plan nor a rule leads to are closed. Those that the rules refuse now lose
        the endpoints that they kept until then.
        """
        async with self._workers_lock:
            if all(capture.has_committed for capture in self._captures.values()):
                self._adopted.clear()
                self._sockets.keep_ports(())
            doomed = [
                name for name in self._sockets if not self._is_planned(name) and not self._is_led_to(name)
            ]
            doomed_of = {name.service_port: set[ProxyPort]() for name in doomed}
            for name in doomed:
                doomed_of[name.service_port].add(self._sockets.port_of(name))
            planned = self._plan.service_ports
            removed = [
                service_port.key
                for service_port in doomed_of.keys() - planned.keys()
                if len(doomed_of[service_port]) == len(self._sockets.listeners_of(service_port))
            ]
            reduced = []
            for service_port in (self._outdated | doomed_of.keys()) & planned.keys():
                self._outdated.discard(service_port)
                config = self._config_of(planned[service_port])
                gone = doomed_of.get(service_port, ())
                kept = tuple(listener for listener in config.listeners if listener.proxy_port not in gone)
                reduced.append(msgspec.structs.replace(config, listeners=kept))
            self._outdated &= planned.keys()
            if reduced or removed:
                await self._workers.configure(reduced, removed)
            closing = planned.keys() | {name for name in doomed_of if name.key in removed}
            for name in [name for name in doomed if name.service_port in closing]:
                self._sockets.close(name)
                self._given.pop(name, None)

    def _is_planned(self, name: ListenerName) -> bool:
        planned = self._plan.service_ports.get(name.service_port)
        return planned is not None and name.policy in dict(planned.selections)

    def _is_led_to(self, name: ListenerName) -> bool:
        """Whether an installed rule leads to the listener."""
        capture = self._captures[name.service_port.family]
        return capture.leads_to(name.service_port.protocol, self._sockets.port_of(name))
