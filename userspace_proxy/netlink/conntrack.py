"""Conntrack entries that lead clients to where their rule no longer does.

NAT is decided once for each conntrack entry. A UDP client that keeps sending keeps its entry alive: after a
rule has come, changed or gone, it goes on to be led astray until the entry is deleted. A TCP client has a
new entry for each connection, but if its SYN met no rule of ours and vanished, the entry outlives that by
two minutes, and the SYN's repeats follow it, and so does the next connection from the same port.
Source: https://www.kernel.org/doc/html/latest/networking/nf_conntrack-sysctl.html, conntrack(8).
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import (
    EVERY_LOCAL_ADDRESS,
    Frontend,
    IPFamily,
    Port,
    Protocol,
    ProxyPort,
)
from userspace_proxy.errors import UserspaceProxyError
from userspace_proxy.netlink.ctnetlink import ConntrackSocket, Entry
from userspace_proxy.netlink.node_network import read_local_addresses

FILTERED_DUMPS: Final = 16
"""For up to so many UDP frontends the kernel is asked for each one's entries; for more, once for all of UDP.

Either way it walks its whole table, in 3 ms per 10,000 entries; to be given and to decode as many takes us
80 ms. Of TCP all that is unreplied is asked for at once, since that is never much.
"""


class ConntrackError(UserspaceProxyError):
    """The kernel's conntrack table cannot be read or written: no permission, or no such kernel module."""


def delete_stale_entries(
    family: IPFamily,
    allowed: Mapping[Frontend, Collection[ProxyPort]],
    *,
    bind_address: str | None = None,
    captured_ports: PortRange | None = None,
    node_port_networks: Collection[str] | None = None,
) -> int:
    """Delete the entries of these frontends that lead elsewhere, and return how many they were.

    A frontend's entries may stay if they lead to one of its allowed proxy ports, at `bind_address` (None: at
    any address that the node has). A NodePort's are those to every address of the node, or to those in
    `node_port_networks` (CIDRs). With `captured_ports` no frontends but these are captured, and what leads
    to such a port of the node for any other address goes too. TCP entries that somebody has replied to stay:
    they are connections. Blocks. Raises ConntrackError or NodeNetworkError.
    """
    if not allowed and captured_ports is None:
        return 0
    af = socket.AF_INET if family is IPFamily.IPV4 else socket.AF_INET6
    every = EVERY_LOCAL_ADDRESS[family]
    local = frozenset(entry.address for entry in read_local_addresses(family))
    listens_at = local if bind_address is None else {bind_address}
    networks = None if node_port_networks is None else [ip_network(cidr) for cidr in node_port_networks]

    @lru_cache(maxsize=1024)
    def has_node_ports(address: str) -> bool:
        is_local = address in local or address.startswith("127.")
        if networks is None or not is_local:
            return is_local
        return any(ip_address(address) in network for network in networks)

    def is_stale(entry: Entry, protocol: Protocol) -> bool:
        """Whether the entry leads elsewhere than it may."""
        frontend = Frontend(entry.destination, protocol, Port(entry.destination_port))
        if frontend not in allowed and has_node_ports(entry.destination):
            frontend = replace(frontend, address=every)
        is_captured = (entry.answered_by, entry.answered_by_port) != (
            entry.destination,
            entry.destination_port,
        )
        ports = allowed.get(frontend)
        if ports is not None:
            is_right = entry.answered_by in listens_at and entry.answered_by_port in ports
            return not (is_captured and is_right)
        is_ours = captured_ports is not None and entry.answered_by_port in captured_ports
        return is_ours and is_captured and entry.answered_by in local

    try:
        with ConntrackSocket(af) as conntrack:
            stale = [
                entry
                for protocol, entries in _dumps(
                    conntrack, family, allowed, is_of_all=captured_ports is not None
                )
                for entry in entries
                if is_stale(entry, protocol)
            ]
            return sum(map(conntrack.delete, stale))
    except OSError as error:
        raise ConntrackError(f"the kernel refuses access to its conntrack table: {error}") from error


def _dumps(
    conntrack: ConntrackSocket, family: IPFamily, frontends: Iterable[Frontend], *, is_of_all: bool
) -> Iterator[tuple[Protocol, Iterator[Entry]]]:
    """Every entry that may be stale, and few others, in as many dumps as that is cheap in."""
    udp = {(frontend.address, frontend.port) for frontend in frontends if frontend.protocol is Protocol.UDP}
    if is_of_all or any(frontend.protocol is Protocol.TCP for frontend in frontends):
        yield Protocol.TCP, conntrack.dump(socket.IPPROTO_TCP, unreplied=True)
    if is_of_all or len(udp) > FILTERED_DUMPS:
        yield Protocol.UDP, conntrack.dump(socket.IPPROTO_UDP)
    elif family is IPFamily.IPV6:
        # Asked for an IPv6 address, Linux (6.18 still) gives all but that one.
        for port in {port for _, port in udp}:
            yield Protocol.UDP, conntrack.dump(socket.IPPROTO_UDP, port=port)
    else:
        for address, port in udp:
            wanted = None if address == EVERY_LOCAL_ADDRESS[family] else address
            yield Protocol.UDP, conntrack.dump(socket.IPPROTO_UDP, address=wanted, port=port)
