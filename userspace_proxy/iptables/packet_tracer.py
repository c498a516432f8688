"""Where a packet ends, by the rules alone: the kernel's way through nat and filter, on rule values.

Only what capture needs is modelled: packets that arrive at or start on one node, one family. Everything
beyond our rules is open: policies accept and no foreign rule stands in the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import TypeAlias

from userspace_proxy.core.service_port import Protocol
from userspace_proxy.iptables.chains import Chain, Table
from userspace_proxy.iptables.rules import (
    ConntrackState,
    Dnat,
    Foreign,
    InstalledRules,
    Jump,
    Redirect,
    Reject,
    Rule,
    RuleSet,
    StateMatch,
    Verdict,
)


@dataclass(frozen=True)
class Packet:
    """`came_in_by` is an interface of the node; None: one of its own processes sent the packet."""

    protocol: Protocol
    destination: str
    port: int
    came_in_by: str | None
    source: str
    states: frozenset[ConntrackState] = frozenset({ConntrackState.NEW})


@dataclass(frozen=True)
class Delivered:
    """To a socket of the node."""

    address: str
    port: int


@dataclass(frozen=True)
class Refused:
    """Answered at once by a TCP reset or an ICMP message."""

    reply: str


@dataclass(frozen=True)
class Dropped:
    """Gone without a word."""


@dataclass(frozen=True)
class PassedOn:
    """Not for this node: routed to where it wants to go."""


Ending: TypeAlias = Delivered | Refused | Dropped | PassedOn


@dataclass(frozen=True)
class Node:
    """The node's addresses by interface; an interface without any is unnumbered.

    On every TCP port but `closed_port` somebody listens, and on every UDP port.
    """

    interfaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    closed_port: int | None = None

    def has(self, address: str) -> bool:
        return ip_address(address).is_loopback or any(address in own for own in self.interfaces.values())


@dataclass(frozen=True)
class Step:
    """A rule that the packet met and that matched."""

    chain: Chain
    rule: Rule


@dataclass(frozen=True)
class Way:
    """The rules that matched, jumps too, in order, and where the packet ended."""

    steps: tuple[Step, ...]
    ending: Ending


def trace(rules: RuleSet | InstalledRules, packet: Packet, node: Node) -> Ending:
    """Where the packet ends. Raises `ValueError` at a rule that is none of ours."""
    return follow(rules, packet, node).ending


def follow(rules: RuleSet | InstalledRules, packet: Packet, node: Node) -> Way:
    """The packet's way. Raises `ValueError` at a rule that is none of ours."""
    steps: list[Step] = []
    ending = _Tracer(rules, node, steps).ending(packet)
    return Way(tuple(steps), ending)


class _Tracer:
    def __init__(self, rules: RuleSet | InstalledRules, node: Node, steps: list[Step]) -> None:
        self._rules = rules
        self._node = node
        self._steps = steps

    def ending(self, packet: Packet) -> Ending:
        if ConntrackState.NEW in packet.states:
            translated = self._translate(packet)
            if translated is None:
                return Dropped()
            packet = translated
        if packet.came_in_by is None and (ending := self._filter("OUTPUT", packet)):
            return ending
        if not self._node.has(packet.destination):
            return PassedOn()
        if ending := self._filter("INPUT", packet):
            return ending
        if packet.protocol is Protocol.TCP and packet.port == self._node.closed_port:
            return Refused("tcp-reset")
        return Delivered(packet.destination, packet.port)

    def _filter(self, hook: str, packet: Packet) -> Ending | None:
        """Where the packet ends at a hook in filter; None: it goes on."""
        for rule in self._matching(Chain(Table.FILTER, hook), packet):
            match rule.target:
                case Verdict.DROP:
                    return Dropped()
                case Verdict.ACCEPT:
                    return None
                case Reject(reply):
                    return Refused(reply)
                case target:
                    raise ValueError(f"{target} in filter")
        return None

    def _translate(self, packet: Packet) -> Packet | None:
        """The packet with the destination that nat gives it; None if it finds none and drops the packet."""
        hook = "OUTPUT" if packet.came_in_by is None else "PREROUTING"
        for rule in self._matching(Chain(Table.NAT, hook), packet):
            match rule.target:
                case Redirect(port):
                    loopback = ("::1" if ":" in packet.destination else "127.0.0.1",)
                    came_in_by = packet.came_in_by
                    addresses = loopback if came_in_by is None else self._node.interfaces.get(came_in_by)
                    if not addresses:
                        return None
                    address = addresses[0]
                case Dnat(address, port):
                    pass
                case target:
                    raise ValueError(f"{target} in nat")
            states = packet.states | {ConntrackState.DNAT}
            return replace(packet, destination=address, port=port, states=states)
        return packet

    def _matching(self, builtin: Chain, packet: Packet) -> Iterator[Rule]:
        """The rules with a verdict or translation that the packet meets, in order."""
        for hook in self._rules.hooks:
            if hook.chain == builtin:
                yield from self._walk(builtin, (hook.rule,), packet)

    def _walk(self, chain: Chain, rules: tuple[Rule | Foreign, ...], packet: Packet) -> Iterator[Rule]:
        for rule in rules:
            if isinstance(rule, Foreign):
                raise ValueError(f"cannot trace through {rule}")
            if not _matches(rule, packet, self._node):
                continue
            self._steps.append(Step(chain, rule))
            if rule.target is Verdict.RETURN:
                return
            if isinstance(rule.target, Jump):
                target = Chain(chain.table, rule.target.chain)
                yield from self._walk(target, self._rules.chains[target], packet)
            else:
                yield rule


def _matches(rule: Rule, packet: Packet, node: Node) -> bool:
    return (
        rule.protocol in (None, packet.protocol)
        and (rule.destination_ports is None or packet.port in rule.destination_ports)
        and _is_in(packet.destination, rule.destination)
        and _is_in(packet.source, rule.source)
        and _came_in_by(rule.in_interface, packet)
        and (not rule.to_local_address or node.has(packet.destination))
        and all(_has_state(match, packet) for match in rule.states)
    )


def _is_in(address: str, place: str | None) -> bool:
    """Whether it is in a rule's `place`: an address, a network, or (None) anywhere."""
    if place is None or "/" not in place:
        return place in (None, address)  # both are spelled as Python does; reading 20,000 takes half a second
    return ip_address(address) in ip_network(place)


def _came_in_by(interface: str | None, packet: Packet) -> bool:
    if interface is None or packet.came_in_by is None:
        return interface is None
    if interface.endswith("+"):
        return packet.came_in_by.startswith(interface[:-1])
    return packet.came_in_by == interface


def _has_state(match: StateMatch, packet: Packet) -> bool:
    return bool(match.states & packet.states) is not match.negated
