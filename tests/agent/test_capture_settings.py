from __future__ import annotations

import pytest

from userspace_proxy.agent.capture_settings import capture_settings
from userspace_proxy.configuration.loading import load_configuration
from userspace_proxy.core.cluster_state import NodeFacts
from userspace_proxy.core.endpoint_selection import NodeIdentity
from userspace_proxy.core.service_port import IPFamily, ProxyPort
from userspace_proxy.iptables.portal_rules import CaptureSettings
from userspace_proxy.netlink.node_network import LocalAddress, NodeNetwork

IPV4, IPV6 = IPFamily.IPV4, IPFamily.IPV6
ADDRESSES = {
    IPV4: [("10.0.0.1", "eth0"), ("127.0.0.1", "lo"), ("192.0.2.1", "eth1")],
    IPV6: [("2001:db8::1", "eth0"), ("::1", "lo"), ("fe80::1", "eth0")],
}


def network(family: IPFamily, *unnumbered: str) -> NodeNetwork:
    return NodeNetwork(family, tuple(LocalAddress(*pair) for pair in ADDRESSES[family]), unnumbered)


def facts(*addresses: str, pod_cidrs: tuple[str, ...] = ()) -> NodeFacts:
    return NodeFacts(NodeIdentity("node-1"), addresses, pod_cidrs)


def settings(
    seen: NodeNetwork, known: NodeFacts, before: CaptureSettings | None = None, **flags: str
) -> CaptureSettings:
    return capture_settings(
        load_configuration({"hostname_override": "node-1", **flags}, environment={}).configuration,
        seen.family,
        seen,
        known,
        refusing_port=ProxyPort(20000),
        silent_port=ProxyPort(20001),
        before=before,
    )


def test_ports_come_from_the_range_and_from_whoever_holds_the_two() -> None:
    found = settings(network(IPV4), facts(), proxy_port_range="20000-20999")
    assert (found.family, found.proxy_ports.first, found.proxy_ports.last) == (IPV4, 20000, 20999)
    assert (found.refusing_port, found.silent_port) == (20000, 20001)


@pytest.mark.parametrize(
    ("bind_address", "ipv4", "ipv6"),
    [("0.0.0.0", None, None), ("10.0.0.1", "10.0.0.1", None), ("2001:db8::1", None, "2001:db8::1")],
)
def test_a_bind_address_is_of_one_family(bind_address: str, ipv4: str | None, ipv6: str | None) -> None:
    assert settings(network(IPV4), facts(), bind_address=bind_address).bind_address == ipv4
    assert settings(network(IPV6), facts(), bind_address=bind_address).bind_address == ipv6


@pytest.mark.parametrize(
    ("seen", "stated", "address"),
    [
        pytest.param(network(IPV4), ["192.0.2.1"], None, id="every interface has an address"),
        pytest.param(network(IPV4, "cali1"), ["192.0.2.1"], "192.0.2.1", id="what the Node states"),
        pytest.param(
            network(IPV4, "cali1"), ["198.51.100.9", "192.0.2.1"], "192.0.2.1", id="if it is really here"
        ),
        pytest.param(network(IPV4, "cali1"), ["198.51.100.9"], "10.0.0.1", id="a NAT's address"),
        pytest.param(network(IPV4, "cali1"), ["2001:db8::1"], "10.0.0.1", id="another family's"),
        pytest.param(network(IPV6, "cali1"), [], "2001:db8::1", id="neither loopback nor link-local"),
        pytest.param(NodeNetwork(IPV4, (), ("cali1",)), [], None, id="no address at all"),
    ],
)
def test_an_interface_without_an_address_needs_one_of_the_nodes(
    seen: NodeNetwork, stated: list[str], address: str | None
) -> None:
    assert settings(seen, facts(*stated)).node_address == address


def test_once_an_address_was_needed_it_stays_while_it_is_there() -> None:
    needed = settings(network(IPV4, "cali1"), facts())
    assert settings(network(IPV4), facts(), needed).node_address == "10.0.0.1"
    elsewhere = NodeNetwork(IPV4, (LocalAddress("192.0.2.1", "eth1"),), ())
    moved = settings(elsewhere, facts(), needed)
    assert moved.node_address == "192.0.2.1"
    assert settings(network(IPV4), facts(), moved).node_address == "192.0.2.1"
    assert settings(network(IPV4), facts("10.0.0.1"), moved).node_address == "10.0.0.1"


@pytest.mark.parametrize(
    ("stated", "node_ip"), [(["192.0.2.7", "10.0.0.1"], "192.0.2.7"), (["2001:db8::1"], "10.0.0.1")]
)
def test_the_node_is_known_by_the_first_address_that_its_object_states(
    stated: list[str], node_ip: str
) -> None:
    assert settings(network(IPV4), facts(*stated)).node_ip == node_ip


def test_pods_are_known_by_the_nodes_own_cidrs_if_that_is_the_mode() -> None:
    known = facts(pod_cidrs=("10.244.1.0/24", "fd00:244:1::/64"))
    sources = [
        [item.source for item in settings(network(family), known, detect_local_mode="NodeCIDR").local_traffic]
        for family in (IPV4, IPV6)
    ]
    assert sources == [["10.244.1.0/24"], ["fd00:244:1::/64"]]


@pytest.mark.parametrize(
    ("said", "stated", "cidrs"),
    [
        ("", ["192.0.2.1"], None),
        ("192.0.2.0/24", [], ("192.0.2.0/24",)),
        ("primary", ["192.0.2.1", "10.0.0.1"], ("192.0.2.1/32",)),
        ("primary", [], ("10.0.0.1/32",)),
    ],
)
def test_node_ports_are_open_where_the_flag_says(
    said: str, stated: list[str], cidrs: tuple[str, ...] | None
) -> None:
    assert settings(network(IPV4), facts(*stated), nodeport_addresses=said).nodeport_addresses == cidrs
