"""Addresses and ranges that people write into objects and flags: which of them we take."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, TypeAlias

from userspace_proxy.core.service_port import IPFamily

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")
_METADATA_IPV4: Final = ("100.100.100.200", "168.63.129.16", "192.0.0.192")
_METADATA: Final = frozenset(map(ipaddress.ip_address, (*_METADATA_IPV4, "fd00:ec2::254", "fd20:ce::254")))
"""Where clouds tell a machine its secrets: Alibaba, Azure, Oracle, and in IPv6 AWS and Google.

Elsewhere the address is link-local. A pod network in 100.64.0.0/10 may contain the first: a pod that has it
is left out, and named.
"""

_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_ORDINARY_IPV4: Final = re.compile(
    rf"(?!(?:{'|'.join(map(re.escape, _METADATA_IPV4))})\Z)"
    rf"(?:22[0-3]|2[01]\d|1[013-57-9]\d|12[0-689]|16[0-8]|[1-9]\d?)(?:\.{_OCTET}){{3}}",
    re.ASCII,
)


def is_ordinary_ipv4(text: str) -> bool:
    """Whether `text` is, for sure, an IPv4 address in its canonical spelling that may be dialled.

    Of a large cluster's addresses nearly all are, and this takes a tenth of the time that reading one takes.
    The others are to be read: those of 0/8, 127/8, 169/8 and 224/3 too, of which some may be dialled.
    """
    return _ORDINARY_IPV4.fullmatch(text) is not None


def family_of(item: IPAddress | IPNetwork) -> IPFamily:
    return IPFamily.IPV4 if item.version == 4 else IPFamily.IPV6


def why_not_dialled(address: IPAddress) -> str | None:
    """The reason why no Service and no endpoint may have `address`, or None if it may.

    The API server refuses most of these too; a proxy that trusted them would let an object reach the node
    itself, or what only the node may ask. `dataplane.dialled_addresses` says the same of packed addresses.
    """
    if address.is_unspecified:
        return "is the unspecified address"
    if address.is_loopback:
        return "is a loopback address"
    if address.is_link_local:
        return "is a link-local address"
    if address.is_multicast:
        return "is a multicast address"
    if address == _BROADCAST:
        return "is the broadcast address"
    if address in _METADATA:
        return "is where a cloud tells the node its secrets"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return "is an IPv4-mapped address"
        if not int(address) >> 32:
            return "is an IPv4-compatible address"
        if address.scope_id is not None:  # free text after "%", which would go into rules as it is
            return "is an address with a zone"
    return None


def shown(address: IPAddress) -> str:
    """The address for a message: without its zone, which is free text of any length."""
    return str(address).partition("%")[0]


def read_network(text: str) -> IPNetwork:
    """The range of addresses that `text` stands for: a CIDR, or an address for itself alone.

    Bits beside the prefix are ignored, as kube-proxy does. Raises `ValueError`, for a range with a zone too:
    that is free text, and would go into rules as it is.
    """
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return ipaddress.ip_network(text, strict=False)
