"""What `trace` answers: a packet goes through the rules as values, and its Service port is asked.

The rules are those that the last sync left; whoever changes them meanwhile is repaired within seconds, and
`rules` shows what is really there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from ipaddress import ip_address

from msgspec.structs import replace

from userspace_proxy.admin.protocol import AdminError, ErrorCode
from userspace_proxy.admin.server import Method
from userspace_proxy.agent.fitted_captures import FittedCaptures, KernelThread
from userspace_proxy.agent.live_traffic import LiveTraffic
from userspace_proxy.agent.portal_capture import PortalCapture
from userspace_proxy.agent.served import ServedAnswers
from userspace_proxy.core.answers.trace import (
    NODE,
    OUTSIDE,
    SOMEBODY_OUTSIDE,
    Origin,
    Outcome,
    StepAnswer,
    TraceAnswer,
    TraceQuestion,
    candidate_answers,
    conclude_served,
    explain_not_captured,
    explain_source_ranges,
    origin_of,
    read_frontend,
)
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.decoding import describe
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.endpoint_selection import candidates_of
from userspace_proxy.core.ip_addresses import family_of
from userspace_proxy.core.live_traffic import NOT_LIVE
from userspace_proxy.core.proxy_plan import ListenerName, PlannedPortal, ProxyPlan
from userspace_proxy.core.selection_reasons import Use, explain_selection
from userspace_proxy.core.service_port import EVERY_LOCAL_ADDRESS, Frontend, IPFamily
from userspace_proxy.iptables.chains import Table
from userspace_proxy.iptables.packet_tracer import (
    Delivered,
    Dropped,
    Node,
    Packet,
    Refused,
    Step,
    Way,
    follow,
)
from userspace_proxy.iptables.rule_reasons import reason_for, service_port_of
from userspace_proxy.netlink.node_network import NodeNetworkError
from userspace_proxy.netlink.routes import interface_towards


class Tracing:
    """`served` knows names and workers, `live` what the workers say; routes are asked in `netlink_thread`."""

    def __init__(
        self,
        state: ClusterState,
        plan: ProxyPlan,
        captures: FittedCaptures,
        netlink_thread: KernelThread,
        served: ServedAnswers,
        live: LiveTraffic,
    ) -> None:
        self._state = state
        self._plan = plan
        self._captures = captures
        self._netlink_thread = netlink_thread
        self._served = served
        self._live = live

    def methods(self) -> dict[str, Method]:
        return {"trace": Method(self._trace, TraceQuestion)}

    async def _trace(self, question: TraceQuestion) -> AsyncGenerator[TraceAnswer, None]:
        client = _read_client(question.client)
        frontend = _read_frontend(question.frontend) or self._named(question.frontend, client)
        family = family_of(ip_address(frontend.address))
        if client is not None and family_of(ip_address(client)) is not family:
            message = f"{client} cannot send to {frontend}, which is {family.value}"
            raise AdminError(ErrorCode.BAD_REQUEST, message)
        capture = self._captures.find(family)
        if capture is None:
            raise AdminError(ErrorCode.NOT_FOUND, f"no Service is served here in {family.value}")
        if frontend.address == EVERY_LOCAL_ADDRESS[family]:
            frontend = Frontend(self._node_address(capture), frontend.protocol, frontend.port)
        origin = await self._origin(question.client, client, capture)
        packet = Packet(frontend.protocol, frontend.address, frontend.port, origin.came_in_by, origin.address)
        node = Node(self._captures.addresses_by_interface(family), capture.settings.refusing_port)
        way = follow(capture.installed, packet, node)
        yield await self._explained(frontend, origin, way)

    def _named(self, text: str, client: str | None) -> Frontend:
        """The clusterIP of the Service port that `text` names, in the client's family if there is one."""
        families = [family_of(ip_address(client))] if client is not None else list(IPFamily)
        found = self._served.named(text)
        for family in families:
            names = [name for name in found if name.family is family]
            if len(names) == 1:
                return self._plan.service_ports[names[0]].exposures[0].frontend
            if names:
                several = ", ".join(f"{name} {name.protocol.value}" for name in names)
                raise AdminError(ErrorCode.AMBIGUOUS, f"{text} may be {several}: say which, or an address")
        raise AdminError(ErrorCode.NOT_FOUND, f"{text} is not served in {families[0].value}")

    async def _origin(self, word: str, client: str | None, capture: PortalCapture) -> Origin:
        by_interface = self._captures.addresses_by_interface(capture.family)
        own = [address for addresses in by_interface.values() for address in addresses]
        local_traffic = capture.settings.local_traffic
        if word == NODE:
            client = self._node_address(capture)
        if client is not None and (client in own or word == NODE):
            return origin_of(client, None, local_traffic)
        address = client or SOMEBODY_OUTSIDE[capture.family]
        try:
            interface = await self._netlink_thread.run(partial(interface_towards, address))
        except NodeNetworkError as error:
            raise AdminError(ErrorCode.UNAVAILABLE, str(error)) from error
        if interface is None:
            message = f"the node has no route to {address}, so nothing is known of how it would come in"
            raise AdminError(ErrorCode.NOT_FOUND, message)
        return origin_of(address, interface, local_traffic, is_anybody=client is None)

    def _node_address(self, capture: PortalCapture) -> str:
        """One by which the node is reached; loopback's, if it has no other."""
        by_interface = self._captures.addresses_by_interface(capture.family)
        own = (address for addresses in by_interface.values() for address in addresses)
        return capture.settings.node_ip or next(own, EVERY_LOCAL_ADDRESS[capture.family])

    async def _explained(self, frontend: Frontend, origin: Origin, way: Way) -> TraceAnswer:
        outcome, conclusion = _ending(way)
        answer = TraceAnswer(
            client=origin.address,
            origin=origin.sentence,
            is_inside=origin.is_inside,
            frontend=str(frontend),
            steps=tuple(map(_step, way.steps)),
            outcome=outcome,
            conclusion=conclusion,
        )
        portal = self._portal_of(frontend)
        if outcome is Outcome.PASSED_ON:
            why = explain_not_captured(frontend, self._plan.portals, self._state.own_addresses)
            return replace(answer, conclusion=why)
        if portal is None or portal.owner not in self._plan.service_ports:
            return answer
        return await self._with_service_port(answer, portal, way)

    async def _with_service_port(self, answer: TraceAnswer, portal: PlannedPortal, way: Way) -> TraceAnswer:
        """The same with what is known of who captures the packet."""
        name, ranges = portal.owner, portal.source_ranges
        planned = self._plan.service_ports[name]
        listener = (portal.inside if answer.is_inside else portal.outside).listener
        state = (await self._live.state_of([name], answer.client)).service_ports.get(name)
        live = state.classes.get(listener.policy) if state is not None else None
        is_served = answer.outcome is Outcome.SERVED
        port = way.ending.port if isinstance(way.ending, Delivered) else None
        conclusion = answer.conclusion
        if port is not None:
            conclusion = conclude_served(str(name), listener.policy.value, port, live.next if live else ())
        return replace(
            answer,
            conclusion=conclusion,
            service_port=str(name),
            traffic_policy=listener.policy.value,
            source_ranges=None if ranges is None else explain_source_ranges(ranges, answer.client),
            proxy_port=port,
            workers=self._served.workers_of(name) if is_served else (),
            balancing=planned.service_port.settings.balancing.value,
            affinity_timeout_seconds=planned.service_port.affinity_timeout_seconds,
            bound_to=tuple(map(str, state.bound_to)) if state is not None else (),
            endpoints=candidate_answers(
                self._uses(listener), state if is_served and state else NOT_LIVE, listener.policy
            ),
        )

    def _portal_of(self, frontend: Frontend) -> PlannedPortal | None:
        """Whose the frontend is; one of this node's addresses may be a NodePort's."""
        portal = self._plan.portals.get(frontend)
        if portal is None and frontend.address in self._state.own_addresses:
            everywhere = EVERY_LOCAL_ADDRESS[family_of(ip_address(frontend.address))]
            portal = self._plan.portals.get(Frontend(everywhere, frontend.protocol, frontend.port))
        return portal

    def _uses(self, listener: ListenerName) -> dict[Endpoint, Use]:
        name = listener.service_port
        return explain_selection(
            candidates_of(name, self._state.slices_of(name.service)),
            {each.endpoint: each.why for each in self._plan.undialled.get(name, ())},
            listener.policy,
            self._state.node,
        )


def _read_client(text: str) -> str | None:
    """An address in its canonical spelling; None for a word. Raises `AdminError`."""
    if text in (OUTSIDE, NODE):
        return None
    try:
        return str(ip_address(text))
    except ValueError as error:
        message = f"{describe(text)} is no IP address, and neither {OUTSIDE} nor {NODE}"
        raise AdminError(ErrorCode.BAD_REQUEST, message) from error


def _read_frontend(text: str) -> Frontend | None:
    """None for the name of a Service. Raises `AdminError`."""
    try:
        return read_frontend(text)
    except ValueError as error:
        raise AdminError(ErrorCode.BAD_REQUEST, str(error)) from None


def _step(step: Step) -> StepAnswer:
    return StepAnswer(
        table=step.chain.table.value,
        chain=step.chain.name,
        rule=str(step.rule),
        reason=reason_for(step.chain, step.rule),
    )


def _ending(way: Way) -> tuple[Outcome, str]:
    """How the packet ends, and by the last rule's reason, why."""
    captured = [step for step in way.steps if service_port_of(step.rule) is not None]
    decisive = (captured or way.steps)[-1:]
    why = "".join(reason_for(step.chain, step.rule) for step in decisive)
    match way.ending:
        case Delivered() if captured:
            return Outcome.SERVED, why
        case Refused():
            return Outcome.REFUSED, why
        case Dropped() if way.steps[-1].chain.table is Table.NAT:
            return Outcome.DROPPED, "The interface that it comes in by has no address to redirect it to."
        case Dropped():
            return Outcome.DROPPED, why
        case _:
            return Outcome.PASSED_ON, why
