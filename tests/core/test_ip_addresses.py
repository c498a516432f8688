from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.ip_addresses import (
    family_of,
    is_ordinary_ipv4,
    read_network,
    shown,
    why_not_dialled,
)
from userspace_proxy.core.service_port import IPFamily


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.96.0.10", None),
        ("192.168.1.1", None),
        ("8.8.8.8", None),
        ("fd00::a", None),
        ("2001:db8::1", None),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("127.0.0.1", "loopback"),
        ("127.8.8.8", "loopback"),
        ("::1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("169.254.0.1", "link-local"),
        ("169.253.255.255", None),
        ("febf::1", "link-local"),
        ("fec0::1", None),
        ("239.255.255.255", "multicast"),
        ("ff0e::1", "multicast"),
        ("100.100.100.200", "secrets"),
        ("100.100.100.20", None),
        ("168.63.129.16", "secrets"),
        ("168.63.129.161", None),
        ("192.0.0.192", "secrets"),
        ("fd00:ec2::254", "secrets"),
        ("fd00:0ec2:0::0254", "secrets"),
        ("fd20:ce::254", "secrets"),
        ("fd00:ec2::253", None),
        ("::ffff:127.0.0.1", "IPv4-mapped"),
        ("::ffff:169.254.169.254", "IPv4-mapped"),
        ("::FFFF:a00:1", "IPv4-mapped"),
        ("0:0:0:0:0:ffff:10.0.0.1", "IPv4-mapped"),
        ("::127.0.0.1", "IPv4-compatible"),
        ("::2", "IPv4-compatible"),
        ("::1:0:0", None),
        ("2001:db8::1%eth0", "zone"),
    ],
)
def test_addresses_that_would_reach_the_node_itself_or_many_are_refused(
    address: str, reason: str | None
) -> None:
    answer = why_not_dialled(ipaddress.ip_address(address))
    assert answer is None if reason is None else answer is not None and reason in answer


@pytest.mark.parametrize(
    "text",
    [
        "010.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "127.0.0.1 ",
        "\uff11\uff10.0.0.1",
        "::ffff:0127.0.0.1",
        "[::1]",
    ],
)
def test_other_spellings_of_an_address_are_none(text: str) -> None:
    """Some libraries read these, as decimal or octal, and so as other addresses than their authors meant."""
    with pytest.raises(ValueError, match="does not appear to be"):
        ipaddress.ip_address(text)


def test_a_zone_is_not_shown() -> None:
    assert shown(ipaddress.ip_address("fe80::1%" + "x" * 10_000)) == "fe80::1"
    assert shown(ipaddress.ip_address("10.0.0.1")) == "10.0.0.1"


def test_the_family_of_an_address() -> None:
    assert family_of(ipaddress.ip_address("10.0.0.1")) is IPFamily.IPV4
    assert family_of(ipaddress.ip_address("fd00::a")) is IPFamily.IPV6


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.77/24", "192.0.2.0/24"),
        ("192.0.2.77", "192.0.2.77/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
    ],
)
def test_a_range_is_read_as_it_is_meant(text: str, network: str) -> None:
    assert str(read_network(text)) == network


@pytest.mark.parametrize(
    "text", ["", "web", "192.0.2.0/33", "fd00::%eth0/64", "fd00::%\n-j ACCEPT/64", "fd00::%x"]
)
def test_what_is_no_range_or_has_a_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_network(text)


@given(st.text(alphabet="0123456789abcdef:./%- ", max_size=20))
def test_a_range_can_go_into_rules_whatever_it_was(text: str) -> None:
    try:
        network = read_network(text)
    except ValueError:
        return
    assert set(str(network)) <= set("0123456789abcdef:./")


@given(st.ip_addresses(v=4).map(str) | st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){3}", fullmatch=True))
def test_what_is_ordinary_need_not_be_read(text: str) -> None:
    if is_ordinary_ipv4(text):
        address = ipaddress.IPv4Address(text)
        assert str(address) == text
        assert why_not_dialled(address) is None


@pytest.mark.parametrize("first", [octet for octet in range(1, 224) if octet not in (127, 169)])
def test_nearly_all_addresses_are_ordinary(first: int) -> None:
    assert is_ordinary_ipv4(f"{first}.0.99.255")


@pytest.mark.parametrize(
    "text",
    [
        *(f"{first}.1.2.3" for first in (0, 127, 169, *range(224, 257))),
        "",
        "10.0.0",
        "10.0.0.256",
        "10.0.0.01",
        "10.0.0.1\n",
        " 10.0.0.1",
        "10.0.0.\u0661",
        "fd00::a",
    ],
)
def test_the_others_are_to_be_read(text: str) -> None:
    assert not is_ordinary_ipv4(text)
