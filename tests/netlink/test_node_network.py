"""What is read of the node's network, and how its changes are noticed."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.netlink.node_network import LocalAddress, NetworkChanges, NodeNetwork, read_node_network

V4, V6 = IPFamily.IPV4, IPFamily.IPV6


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace("links") as namespace:
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")
        yield namespace


def link(name: str) -> str:
    """The command that adds an interface; what is at its other end does not matter."""
    return f"link add {name} type veth peer name {name}-peer"


def read(node: Namespace, family: IPFamily = V4) -> NodeNetwork:
    return node.call(lambda: read_node_network(family))


def test_an_empty_node_has_loopback(node: Namespace) -> None:
    assert read(node) == NodeNetwork(V4, (LocalAddress("127.0.0.1", "lo"),), ())
    assert read(node, V6) == NodeNetwork(V6, (LocalAddress("::1", "lo"),), ())


def test_addresses_come_sorted_with_their_interfaces(node: Namespace) -> None:
    node.ip(
        link("eth0"),
        link("eth1"),
        "addr add 192.0.2.10/24 dev eth0",
        "addr add 192.0.2.11/24 dev eth0",
        "addr add 10.1.0.1 peer 10.1.0.2 dev eth1",
        "addr add 2001:db8::a/64 dev eth1",
    )
    assert read(node).addresses == (
        LocalAddress("10.1.0.1", "eth1"),
        LocalAddress("127.0.0.1", "lo"),
        LocalAddress("192.0.2.10", "eth0"),
        LocalAddress("192.0.2.11", "eth0"),
    )
    assert LocalAddress("2001:db8::a", "eth1") in read(node, V6).addresses


UNNUMBERED_V4 = "route add 10.244.1.2/32 dev cali1"
UNNUMBERED_V6 = "route add fd00::2/128 dev cali1"


def test_an_interface_with_a_route_and_no_address_is_unnumbered(node: Namespace) -> None:
    node.ip(link("cali1"), "link set cali1 up", "link set cali1-peer up", UNNUMBERED_V4, UNNUMBERED_V6)
    assert any(local.address.startswith("fe80::") for local in read(node, V6).addresses)
    assert read(node).unnumbered == ("cali1",)
    assert read(node, V6).unnumbered == ("cali1",), "fe80:: is no address that others could be redirected to"


def test_a_route_of_several_ways_counts_for_each(node: Namespace) -> None:
    node.ip(
        link("cali1"),
        link("cali2"),
        "link set cali1 up",
        "link set cali2 up",
        "route add 10.244.1.0/24 nexthop dev cali1 nexthop dev cali2",
    )
    assert read(node).unnumbered == ("cali1", "cali2")


@pytest.mark.parametrize(
    "but",
    [
        ["addr add 10.9.9.9/32 dev cali1"],
        ["route del 10.244.1.2/32 dev cali1"],
        ["link set cali1 down"],
        ["link add br0 type bridge", "link set cali1 master br0"],
    ],
    ids=["an address", "no route", "down", "part of a bridge"],
)
def test_an_interface_is_not_unnumbered_with(node: Namespace, but: list[str]) -> None:
    node.ip(link("cali1"), "link set cali1 up", UNNUMBERED_V4, *but)
    assert read(node).unnumbered == ()


def test_a_link_s_own_ipv6_route_does_not_make_it_unnumbered(node: Namespace) -> None:
    node.ip(link("veth1"), "link set veth1 up", "link set veth1-peer up")
    assert read(node, V6).unnumbered == ()


@pytest.mark.parametrize(
    "change",
    [
        link("eth1"),
        "link set eth0 down",
        "addr add 192.0.2.10/24 dev eth0",
        "addr add 2001:db8::a/64 dev eth0",
        "route add 10.0.0.0/8 dev eth0",
        "route add 2001:db8:1::/64 dev eth0",
    ],
)
def test_a_change_makes_it_readable_until_drained(node: Namespace, change: str) -> None:
    node.ip(link("eth0"), "link set eth0 up")
    changes = node.call(NetworkChanges)
    try:
        assert not changes.drain()
        assert not is_readable(changes)
        node.ip(change)
        assert is_readable(changes)
        assert changes.drain()
        assert not is_readable(changes)
        assert not changes.drain()
    finally:
        changes.close()


def test_more_changes_than_are_kept_are_a_change(node: Namespace) -> None:
    changes = node.call(NetworkChanges)
    try:
        commands = [link(f"d{number}") for number in range(400)]
        node.ip(*commands)
        assert changes.drain()
        assert not changes.drain()
    finally:
        changes.close()


def is_readable(changes: NetworkChanges) -> bool:
    return bool(select.select([changes], [], [], 0)[0])
