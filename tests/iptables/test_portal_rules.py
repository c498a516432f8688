"""Where packets end by the rules for some portals, and what a restart reads out of them."""

from __future__ import annotations

import itertools

import pytest

from tests.iptables.packet_table import (
    BRIDGED,
    NODE_ADDRESS,
    PACKETS,
    PORTALS,
    PROXY_PORTS,
    REFUSING_PORT,
    SILENT_PORT,
    TCP,
    UDP,
    UNNUMBERED,
    WIRINGS,
    Sent,
    Wiring,
    portal,
)
from tests.support.packet_tracer import Delivered, Dropped, Packet, Refused, trace
from userspace_proxy.core.service_port import Frontend, IPFamily, Port, ProxyPort
from userspace_proxy.iptables.portal_rules import (
    CaptureSettings,
    Portal,
    Refusal,
    portal_rules,
    read_portals,
)
from userspace_proxy.iptables.rules import (
    PORTALS_CONTAINER,
    PORTALS_GUARD,
    PORTALS_HOST,
    ConntrackState,
    Foreign,
    InstalledRules,
    Reject,
    Rule,
    as_installed,
)

NEW, ESTABLISHED, DNAT = ConntrackState.NEW, ConntrackState.ESTABLISHED, ConntrackState.DNAT


@pytest.mark.parametrize("wiring", WIRINGS, ids=lambda wiring: wiring.name)
@pytest.mark.parametrize("sent", PACKETS, ids=str)
def test_packets_end_where_they_must(sent: Sent, wiring: Wiring) -> None:
    rules = portal_rules(PORTALS, wiring.settings)
    assert trace(rules, sent.packet(wiring), wiring.node) == sent.ending(wiring)


def test_redirecting_without_an_address_would_lose_packets() -> None:
    """Why unnumbered interfaces get DNAT."""
    rules = portal_rules(PORTALS, BRIDGED.settings)
    assert trace(rules, Packet(TCP, "10.96.0.1", 80, "veth2"), UNNUMBERED.node) == Dropped()


@pytest.mark.parametrize("refusal", list(Refusal))
def test_a_refusal_leaves_established_connections_alone(refusal: Refusal) -> None:
    rules = portal_rules([portal("10.96.0.1", TCP, 80, 20001, refusal)], BRIDGED.settings)
    established = Packet(TCP, NODE_ADDRESS, 20001, "eth0", frozenset({ESTABLISHED, DNAT}))
    assert trace(rules, established, BRIDGED.node) == Delivered(NODE_ADDRESS, 20001)


def test_a_reply_to_a_process_that_uses_such_a_port_gets_through() -> None:
    rules = portal_rules(PORTALS, BRIDGED.settings)
    reply = Packet(TCP, NODE_ADDRESS, 20050, "eth0", frozenset({ESTABLISHED}))
    assert trace(rules, reply, BRIDGED.node) == Delivered(NODE_ADDRESS, 20050)


@pytest.mark.parametrize("state", [ConntrackState.INVALID, ConntrackState.UNTRACKED])
def test_direct_hits_cannot_hide_from_conntrack(state: ConntrackState) -> None:
    rules = portal_rules(PORTALS, BRIDGED.settings)
    hit = Packet(UDP, NODE_ADDRESS, 20003, "eth0", frozenset({state}))
    assert trace(rules, hit, BRIDGED.node) == Dropped()


def test_portals_change_nothing_in_the_guard() -> None:
    """A Service that loses its last endpoint, among thousands, costs a rule in nat and none in filter."""
    lists: list[tuple[Portal, ...]] = [(), PORTALS[:3], PORTALS]
    guards = {portal_rules(portals, BRIDGED.settings).chains[PORTALS_GUARD] for portals in lists}
    assert len(guards) == 1


def test_ipv6_is_refused_in_its_own_words() -> None:
    settings = CaptureSettings(IPFamily.IPV6, PROXY_PORTS, REFUSING_PORT, SILENT_PORT)
    rules = portal_rules([portal("fd00::1", UDP, 53, 20001, Refusal.REJECT)], settings)
    hit = Packet(UDP, "2001:db8::a", REFUSING_PORT, "eth0", frozenset({NEW, DNAT}))
    node = type(BRIDGED.node)({"eth0": ("2001:db8::a",)})
    assert trace(rules, hit, node) == Refused("icmp6-port-unreachable")


def test_the_order_of_portals_changes_no_rule() -> None:
    first = portal_rules(PORTALS, BRIDGED.settings)
    for order in itertools.islice(itertools.permutations(PORTALS), 0, 5040, 251):
        assert portal_rules(order, BRIDGED.settings) == first


def test_comments_are_names_made_safe() -> None:
    odd = Portal(Frontend("10.96.0.1", TCP, Port(80)), ProxyPort(20001), 'x"\n' + "y" * 300, Refusal.DROP)
    chains = portal_rules([odd], BRIDGED.settings).chains
    comments = {rule.comment for rule in chains[PORTALS_CONTAINER] + chains[PORTALS_HOST]}
    assert comments == {"x??" + "y" * 229 + " has no local endpoints"}


@pytest.mark.parametrize(
    ("refusal", "why"), [(Refusal.REJECT, " has no endpoints"), (Refusal.DROP, " has no local endpoints")]
)
@pytest.mark.parametrize("name", ["default/web:http", "y" * 300])
def test_a_refusing_rule_says_why_and_whose_it_is(name: str, refusal: Refusal, why: str) -> None:
    refused = Portal(Frontend("10.96.0.1", TCP, Port(80)), ProxyPort(20001), name, refusal)
    (rule,) = portal_rules([refused], BRIDGED.settings).chains[PORTALS_CONTAINER]
    assert isinstance(rule, Rule)
    assert rule.comment == name[: 255 - len(why)] + why


@pytest.mark.parametrize("wiring", WIRINGS, ids=lambda wiring: wiring.name)
def test_a_restart_reads_its_portals_back(wiring: Wiring) -> None:
    installed = as_installed(portal_rules(PORTALS, wiring.settings))
    assert read_portals(installed) == proxy_ports_to_adopt()


def proxy_ports_to_adopt() -> dict[Frontend, ProxyPort]:
    return {portal.frontend: portal.proxy_port for portal in PORTALS if portal.refusal is None}


def test_a_restart_reads_what_is_left_and_skips_what_is_not_ours() -> None:
    rules = portal_rules(PORTALS[:2], BRIDGED.settings)
    odd = Rule(target=Reject("tcp-reset"))
    container, host = rules.chains[PORTALS_CONTAINER], rules.chains[PORTALS_HOST]
    installed = InstalledRules(
        {PORTALS_CONTAINER: (Foreign("-j X"), odd, container[0]), PORTALS_HOST: host[1:]}
    )
    assert read_portals(installed) == {portal.frontend: portal.proxy_port for portal in PORTALS[:2]}
    assert read_portals(InstalledRules()) == {}
