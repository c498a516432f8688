"""Networks for rules to match, spelled as iptables-save prints them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from operator import attrgetter


def spelled(network: str | None) -> str | None:
    """The network as iptables-save prints it, without what says nothing: None for every address."""
    if network is None:
        return None
    parsed = ip_network(network, strict=False)
    if parsed.prefixlen == 0:
        return None
    is_one_address = parsed.prefixlen == parsed.max_prefixlen
    return str(parsed.network_address) if is_one_address else str(parsed)


def networks_within(ranges: Iterable[str] | None, within: str | None) -> Iterable[str | None]:
    """What is in one of the ranges (None: anything is) and `within` (None: everywhere), spelled."""
    if ranges is None:
        return (spelled(within),)
    if within is None:
        return dict.fromkeys(map(spelled, ranges))
    own = ip_network(within, strict=False)
    networks = (ip_network(text, strict=False) for text in ranges)
    # Of two networks with an address in common one is part of the other.
    return dict.fromkeys(
        spelled(str(max(own, network, key=attrgetter("prefixlen"))))
        for network in networks
        if network.overlaps(own)
    )


def is_in_any(address: str, ranges: Iterable[str]) -> bool:
    """Whether the address is in one of the ranges."""
    parsed = ip_address(address)
    return any(parsed in ip_network(text, strict=False) for text in ranges)
