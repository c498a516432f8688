"""Where packets end by the rules for some portals, and what a restart reads out of them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tests.iptables.packet_table import (
    BOUND,
    BRIDGED,
    DROP,
    NODE_ADDRESS,
    PORTALS,
    REJECT,
    TCP,
    UDP,
    UNNUMBERED,
    V4,
    WIRINGS,
    Wiring,
    packets,
    portal,
    portals,
    to,
)
from userspace_proxy.core.local_traffic import LocalTraffic
from userspace_proxy.core.service_port import Frontend, Port, Protocol, ProxyPort
from userspace_proxy.iptables.chains import NODEPORT_CONTAINER, PORTALS_CONTAINER, PORTALS_GUARD, PORTALS_HOST
from userspace_proxy.iptables.packet_tracer import Delivered, Dropped, Ending, Packet, PassedOn, trace
from userspace_proxy.iptables.portal_rules import (
    AdoptedPorts,
    CaptureSettings,
    Portal,
    PortalRules,
    Refusal,
    read_portals,
)
from userspace_proxy.iptables.rules import (
    ConntrackState,
    Foreign,
    InstalledRules,
    Place,
    Reject,
    Rule,
    as_installed,
)

NEW, ESTABLISHED, DNAT = ConntrackState.NEW, ConntrackState.ESTABLISHED, ConntrackState.DNAT


@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_packets_end_where_they_must(wiring: Wiring) -> None:
    rules = PortalRules().rule_set(portals(wiring.family), wiring.settings)
    table = packets(wiring)
    traced = {str(sent): trace(rules, sent.packet(wiring), wiring.node) for sent in table}
    assert traced == {str(sent): sent.ending(wiring) for sent in table}


def from_outside(destination: str, port: int, protocol: Protocol = TCP) -> Packet:
    return Packet(protocol, destination, port, "eth0", "192.0.2.1")


def test_redirecting_without_an_address_would_lose_packets() -> None:
    """Why unnumbered interfaces get DNAT."""
    rules = PortalRules().rule_set(PORTALS, BRIDGED.settings)
    packet = Packet(TCP, "10.96.0.1", 80, "veth2", "10.244.1.2")
    assert trace(rules, packet, UNNUMBERED.node) == Dropped()


@pytest.mark.parametrize("refusal", list(Refusal))
def test_a_refusal_leaves_established_connections_alone(refusal: Refusal) -> None:
    rules = PortalRules().rule_set([portal("10.96.0.1", TCP, 80, refusal)], BRIDGED.settings)
    established = Packet(TCP, NODE_ADDRESS, 20001, "eth0", "192.0.2.1", frozenset({ESTABLISHED, DNAT}))
    assert trace(rules, established, BRIDGED.node) == Delivered(NODE_ADDRESS, 20001)


def test_a_reply_to_a_process_that_uses_such_a_port_gets_through() -> None:
    rules = PortalRules().rule_set(PORTALS, BRIDGED.settings)
    reply = Packet(TCP, NODE_ADDRESS, 20050, "eth0", "192.0.2.1", frozenset({ESTABLISHED}))
    assert trace(rules, reply, BRIDGED.node) == Delivered(NODE_ADDRESS, 20050)


@pytest.mark.parametrize("state", [ConntrackState.INVALID, ConntrackState.UNTRACKED])
def test_direct_hits_cannot_hide_from_conntrack(state: ConntrackState) -> None:
    rules = PortalRules().rule_set(PORTALS, BRIDGED.settings)
    hit = Packet(UDP, NODE_ADDRESS, 20003, "eth0", "192.0.2.1", frozenset({state}))
    assert trace(rules, hit, BRIDGED.node) == Dropped()


def test_portals_change_nothing_in_the_guard() -> None:
    """A Service that loses its last endpoint, among thousands, costs a rule in nat and none in filter."""
    lists: list[tuple[Portal, ...]] = [(), PORTALS[:3], PORTALS]
    guards = {PortalRules().rule_set(portals, BRIDGED.settings).chains[PORTALS_GUARD] for portals in lists}
    assert len(guards) == 1


def test_the_order_of_portals_changes_no_rule() -> None:
    first = PortalRules().rule_set(PORTALS, BRIDGED.settings)
    for order in itertools.islice(itertools.permutations(PORTALS[:7]), 0, 5040, 251):
        assert PortalRules().rule_set([*PORTALS[7:], *order], BRIDGED.settings) == first


def rules_of(only: Portal, settings: CaptureSettings = BRIDGED.settings) -> list[str]:
    """What comes in, of one portal: source, interface and proxy port of each rule."""
    rules = PortalRules().rule_set([only], settings).chains[PORTALS_CONTAINER]
    return [f"{rule.source} {rule.in_interface} {rule.target}" for rule in rules]


def test_ranges_are_spelled_as_they_are_read_back() -> None:
    ranges = ("10.1.2.3/8", "10.0.0.0/8", "192.0.2.1/32", "203.0.113.7")
    assert rules_of(portal("198.51.100.1", TCP, 80, 20001, source_ranges=ranges)) == [
        "10.0.0.0/8 None REDIRECT --to-ports 20001",
        "192.0.2.1 None REDIRECT --to-ports 20001",
        "203.0.113.7 None REDIRECT --to-ports 20001",
        "None None REDIRECT --to-ports 20099",
    ]


def test_a_range_of_all_addresses_is_no_condition() -> None:
    assert rules_of(portal("198.51.100.1", TCP, 80, 20001, source_ranges=("0.0.0.0/0",)))[0] == (
        "None None REDIRECT --to-ports 20001"
    )


def test_pods_in_a_source_range_are_those_in_both_networks() -> None:
    ranges = ("10.244.1.128/25", "10.0.0.0/8", "192.0.2.0/24")
    assert rules_of(portal("198.51.100.1", TCP, 80, 20001, 20002, ranges))[:2] == [
        "10.244.1.128/25 None REDIRECT --to-ports 20002",
        "10.244.1.0/24 None REDIRECT --to-ports 20002",
    ]


def test_pods_on_several_interfaces_are_all_inside() -> None:
    local_traffic = (LocalTraffic(in_interface="cni0"), LocalTraffic(in_interface="cali+"))
    settings = replace(BRIDGED.settings, local_traffic=local_traffic)
    assert rules_of(portal("198.51.100.1", TCP, 80, 20001, 20002), settings) == [
        "None cni0 REDIRECT --to-ports 20002",
        "None cali+ REDIRECT --to-ports 20002",
        "None None REDIRECT --to-ports 20001",
    ]


@pytest.mark.parametrize(
    ("node_ip", "sender", "ends"),
    [
        (NODE_ADDRESS, None, Delivered("127.0.0.1", 20002)),
        (NODE_ADDRESS, "eth0", Dropped()),
        ("192.0.2.77", None, Dropped()),
        (None, None, Dropped()),
    ],
    ids=["from the node", "from somebody who says so", "from a node that is not let in", "nobody knows"],
)
def test_a_node_that_is_let_in_may_send_from_the_load_balancer_s_address(
    node_ip: str | None, sender: str | None, ends: Ending
) -> None:
    address = "198.51.100.1"
    limited = portal(address, TCP, 80, 20001, 20002, ("203.0.113.0/24", "192.0.2.10/32"))
    rules = PortalRules().rule_set([limited], replace(BRIDGED.settings, node_ip=node_ip))
    assert trace(rules, Packet(TCP, address, 80, sender, address), BRIDGED.node) == ends


def test_one_rule_is_enough_where_both_classes_go_to_one_place() -> None:
    assert len(rules_of(portal("198.51.100.1", TCP, 80, 20001))) == 1


@pytest.mark.parametrize(
    ("networks", "address", "captured"),
    [
        (None, NODE_ADDRESS, True),
        (("192.0.2.0/24",), NODE_ADDRESS, True),
        (("192.0.2.0/24",), "10.244.1.1", False),
        (("203.0.113.0/24", "10.0.0.0/8"), "10.244.1.1", True),
        (("0.0.0.0/0",), "10.244.1.1", True),
        ((), NODE_ADDRESS, False),
    ],
)
def test_node_ports_are_on_the_addresses_that_were_chosen(
    networks: tuple[str, ...] | None, address: str, captured: bool
) -> None:
    settings = replace(BRIDGED.settings, nodeport_addresses=networks)
    ending = trace(PortalRules().rule_set(PORTALS, settings), from_outside(address, 30083, UDP), BRIDGED.node)
    assert ending == (Delivered(NODE_ADDRESS, 20023) if captured else Delivered(address, 30083))


def test_a_node_port_is_no_port_of_other_hosts() -> None:
    rules = PortalRules().rule_set(PORTALS, BRIDGED.settings)
    assert trace(rules, from_outside("192.0.2.77", 30080), BRIDGED.node) == PassedOn()


def test_an_address_goes_before_a_node_port_and_others_rules_between_them() -> None:
    places = {
        hook.target: hook.place
        for hook in PortalRules().rule_set((), BRIDGED.settings).hooks
        if hook.chain.name == "PREROUTING"
    }
    assert places == {PORTALS_CONTAINER: Place.FIRST, NODEPORT_CONTAINER: Place.LAST}


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (REJECT, " has no endpoints"),
        (DROP, " has no local endpoints"),
        (Refusal.NO_LISTENER, " has no listener"),
    ],
)
@pytest.mark.parametrize("name", ["default/web:http", 'x"\n' + "y" * 300])
def test_a_refusing_rule_says_why_and_whose_it_is(name: str, refusal: Refusal, why: str) -> None:
    refused = Portal(Frontend("10.96.0.1", TCP, Port(80)), name, to(refusal), to(refusal))
    (rule,) = PortalRules().rule_set([refused], BRIDGED.settings).chains[PORTALS_CONTAINER]
    assert isinstance(rule, Rule)
    assert rule.comment == name.replace('"\n', "??")[: 255 - len(why)] + why


@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_a_restart_reads_its_portals_back(wiring: Wiring) -> None:
    installed = as_installed(PortalRules().rule_set(portals(wiring.family), wiring.settings))
    assert read_portals(installed, wiring.family) == {
        portal.frontend: adopted(portal) for portal in portals(wiring.family)
    }


def adopted(portal: Portal) -> AdoptedPorts:
    ports = [
        None if place.refusal or portal.source_ranges == () else place.proxy_port
        for place in (portal.outside, portal.inside)
    ]
    return AdoptedPorts(*ports)


def test_a_restart_reads_what_is_left_and_skips_what_is_not_ours() -> None:
    rules = PortalRules().rule_set(PORTALS[:2], BRIDGED.settings)
    odd = Rule(target=Reject("tcp-reset"))
    container, host = rules.chains[PORTALS_CONTAINER], rules.chains[PORTALS_HOST]
    installed = InstalledRules(
        {PORTALS_CONTAINER: (Foreign("-j X"), odd, container[0]), PORTALS_HOST: host[1:]}
    )
    assert read_portals(installed, V4) == {
        PORTALS[0].frontend: AdoptedPorts(ProxyPort(20001), None),
        PORTALS[1].frontend: AdoptedPorts(None, ProxyPort(20002)),
    }
    assert read_portals(InstalledRules(), V4) == {}


def test_unchanged_portals_keep_their_rules_and_others_get_new_ones() -> None:
    kept = PortalRules()
    before = kept.rule_set(PORTALS, BRIDGED.settings)
    changed = (replace(PORTALS[0], inside=to(20044)), *PORTALS[2:])
    for given, settings in ((changed, BRIDGED.settings), (PORTALS, BOUND.settings), ((), BOUND.settings)):
        assert kept.rule_set(given, settings) == PortalRules().rule_set(given, settings)
    again = kept.rule_set(PORTALS, BRIDGED.settings)
    assert again == before
    same = kept.rule_set([replace(portal) for portal in PORTALS], BRIDGED.settings)
    for chain, rules in same.chains.items():
        if chain != PORTALS_GUARD:
            assert all(map(lambda one, other: one is other, rules, again.chains[chain]))
