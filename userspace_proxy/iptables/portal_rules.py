"""Portals → rules: which rules capture a frontend's traffic, and what a restart reads out of them.

A portal, as kube-proxy calls it, is a frontend whose traffic is led to a proxy port: a port of the node on
which a worker listens. nat captures: what comes in from pods and other hosts in KUBE-PORTALS-CONTAINER, what
the node's own processes send in KUBE-PORTALS-HOST, and likewise NodePorts, which have no address of their
own, in KUBE-NODEPORT-CONTAINER and -HOST. What a proxy port lets in is the guard's business.

A portal that is to refuse is captured as well, to one of two ports that serve nobody; so is, to the one
where nothing is answered, who comes from outside of a portal's source ranges.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from operator import attrgetter

from userspace_proxy.core.local_traffic import LocalTraffic
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import (
    EVERY_LOCAL_ADDRESS,
    Frontend,
    IPFamily,
    Port,
    ProxyPort,
)
from userspace_proxy.iptables.chains import NODE_PORTS, PORTALS, PORTALS_GUARD, Chain, Side, Table, side_of
from userspace_proxy.iptables.networks import is_in_any, networks_within, spelled
from userspace_proxy.iptables.portal_chains import Entry, KeySpace, branching_chains
from userspace_proxy.iptables.portal_guard import guard_hooks, guard_rules
from userspace_proxy.iptables.rules import (
    COMMENT_LIMIT,
    Dnat,
    Hook,
    InstalledRules,
    Jump,
    Place,
    Redirect,
    Rule,
    RuleSet,
    safe_comment,
)


class Refusal(Enum):
    """Why a client of a portal is not served, and what it gets: an answer at once, or silence for DROP.

    With REJECT and DROP there is no usable endpoint, with NO_LISTENER no port or descriptor to listen with.
    """

    REJECT = "reject"
    DROP = "drop"
    NO_LISTENER = "no listener"


WHY_REFUSED = {
    Refusal.REJECT: " has no endpoints",
    Refusal.DROP: " has no local endpoints",
    Refusal.NO_LISTENER: " has no listener",
}
"""How the comment of a rule ends that leads to nobody."""

NOT_WELCOME = " is not for this source"
"""How the comment of a rule ends for those who are in none of the source ranges."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The proxy port of a class of traffic, and what happens there if not service."""

    proxy_port: ProxyPort
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Portal:
    """A frontend, whom it serves (`comment`: `namespace/name:port`), and where traffic for it goes.

    `inside` is for what the node's own processes and its pods send, `outside` for the rest. Of clients that
    are in none of `source_ranges` (CIDRs; None: everybody is welcome) nothing gets through.
    """

    frontend: Frontend
    comment: str
    outside: Destination
    inside: Destination
    source_ranges: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """How a node captures.

    `proxy_ports` is the range that all proxy ports are of. `refusing_port` and `silent_port` are two of them
    at which nobody listens. `bind_address` is the one address that listeners are bound to; None: they are
    bound to all. `node_address` is given when traffic can come in by an interface without an address of the
    family, and is where all of it goes to then: REDIRECT would find no address there, and the packets vanish.
    `local_traffic` is what the node's pods send; empty, they count as outside. NodePorts are captured on
    those of the node's addresses that are in `nodeport_addresses` (CIDRs); None: on all. `node_ip` is the
    address by which source ranges know the node.
    """

    family: IPFamily
    proxy_ports: PortRange
    refusing_port: ProxyPort
    silent_port: ProxyPort
    bind_address: str | None = None
    node_address: str | None = None
    local_traffic: tuple[LocalTraffic, ...] = ()
    nodeport_addresses: tuple[str, ...] | None = None
    node_ip: str | None = None

    def port_of(self, destination: Destination) -> ProxyPort:
        """Where the rules lead what goes there."""
        match destination.refusal:
            case None:
                return destination.proxy_port
            case Refusal.REJECT | Refusal.NO_LISTENER:
                return self.refusing_port
            case Refusal.DROP:
                return self.silent_port


@dataclass(frozen=True, slots=True)
class AdoptedPorts:
    """Where installed rules lead the two classes of a frontend's traffic; None where they refuse it."""

    outside: ProxyPort | None
    inside: ProxyPort | None


class PortalRules:
    """The rules for portals that change: those for portals that did not are the same objects as before."""

    def __init__(self) -> None:
        self._settings: CaptureSettings | None = None
        self._known: dict[Frontend, _KnownPortal] = {}
        self._rule_set: RuleSet | None = None

    def rule_set(self, portals: Iterable[Portal], settings: CaptureSettings) -> RuleSet:
        """Everything that is to be installed, in an order that depends on nothing else.

        The same object as before if it is the same.
        """
        if settings != self._settings:
            self._settings, self._known, self._rule_set = settings, {}, None
        known = {}
        for portal in portals:
            before = self._known.get(portal.frontend)
            is_same = before is not None and (before.portal is portal or before.portal == portal)
            known[portal.frontend] = before if before and is_same else _know(portal, settings)
        is_same_set = len(known) == len(self._known) and all(
            self._known.get(frontend) is portal for frontend, portal in known.items()
        )
        self._known = known
        if self._rule_set is None or not is_same_set:
            self._rule_set = RuleSet(_chains(known.values(), settings), tuple(_hooks(settings)))
        return self._rule_set


def read_portals(installed: InstalledRules, family: IPFamily) -> dict[Frontend, AdoptedPorts]:
    """Where the installed rules of a family lead each frontend: what a restarted agent takes up again."""
    outside: dict[Frontend, ProxyPort | None] = {}
    inside: dict[Frontend, ProxyPort | None] = {}
    for chain, rules in installed.chains.items():
        side = side_of(chain)
        classes = [
            *([outside] if side is not Side.HOST else ()),
            *([inside] if side is not Side.CONTAINER else ()),
        ]
        for rule in rules:
            if not (isinstance(rule, Rule) and isinstance(rule.target, Redirect | Dnat)):
                continue
            if not (rule.protocol and rule.destination_ports):
                continue
            address = rule.destination or EVERY_LOCAL_ADDRESS[family]
            frontend = Frontend(address, rule.protocol, Port(rule.destination_ports.first))
            is_refused = rule.comment.endswith(tuple(WHY_REFUSED.values()))
            for ports in classes:
                if rule.comment.endswith(NOT_WELCOME):
                    ports.setdefault(frontend, None)
                else:  # of rules for one frontend those for the node's pods, who are inside, come first
                    ports[frontend] = None if is_refused else ProxyPort(rule.target.port)
    return {
        frontend: AdoptedPorts(outside.get(frontend), inside.get(frontend)) for frontend in outside | inside
    }


@dataclass(frozen=True, slots=True)
class _KnownPortal:
    portal: Portal
    is_node_port: bool
    entry: Entry


def _know(portal: Portal, settings: CaptureSettings) -> _KnownPortal:
    container = tuple(_container_rules(portal, settings))
    is_alike = portal.inside == portal.outside and not _lets_node_in(portal, settings)
    host = container if is_alike else tuple(_host_rules(portal, settings))
    is_node_port = _is_node_port(portal, settings.family)
    key = KeySpace(settings.family, has_address=not is_node_port).key(portal.frontend)
    return _KnownPortal(portal, is_node_port, Entry(key, container, host))


def _is_node_port(portal: Portal, family: IPFamily) -> bool:
    return portal.frontend.address == EVERY_LOCAL_ADDRESS[family]


def _chains(known: Collection[_KnownPortal], settings: CaptureSettings) -> dict[Chain, tuple[Rule, ...]]:
    by_key = attrgetter("key")
    addresses = sorted((portal.entry for portal in known if not portal.is_node_port), key=by_key)
    node_ports = sorted((portal.entry for portal in known if portal.is_node_port), key=by_key)
    with_address, without = KeySpace(settings.family, True), KeySpace(settings.family, False)
    return {
        PORTALS_GUARD: guard_rules(settings.family, settings.refusing_port, settings.silent_port),
        **branching_chains(PORTALS, with_address, addresses),
        **branching_chains(NODE_PORTS, without, node_ports),
    }


def _container_rules(portal: Portal, settings: CaptureSettings) -> Iterator[Rule]:
    """For what comes in: pods first where they are led elsewhere, then everybody."""
    if portal.inside != portal.outside:
        for local in settings.local_traffic:
            yield from _welcome(portal, portal.inside, local, settings)
    yield from _welcome(portal, portal.outside, LocalTraffic(), settings)
    yield from _turn_away(portal, settings)


def _host_rules(portal: Portal, settings: CaptureSettings) -> Iterator[Rule]:
    """For what the node itself sends.

    Where a load balancer's address is an address of the node too, as some clouds' agents have it, that is the
    source of what the node sends to it. It may, if the node may.
    """
    if portal.source_ranges and _lets_node_in(portal, settings):
        portal = replace(portal, source_ranges=(*portal.source_ranges, portal.frontend.address))
    yield from _welcome(portal, portal.inside, LocalTraffic(), settings)
    yield from _turn_away(portal, settings)


def _lets_node_in(portal: Portal, settings: CaptureSettings) -> bool:
    """Whether the source ranges have the node in them."""
    if not portal.source_ranges or settings.node_ip is None:
        return False
    return is_in_any(settings.node_ip, portal.source_ranges)


def _welcome(
    portal: Portal, destination: Destination, traffic: LocalTraffic, settings: CaptureSettings
) -> Iterator[Rule]:
    """Rules that lead the part of `traffic` that may use the portal to its destination."""
    port = settings.port_of(destination)
    comment = _comment(portal, WHY_REFUSED[destination.refusal] if destination.refusal else "")
    for source in networks_within(portal.source_ranges, traffic.source):
        yield _capture(portal, port, comment, settings, source, traffic.in_interface)


def _turn_away(portal: Portal, settings: CaptureSettings) -> Iterator[Rule]:
    """What a client meets that is in none of the source ranges."""
    if portal.source_ranges is not None:
        comment = _comment(portal, NOT_WELCOME)
        yield _capture(portal, settings.silent_port, comment, settings)


def _capture(
    portal: Portal,
    port: ProxyPort,
    comment: str,
    settings: CaptureSettings,
    source: str | None = None,
    in_interface: str | None = None,
) -> Rule:
    frontend = portal.frontend
    to_address = settings.bind_address or settings.node_address
    return Rule(
        target=Dnat(to_address, port) if to_address else Redirect(port),
        protocol=frontend.protocol,
        source=source,
        destination=None if _is_node_port(portal, settings.family) else frontend.address,
        destination_ports=PortRange(frontend.port, frontend.port),
        in_interface=in_interface,
        comment=comment,
    )


def _comment(portal: Portal, why: str) -> str:
    return safe_comment(portal.comment[: COMMENT_LIMIT - len(why)] + why)


def _hooks(settings: CaptureSettings) -> Iterator[Hook]:
    yield from guard_hooks(settings.proxy_ports, settings.silent_port)
    for builtin, portals, node_ports in (
        ("PREROUTING", PORTALS.container, NODE_PORTS.container),
        ("OUTPUT", PORTALS.host, NODE_PORTS.host),
    ):
        to_portals = Rule(target=Jump(portals.name), comment="service portals")
        yield Hook(Chain(Table.NAT, builtin), portals, to_portals, Place.FIRST)
        for network in _networks_with_node_ports(settings):
            to_node_ports = Rule(
                target=Jump(node_ports.name),
                destination=network,
                to_local_address=True,
                comment="service node ports",
            )
            yield Hook(Chain(Table.NAT, builtin), node_ports, to_node_ports, Place.LAST)


def _networks_with_node_ports(settings: CaptureSettings) -> Iterable[str | None]:
    if settings.nodeport_addresses is None:
        return (None,)
    return dict.fromkeys(map(spelled, settings.nodeport_addresses))
