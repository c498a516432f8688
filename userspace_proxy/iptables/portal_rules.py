"""Portals → rules: which rules capture a frontend's traffic, and which guard the proxy ports.

A portal, as kube-proxy calls it, is a frontend whose traffic is led to a proxy port: a port of the node on
which a worker listens. nat captures: what comes in from pods and other hosts in KUBE-PORTALS-CONTAINER, what
the node's own processes send in KUBE-PORTALS-HOST. filter guards: a proxy port answers what was redirected
to it and nothing else, and refuses while the portal has nothing to offer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, ProxyPort
from userspace_proxy.iptables.rules import (
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

_NEW, _RELATED = ConntrackState.NEW, ConntrackState.RELATED
_ESTABLISHED, _DNAT = ConntrackState.ESTABLISHED, ConntrackState.DNAT


class Refusal(Enum):
    """What a client of a portal without a usable endpoint gets: an answer at once, or silence."""

    REJECT = "reject"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Portal:
    """A frontend, the proxy port that its traffic goes to, and who it is (`namespace/name:port`)."""

    frontend: Frontend
    proxy_port: ProxyPort
    comment: str
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """How a node captures.

    `proxy_ports` is the range that all proxy ports are of. `bind_address` is the one address that listeners
    are bound to; None: they are bound to all. `node_address` is given when traffic can come in by an
    interface without an address of the family, and is where it goes to then: REDIRECT would find no address
    there, and the packets would vanish.
    """

    family: IPFamily
    proxy_ports: PortRange
    bind_address: str | None = None
    node_address: str | None = None


def portal_rules(portals: Iterable[Portal], settings: CaptureSettings) -> RuleSet:
    """Everything that is to be installed for these portals, in an order that depends on nothing else."""
    ordered = sorted(portals, key=_order)
    from_outside = settings.bind_address or settings.node_address
    return RuleSet(
        chains={
            PORTALS_GUARD: tuple(_guard(ordered, settings.family)),
            PORTALS_CONTAINER: tuple(_capture(portal, from_outside) for portal in ordered),
            PORTALS_HOST: tuple(_capture(portal, settings.bind_address) for portal in ordered),
        },
        hooks=(
            *(_guard_hook(protocol, settings.proxy_ports) for protocol in Protocol),
            _portals_hook("PREROUTING", PORTALS_CONTAINER),
            _portals_hook("OUTPUT", PORTALS_HOST),
        ),
    )


def read_portals(installed: InstalledRules) -> dict[Frontend, ProxyPort]:
    """Where the installed rules lead each frontend: what a restarted agent takes up again."""
    portals: dict[Frontend, ProxyPort] = {}
    for chain in (PORTALS_HOST, PORTALS_CONTAINER):
        for rule in installed.chains.get(chain, ()):
            if not (isinstance(rule, Rule) and isinstance(rule.target, Redirect | Dnat)):
                continue
            if rule.destination and rule.protocol and rule.destination_ports:
                port = Port(rule.destination_ports.first)
                frontend = Frontend(rule.destination, rule.protocol, port)
                portals[frontend] = ProxyPort(rule.target.port)
    return portals


def _order(portal: Portal) -> tuple[str, int, str]:
    return portal.frontend.address, portal.frontend.port, portal.frontend.protocol.value


def _capture(portal: Portal, to_address: str | None) -> Rule:
    frontend = portal.frontend
    port = portal.proxy_port
    return Rule(
        target=Dnat(to_address, port) if to_address else Redirect(port),
        protocol=frontend.protocol,
        destination=frontend.address,
        destination_ports=PortRange(frontend.port, frontend.port),
        comment=safe_comment(portal.comment),
    )


def _guard(portals: list[Portal], family: IPFamily) -> Iterable[Rule]:
    """What happens to packets for the proxy ports; others never come here.

    What is neither redirected nor part of something known was sent to the proxy port itself: dropped.
    Flows under way pass before the refusals, so that these cost new flows alone, and cut none. What is
    established without redirection is none of ours (some process chose such a port as its own end) and is
    left to the rules that follow.
    """
    yield Rule(
        target=Verdict.DROP,
        states=(is_none_of(_RELATED, _ESTABLISHED, _DNAT),),
        comment="sent to a proxy port directly",
    )
    redirected = is_any_of(_DNAT)
    yield Rule(
        target=Verdict.ACCEPT,
        states=(is_any_of(_RELATED, _ESTABLISHED), redirected),
        comment="redirected, under way",
    )
    refused: set[tuple[Protocol, ProxyPort]] = set()
    for portal in portals:
        key = (portal.frontend.protocol, portal.proxy_port)
        if portal.refusal and key not in refused:
            refused.add(key)
            yield _refuse(portal, portal.refusal, family)
    yield Rule(target=Verdict.ACCEPT, states=(redirected,), comment="redirected")


def _refuse(portal: Portal, refusal: Refusal, family: IPFamily) -> Rule:
    protocol = portal.frontend.protocol
    port_unreachable = "icmp-port-unreachable" if family is IPFamily.IPV4 else "icmp6-port-unreachable"
    reply = "tcp-reset" if protocol is Protocol.TCP else port_unreachable
    return Rule(
        target=Reject(reply) if refusal is Refusal.REJECT else Verdict.DROP,
        protocol=protocol,
        destination_ports=PortRange(portal.proxy_port, portal.proxy_port),
        states=(is_any_of(_NEW),),
        comment=safe_comment(portal.comment),
    )


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
