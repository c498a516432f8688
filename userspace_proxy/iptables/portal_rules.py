"""Portals → rules: which rules capture a frontend's traffic, and which guard the proxy ports.

A portal, as kube-proxy calls it, is a frontend whose traffic is led to a proxy port: a port of the node on
which a worker listens. nat captures: what comes in from pods and other hosts in KUBE-PORTALS-CONTAINER, what
the node's own processes send in KUBE-PORTALS-HOST. filter guards: a proxy port answers what was redirected
to it and nothing else.

Refusing needs no rule for each portal in filter: a portal without endpoints is captured to one of two ports
that serve nobody. At the refusing port the kernel's own TCP resets connections, because nobody listens there,
and the guard rejects datagrams; at the silent port the guard drops everything. (REJECT would not do for TCP:
where bridged packets pass iptables, as on most nodes, its reset leaves with the proxy port's address instead
of the frontend's, and a pod's client waits in vain.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, ProxyPort
from userspace_proxy.iptables.rules import (
    COMMENT_LIMIT,
    PORTALS_CONTAINER,
    PORTALS_GUARD,
    PORTALS_HOST,
    Chain,
    ConntrackState,
    Dnat,
    Hook,
    InstalledRules,
    Jump,
    Place,
    PortRange,
    Redirect,
    Reject,
    Rule,
    RuleSet,
    Table,
    Verdict,
    is_any_of,
    is_none_of,
    safe_comment,
)

_RELATED, _ESTABLISHED = ConntrackState.RELATED, ConntrackState.ESTABLISHED
_DNAT = ConntrackState.DNAT


class Refusal(Enum):
    """What a client of a portal without a usable endpoint gets: an answer at once, or silence."""

    REJECT = "reject"
    DROP = "drop"


_WHY_REFUSED = {Refusal.REJECT: " has no endpoints", Refusal.DROP: " has no local endpoints"}
"""How the comment of a rule ends that leads to nobody."""


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

    `proxy_ports` is the range that all proxy ports are of. `bind_address` is the one address that listeners
    are bound to; None: they are bound to all. `node_address` is given when traffic can come in by an
    interface without an address of the family, and is where it goes to then: REDIRECT would find no address
    there, and the packets would vanish. `refusing_port` and `silent_port` are two of `proxy_ports` at which
    nobody listens.
    """

    family: IPFamily
    proxy_ports: PortRange
    refusing_port: ProxyPort
    silent_port: ProxyPort
    bind_address: str | None = None
    node_address: str | None = None


def portal_rules(portals: Iterable[Portal], settings: CaptureSettings) -> RuleSet:
    """Everything that is to be installed for these portals, in an order that depends on nothing else."""
    ordered = sorted(portals, key=_order)
    from_outside = settings.bind_address or settings.node_address
    return RuleSet(
        chains={
            PORTALS_GUARD: tuple(_guard(settings)),
            PORTALS_CONTAINER: tuple(_capture(portal, from_outside, settings) for portal in ordered),
            PORTALS_HOST: tuple(_capture(portal, settings.bind_address, settings) for portal in ordered),
        },
        hooks=(
            *(_guard_hook(protocol, settings.proxy_ports) for protocol in Protocol),
            _portals_hook("PREROUTING", PORTALS_CONTAINER),
            _portals_hook("OUTPUT", PORTALS_HOST),
        ),
    )


def read_portals(installed: InstalledRules) -> dict[Frontend, ProxyPort]:
    """Where the installed rules lead each frontend: what a restarted agent takes up again.

    A frontend that is refused leads to nobody's proxy port and is not among them.
    """
    portals: dict[Frontend, ProxyPort] = {}
    for chain in (PORTALS_HOST, PORTALS_CONTAINER):
        for rule in installed.chains.get(chain, ()):
            if not (isinstance(rule, Rule) and isinstance(rule.target, Redirect | Dnat)):
                continue
            if rule.comment.endswith(tuple(_WHY_REFUSED.values())):
                continue
            if rule.destination and rule.protocol and rule.destination_ports:
                port = Port(rule.destination_ports.first)
                frontend = Frontend(rule.destination, rule.protocol, port)
                portals[frontend] = ProxyPort(rule.target.port)
    return portals


def _order(portal: Portal) -> tuple[str, int, str]:
    return portal.frontend.address, portal.frontend.port, portal.frontend.protocol.value


def _capture(portal: Portal, to_address: str | None, settings: CaptureSettings) -> Rule:
    frontend = portal.frontend
    match portal.refusal:
        case None:
            port = portal.proxy_port
        case Refusal.REJECT:
            port = settings.refusing_port
        case Refusal.DROP:
            port = settings.silent_port
    return Rule(
        target=Dnat(to_address, port) if to_address else Redirect(port),
        protocol=frontend.protocol,
        destination=frontend.address,
        destination_ports=PortRange(frontend.port, frontend.port),
        comment=_comment(portal),
    )


def _comment(portal: Portal) -> str:
    if portal.refusal is None:
        return safe_comment(portal.comment)
    why = _WHY_REFUSED[portal.refusal]
    return safe_comment(portal.comment[: COMMENT_LIMIT - len(why)] + why)


def _guard(settings: CaptureSettings) -> Iterable[Rule]:
    """What happens to packets for the proxy ports; others never come here.

    What is neither redirected nor part of something known was sent to the proxy port itself: dropped.
    What is established without redirection is none of ours (some process chose such a port as its own end)
    and is left to the rules that follow.
    """
    redirected = is_any_of(_DNAT)
    port_unreachable = (
        "icmp-port-unreachable" if settings.family is IPFamily.IPV4 else "icmp6-port-unreachable"
    )
    yield Rule(
        target=Verdict.DROP,
        states=(is_none_of(_RELATED, _ESTABLISHED, _DNAT),),
        comment="sent to a proxy port directly",
    )
    yield Rule(
        target=Reject(port_unreachable),
        protocol=Protocol.UDP,
        destination_ports=PortRange(settings.refusing_port, settings.refusing_port),
        comment="no endpoints",
    )
    for protocol in Protocol:
        yield Rule(
            target=Verdict.DROP,
            protocol=protocol,
            destination_ports=PortRange(settings.silent_port, settings.silent_port),
            comment="no local endpoints",
        )
    yield Rule(target=Verdict.ACCEPT, states=(redirected,), comment="redirected")


def _guard_hook(protocol: Protocol, proxy_ports: PortRange) -> Hook:
    rule = Rule(
        target=Jump(PORTALS_GUARD.name),
        protocol=protocol,
        destination_ports=proxy_ports,
        comment="proxy ports take redirected traffic only",
    )
    return Hook(Chain(Table.FILTER, "INPUT"), PORTALS_GUARD, rule, Place.FIRST)


def _portals_hook(builtin: str, chain: Chain) -> Hook:
    rule = Rule(target=Jump(chain.name), comment="service portals")
    return Hook(Chain(Table.NAT, builtin), chain, rule, Place.FIRST)
