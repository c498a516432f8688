from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.local_traffic import (
    DetectLocal,
    DetectLocalMode,
    LocalTraffic,
    cidrs_of,
    local_traffic,
    nodeport_cidrs,
)
from userspace_proxy.core.service_port import IPFamily

IPV4, IPV6 = IPFamily.IPV4, IPFamily.IPV6
POD_CIDRS = ("10.244.1.0/24", "fd00:244:1::/64")
EVERYTHING = DetectLocal(
    cluster_cidrs=("10.244.0.0/16", "fd00:244::/48", "10.245.0.0/16"),
    bridge_interface="cni0",
    interface_name_prefix="veth",
)


@pytest.mark.parametrize(
    ("mode", "ipv4", "ipv6"),
    [
        (
            DetectLocalMode.CLUSTER_CIDR,
            [LocalTraffic(source="10.244.0.0/16"), LocalTraffic(source="10.245.0.0/16")],
            [LocalTraffic(source="fd00:244::/48")],
        ),
        (
            DetectLocalMode.NODE_CIDR,
            [LocalTraffic(source="10.244.1.0/24")],
            [LocalTraffic(source="fd00:244:1::/64")],
        ),
        (
            DetectLocalMode.BRIDGE_INTERFACE,
            [LocalTraffic(in_interface="cni0")],
            [LocalTraffic(in_interface="cni0")],
        ),
        (
            DetectLocalMode.INTERFACE_NAME_PREFIX,
            [LocalTraffic(in_interface="veth+")],
            [LocalTraffic(in_interface="veth+")],
        ),
    ],
)
def test_the_mode_says_how_pods_are_known(
    mode: DetectLocalMode, ipv4: list[LocalTraffic], ipv6: list[LocalTraffic]
) -> None:
    said = {field.name: getattr(EVERYTHING, field.name) for field in fields(EVERYTHING)}
    detect = DetectLocal(**{**said, "mode": mode})
    assert local_traffic(detect, IPV4, POD_CIDRS) == tuple(ipv4)
    assert local_traffic(detect, IPV6, POD_CIDRS) == tuple(ipv6)


def test_where_nothing_is_known_of_pods_nobody_is_one() -> None:
    assert local_traffic(DetectLocal(), IPV4, POD_CIDRS) == ()
    assert local_traffic(DetectLocal(DetectLocalMode.NODE_CIDR), IPV4, ()) == ()


@pytest.mark.parametrize(
    ("stated", "node_addresses", "cidrs"),
    [
        pytest.param([], ["10.0.0.1"], None, id="nothing said"),
        pytest.param(["192.0.2.1/24", "10.0.0.1/32"], [], ("192.0.2.0/24", "10.0.0.1/32"), id="CIDRs"),
        pytest.param(["2001:db8::/32"], [], None, id="another family's"),
        pytest.param(["primary"], ["10.0.0.1", "192.0.2.1"], ("10.0.0.1/32",), id="primary"),
        pytest.param(["primary"], [], (), id="primary that is not there"),
    ],
)
def test_node_ports_are_open_where_it_is_said(
    stated: list[str], node_addresses: list[str], cidrs: tuple[str, ...] | None
) -> None:
    assert nodeport_cidrs(stated, IPV4, node_addresses) == cidrs


def test_the_primary_address_of_the_other_family() -> None:
    assert nodeport_cidrs(["primary"], IPV6, ["fd00::1"]) == ("fd00::1/128",)


def test_what_is_no_cidr_is_left_out() -> None:
    texts = ["10.0.0.0/8", "web", "fd00::%eth0/64", "FD00::1/64", "10.0.0.0/8"]
    assert cidrs_of(IPV4, texts) == ("10.0.0.0/8",)
    assert cidrs_of(IPV6, texts) == ("fd00::/64",)


@given(st.lists(st.text(alphabet="0123456789abcdef:./%", max_size=14)), st.sampled_from(IPFamily))
def test_whatever_is_left_can_go_into_rules(texts: list[str], family: IPFamily) -> None:
    for cidr in cidrs_of(family, texts):
        assert set(cidr) <= set("0123456789abcdef:./")
        assert (":" in cidr) is (family is IPV6)
