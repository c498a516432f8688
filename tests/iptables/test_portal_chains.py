"""Chains that branch: every portal is found, no packet meets many rules, little changes at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.iptables.fake_tables import FakeTables
from tests.iptables.packet_table import TCP, UDP, V4, V6, Sender, Wiring, portal, to, wirings
from userspace_proxy.core.service_port import EVERY_LOCAL_ADDRESS, Frontend, IPFamily, Port, Protocol
from userspace_proxy.iptables.chains import (
    NODEPORT_CONTAINER,
    PORTALS_CONTAINER,
    PORTALS_HOST,
    Chain,
    is_ours,
)
from userspace_proxy.iptables.packet_tracer import Delivered, Packet, trace
from userspace_proxy.iptables.portal_chains import LEAF_PORTALS
from userspace_proxy.iptables.portal_rules import Portal, PortalRules, read_portals
from userspace_proxy.iptables.rule_changes import plan_changes
from userspace_proxy.iptables.rules import Jump, Rule, RuleSet, as_installed

WIRING = {family: wirings(family)[0] for family in IPFamily}
NODE_PORT_NUMBERS = range(30000, 32768)


def address(family: IPFamily, number: int) -> str:
    """Addresses of a Service network, then some that are far away from it and from each other."""
    if number < 4096:
        first = int(IPv4Address("10.96.0.1") if family is V4 else IPv6Address("fd00:10:96::1"))
        far = 0
    else:
        first = int(IPv4Address("100.64.0.0") if family is V4 else IPv6Address("2001:db8:1::"))
        far = 20 if family is V4 else 60
    value = first + number % 4096 + (number % 7 << far)
    return str(IPv4Address(value) if family is V4 else IPv6Address(value))


def frontends(family: IPFamily) -> st.SearchStrategy[Frontend]:
    protocols = st.sampled_from(Protocol)
    numbers = st.integers(0, 60) | st.integers(0, 4095) | st.integers(4096, 8191)
    ports = st.sampled_from([53, 80, 443]) | st.integers(1, 65535)
    with_address = st.builds(
        lambda number, protocol, port: Frontend(address(family, number), protocol, Port(port)),
        numbers,
        protocols,
        ports,
    )
    node_ports = st.builds(
        lambda protocol, port: Frontend(EVERY_LOCAL_ADDRESS[family], protocol, Port(port)),
        protocols,
        st.sampled_from(NODE_PORT_NUMBERS),
    )
    return with_address | node_ports


@st.composite
def portals_of_a_family(draw: st.DrawFn) -> tuple[Wiring, list[Portal]]:
    family = draw(st.sampled_from(IPFamily))
    found = draw(st.lists(frontends(family), min_size=1, max_size=200, unique=True))
    one_class = draw(st.booleans())
    return WIRING[family], [
        portal(
            frontend.address, frontend.protocol, frontend.port, 20001 + number, None if one_class else 30001
        )
        for number, frontend in enumerate(found)
    ]


def sent_to(frontend: Frontend, wiring: Wiring, sender: Sender) -> Packet:
    addresses = wiring.addresses
    is_node_port = frontend.address == EVERY_LOCAL_ADDRESS[wiring.family]
    destination = addresses.node if is_node_port else frontend.address
    source = addresses.senders[sender]
    return Packet(frontend.protocol, destination, frontend.port, wiring.interface_of(sender), source)


@given(portals_of_a_family())
def test_every_portal_is_found_by_everybody_and_read_back(given: tuple[Wiring, list[Portal]]) -> None:
    wiring, portals = given
    rules = PortalRules().rule_set(portals, wiring.settings)
    for one in portals:
        for sender, place in (
            (Sender.OUTSIDE, one.outside),
            (Sender.POD, one.inside),
            (Sender.NODE, one.inside),
        ):
            ending = trace(rules, sent_to(one.frontend, wiring, sender), wiring.node)
            assert ending == Delivered(wiring.proxy_address_for(sender), place.proxy_port)
    adopted = read_portals(as_installed(rules), wiring.family)
    assert {(frontend, ports.outside, ports.inside) for frontend, ports in adopted.items()} == {
        (one.frontend, one.outside.proxy_port, one.inside.proxy_port) for one in portals
    }


@given(portals_of_a_family(), st.data())
def test_any_portals_follow_any_others(given: tuple[Wiring, list[Portal]], data: st.DataObject) -> None:
    wiring, portals = given
    tables = FakeTables()
    before = as_installed(RuleSet())
    for _ in range(3):
        some = data.draw(st.lists(st.sampled_from(portals), unique=True))
        wanted = PortalRules().rule_set(some, wiring.settings)
        for change in plan_changes(before, wanted):
            tables.commit(change)
        before = tables.read()
        assert dict(before.chains) == dict(wanted.chains)


@given(portals_of_a_family())
def test_no_chain_is_long(given: tuple[Wiring, list[Portal]]) -> None:
    wiring, portals = given
    for rules in PortalRules().rule_set(portals, wiring.settings).chains.values():
        assert len(rules) <= 2 * LEAF_PORTALS


@pytest.mark.parametrize("inside", [None, 20002])
def test_all_chains_are_ours_by_name_and_no_name_is_too_long(inside: int | None) -> None:
    portals = [
        *(portal(address(V4, number), TCP, 80, 20001, inside) for number in range(100)),
        *(portal("0.0.0.0", TCP, port, 20001, inside) for port in NODE_PORT_NUMBERS[:100]),
    ]
    chains = PortalRules().rule_set(portals, WIRING[V4].settings).chains
    assert len(chains) > 10
    for chain in chains:
        assert is_ours(chain)
        assert len(chain.name) <= 28


@pytest.mark.parametrize(
    "name", ["KUBE-NODEPORTS", "KUBE-NODEPORT-NON-LOCAL", "KUBE-SERVICES", "KUBE-PORTALS-CONTAINER2"]
)
def test_other_chains_are_not_ours(name: str) -> None:
    assert not is_ours(Chain(PORTALS_HOST.table, name))


def many(count: int, family: IPFamily = V4) -> list[Portal]:
    return [portal(address(family, number), TCP, 80, 20001) for number in range(count)]


def test_few_portals_stand_in_one_chain_and_more_branch() -> None:
    flat = PortalRules().rule_set(many(LEAF_PORTALS), WIRING[V4].settings).chains
    assert len(flat[PORTALS_CONTAINER]) == LEAF_PORTALS
    branched = PortalRules().rule_set(many(LEAF_PORTALS + 1), WIRING[V4].settings).chains
    assert [str(rule).partition(" -j ")[0] for rule in jumps_in(branched[PORTALS_CONTAINER])] == [
        "-d 10.96.0.0/27",
        "-d 10.96.0.32/27",
    ]


def jumps_in(rules: Iterable[Rule]) -> list[Rule]:
    return [rule for rule in rules if isinstance(rule.target, Jump)]


def test_one_address_with_many_ports_branches_by_protocol_and_port() -> None:
    portals = [
        *(portal("10.96.0.1", TCP, port, 20001) for port in range(8000, 8040)),
        *(portal("10.96.0.1", UDP, port, 20001) for port in range(8000, 8030)),
    ]
    rules = PortalRules().rule_set(portals, WIRING[V4].settings).chains[PORTALS_CONTAINER]
    assert [str(rule).partition(" -j ")[0] for rule in jumps_in(rules)] == [
        "-d 10.96.0.1 -p tcp -m tcp --dport 0:8191",
        "-d 10.96.0.1 -p udp",
    ]


def test_an_address_with_many_ports_among_others_has_a_chain_for_all_of_them() -> None:
    portals = [
        *(portal("10.96.0.1", TCP, port, 20001) for port in range(8000, 8040)),
        *(portal(f"10.96.0.{host}", TCP, 80, 20001) for host in range(2, 40)),
    ]
    rules = PortalRules().rule_set(portals, WIRING[V4].settings)
    below = [rule for chain in rules.chains for rule in jumps_in(rules.chains[chain])]
    assert "-d 10.96.0.1" in [str(rule).partition(" -j ")[0] for rule in below]


def test_node_ports_branch_by_port() -> None:
    portals = [portal("0.0.0.0", TCP, port, 20001) for port in range(30000, 30040)]
    rules = PortalRules().rule_set(portals, WIRING[V4].settings).chains[NODEPORT_CONTAINER]
    assert [str(rule).partition(" -j ")[0] for rule in jumps_in(rules)] == [
        "-p tcp -m tcp --dport 29952:30015",
        "-p tcp -m tcp --dport 30016:30079",
    ]


def test_both_trees_share_the_chains_in_which_they_do_not_differ() -> None:
    alike = many(1000)
    chains = PortalRules().rule_set(alike, WIRING[V4].settings).chains
    assert chains[PORTALS_CONTAINER] == chains[PORTALS_HOST]
    differing = [*alike[:-1], replace(alike[-1], outside=to(20002))]
    more = PortalRules().rule_set(differing, WIRING[V4].settings).chains
    assert chains[PORTALS_CONTAINER] != more[PORTALS_CONTAINER]
    added, gone = more.keys() - chains.keys(), chains.keys() - more.keys()
    assert (len(added), len(gone)) == (4, 2)  # a leaf and the chain that it hangs on, in each tree


@pytest.mark.parametrize("family", list(IPFamily), ids=lambda family: family.value)
def test_a_change_among_thousands_is_little(family: IPFamily) -> None:
    portals = many(4000, family)
    settings = WIRING[family].settings
    before = as_installed(PortalRules().rule_set(portals, settings))
    elsewhere = PortalRules().rule_set(
        [*portals[:-1], replace(portals[-1], outside=to(7), inside=to(7))], settings
    )
    assert sum(change.rule_count for change in plan_changes(before, elsewhere)) == 2
    fewer = PortalRules().rule_set([*portals[:1700], *portals[1701:]], settings)
    assert sum(change.rule_count for change in plan_changes(before, fewer)) <= LEAF_PORTALS


def test_addresses_that_are_chosen_to_make_chains_deep_do_not() -> None:
    """The kernel refuses rules that jump more than 16 chains deep, and with them everybody's."""
    last = (1 << 128) - 1
    portals = [
        portal(str(IPv6Address(last ^ (1 << bit) ^ below)), TCP, 80, 20001)
        for bit in range(127, 7, -1)
        for below in range(10)
    ]
    chains = PortalRules().rule_set(portals, WIRING[V6].settings).chains

    def depth(chain: Chain) -> int:
        below = (Chain(chain.table, str(rule.target)) for rule in jumps_in(chains[chain]))
        return 1 + max(map(depth, below), default=0)

    assert depth(PORTALS_CONTAINER) <= 9
