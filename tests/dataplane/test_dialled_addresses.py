"""The worker's second look agrees with the core's first."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from userspace_proxy.core.ip_addresses import why_not_dialled
from userspace_proxy.dataplane.dialled_addresses import is_dialled

_SPECIAL = (
    *("127.0.0.0/8", "169.254.0.0/15", "224.0.0.0/3", "0.0.0.0/7", "255.255.255.0/24", "10.0.0.0/8"),
    *("::/64", "::fffe:0:0/95", "fe00::/7", "fd00:ec2::/64", "fd20:ce::/64", "2001:db8::/32"),
)


def addresses() -> st.SearchStrategy[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return st.ip_addresses() | st.sampled_from(_SPECIAL).flatmap(
        lambda network: st.ip_addresses(network=network)
    )


@given(addresses())
@example(ipaddress.ip_address("0.0.0.0"))
@example(ipaddress.ip_address("255.255.255.255"))
@example(ipaddress.ip_address("::"))
@example(ipaddress.ip_address("::1"))
@example(ipaddress.ip_address("100.100.100.200"))
@example(ipaddress.ip_address("168.63.129.16"))
@example(ipaddress.ip_address("192.0.0.192"))
@example(ipaddress.ip_address("fd00:ec2::254"))
@example(ipaddress.ip_address("fd20:ce::254"))
def test_both_say_the_same_of_every_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert is_dialled(str(address)) == (why_not_dialled(address) is None)


@pytest.mark.parametrize(
    "text", ["", "web", "10.0.0", "010.0.0.1", "10.0.0.1\0", "fe80::1%lo", "fd00::1%1", "::g"]
)
def test_what_is_no_address_is_not_dialled(text: str) -> None:
    assert not is_dialled(text)
