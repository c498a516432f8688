"""The guard in filter: a proxy port answers what was redirected to it and nothing else.

Refusing needs no rule for each portal: a portal without endpoints is captured to one of two ports that serve
nobody. At the refusing port the kernel's own TCP resets connections, because nobody listens there, and the
guard rejects datagrams; at the silent port the guard drops everything. (REJECT would not do for TCP: where
bridged packets pass iptables, as on most nodes, its reset leaves with the proxy port's address instead of the
frontend's, and a pod's client waits in vain.)
"""

from __future__ import annotations

from collections.abc import Iterator

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import IPFamily, Protocol, ProxyPort
from userspace_proxy.iptables.chains import PORTALS_GUARD, Chain, Table
from userspace_proxy.iptables.rules import (
    ConntrackState,
    Hook,
    Jump,
    Place,
    Reject,
    Rule,
    Verdict,
    is_any_of,
    is_none_of,
)

_RELATED, _ESTABLISHED = ConntrackState.RELATED, ConntrackState.ESTABLISHED
_DNAT = ConntrackState.DNAT


def guard_rules(family: IPFamily, refusing_port: ProxyPort, silent_port: ProxyPort) -> tuple[Rule, ...]:
    """What happens to packets for the proxy ports; others never come here.

    What is neither redirected nor part of something known was sent to the proxy port itself: dropped.
    What is established without redirection is none of ours (some process chose such a port as its own end)
    and is left to the rules that follow.

    A reset from a global IPv6 address to ::1 would leave by that address's interface and be lost, so what
    came from ::1 and is refused at a `--bind-address` is reset here.
    """
    is_ipv4 = family is IPFamily.IPV4
    reset_from_loopback = Rule(
        target=Reject("tcp-reset"),
        protocol=Protocol.TCP,
        source="::1",
        destination_ports=PortRange(refusing_port, refusing_port),
        comment="no endpoints",
    )
    return (
        Rule(
            target=Verdict.DROP,
            states=(is_none_of(_RELATED, _ESTABLISHED, _DNAT),),
            comment="sent to a proxy port directly",
        ),
        Rule(
            target=Reject("icmp-port-unreachable" if is_ipv4 else "icmp6-port-unreachable"),
            protocol=Protocol.UDP,
            destination_ports=PortRange(refusing_port, refusing_port),
            comment="no endpoints",
        ),
        *(() if is_ipv4 else (reset_from_loopback,)),
        *(
            Rule(
                target=Verdict.DROP,
                protocol=protocol,
                destination_ports=PortRange(silent_port, silent_port),
                comment="no answer",
            )
            for protocol in Protocol
        ),
        Rule(target=Verdict.ACCEPT, states=(is_any_of(_DNAT),), comment="redirected"),
    )


def guard_hooks(proxy_ports: PortRange, silent_port: ProxyPort) -> Iterator[Hook]:
    """What leads the proxy ports' traffic, and no other, to the guard.

    A SYN of the node's own for the silent port is dropped in OUTPUT already. By INPUT it would have a
    conntrack entry, which the client's next SYN would follow to the silent port, even if the portal serves by
    then. (UDP is left to INPUT, and its entries are deleted: who sends a datagram that is dropped in OUTPUT
    gets an error, EPERM.)
    """
    for protocol in Protocol:
        rule = Rule(
            target=Jump(PORTALS_GUARD.name),
            protocol=protocol,
            destination_ports=proxy_ports,
            comment="proxy ports take redirected traffic only",
        )
        yield Hook(Chain(Table.FILTER, "INPUT"), PORTALS_GUARD, rule, Place.FIRST)
    silent = Rule(
        target=Jump(PORTALS_GUARD.name),
        protocol=Protocol.TCP,
        destination_ports=PortRange(silent_port, silent_port),
        to_local_address=True,
        states=(is_any_of(_DNAT),),
        comment="no answer",
    )
    yield Hook(Chain(Table.FILTER, "OUTPUT"), PORTALS_GUARD, silent, Place.FIRST)
