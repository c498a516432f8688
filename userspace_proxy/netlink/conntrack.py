"""Conntrack entries that lead UDP clients to where their rule no longer does.

NAT is decided once for each conntrack entry, and a UDP client that keeps sending keeps its entry alive: after
a rule has come, changed or gone, it goes on to be led astray until the entry is deleted. TCP needs none of
this, since a new connection is a new entry.
Source: https://www.kernel.org/doc/html/latest/networking/nf_conntrack-sysctl.html, conntrack(8).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, Final, NamedTuple

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

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
from userspace_proxy.netlink.node_network import read_local_addresses

FILTERED_DUMPS: Final = 32
"""For up to so many frontends the kernel is asked for each one's entries; for more, once for all of UDP.

Either way it walks its whole table, in 2 ms per 10,000 entries; decoding as many takes us over a second.
"""


class ConntrackError(UserspaceProxyError):
    """The kernel's conntrack table cannot be read or written: no permission, or no such kernel module."""


class _Entry(NamedTuple):
    """The original direction of a UDP entry, and where its replies come from."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    answered_by: str
    answered_by_port: int
    id: int


def delete_stale_udp(
    family: IPFamily,
    allowed: Mapping[Frontend, Collection[ProxyPort]],
    *,
    bind_address: str | None = None,
    captured_ports: PortRange | None = None,
    node_port_networks: Collection[str] | None = None,
) -> int:
    """Delete the UDP entries of these frontends that lead elsewhere, and return how many they were.

    A frontend's entries may stay if they lead to one of its allowed proxy ports, at `bind_address` (None: at
    any address that the node has). A NodePort's are those to every address of the node, or to those in
    `node_port_networks` (CIDRs). With `captured_ports` no frontends but these are captured, and what leads to
    such a port of the node for any other address goes too. Frontends of TCP are skipped. Blocks; for a thread
    without a running event loop. Raises ConntrackError or NodeNetworkError.
    """
    frontends = {frontend: ports for frontend, ports in allowed.items() if frontend.protocol is Protocol.UDP}
    if not frontends and captured_ports is None:
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

    def is_stale(entry: _Entry) -> bool:
        """Whether the entry leads elsewhere than it may."""
        frontend = Frontend(entry.destination, Protocol.UDP, Port(entry.destination_port))
        if frontend not in frontends and has_node_ports(entry.destination):
            frontend = replace(frontend, address=every)
        is_captured = (entry.answered_by, entry.answered_by_port) != (
            entry.destination,
            entry.destination_port,
        )
        ports = frontends.get(frontend)
        if ports is not None:
            is_right = entry.answered_by in listens_at and entry.answered_by_port in ports
            return not (is_captured and is_right)
        is_ours = captured_ports is not None and entry.answered_by_port in captured_ports
        return is_ours and is_captured and entry.answered_by in local

    try:
        with NFCTSocket(nfgen_family=af) as conntrack:
            filters = _filters(af, frontends if captured_ports is None else None)
            entries = [entry for wanted in filters for entry in _dump(conntrack, af, wanted)]
            return sum(_delete(conntrack, af, entry) for entry in entries if is_stale(entry))
    except (NetlinkError, OSError) as error:
        raise ConntrackError(f"the kernel refuses access to its conntrack table: {error}") from error


def _filters(af: socket.AddressFamily, frontends: Iterable[Frontend] | None) -> list[Any]:
    """What to ask the kernel for, so that the answers have every entry of the frontends, and few others.

    None: every entry there is.
    """
    address_ports = {(frontend.address, frontend.port) for frontend in frontends or ()}
    if frontends is None or len(address_ports) > FILTERED_DUMPS:
        return [NFCTAttrTuple(family=af, proto=socket.IPPROTO_UDP)]
    if af == socket.AF_INET6:  # asked for an IPv6 address, Linux (6.18 still) gives all but that one
        ports = {port for _, port in address_ports}
        return [NFCTAttrTuple(family=af, proto=socket.IPPROTO_UDP, dport=port) for port in ports]
    every = EVERY_LOCAL_ADDRESS[IPFamily.IPV4]
    return [
        NFCTAttrTuple(
            family=af,
            proto=socket.IPPROTO_UDP,
            dport=port,
            **({} if address == every else {"daddr": address}),
        )
        for address, port in address_ports
    ]


def _dump(conntrack: Any, af: socket.AddressFamily, wanted: Any) -> Iterator[_Entry]:
    """Entries that fit `wanted`; before Linux 5.8, all. Those of other conntrack zones are none of ours."""
    version = "V4" if af == socket.AF_INET else "V6"
    for message in conntrack.dump(tuple_orig=wanted):
        if message.get_attr("CTA_ZONE"):
            continue
        original, reply = message.get_attr("CTA_TUPLE_ORIG"), message.get_attr("CTA_TUPLE_REPLY")
        ports = original.get_attr("CTA_TUPLE_PROTO")
        if ports.get_attr("CTA_PROTO_NUM") != socket.IPPROTO_UDP:
            continue
        addresses = original.get_attr("CTA_TUPLE_IP")
        yield _Entry(
            source=addresses.get_attr(f"CTA_IP_{version}_SRC"),
            source_port=ports.get_attr("CTA_PROTO_SRC_PORT"),
            destination=addresses.get_attr(f"CTA_IP_{version}_DST"),
            destination_port=ports.get_attr("CTA_PROTO_DST_PORT"),
            answered_by=reply.get_attr("CTA_TUPLE_IP").get_attr(f"CTA_IP_{version}_SRC"),
            answered_by_port=reply.get_attr("CTA_TUPLE_PROTO").get_attr("CTA_PROTO_SRC_PORT"),
            id=message.get_attr("CTA_ID"),
        )


def _delete(conntrack: Any, af: socket.AddressFamily, entry: _Entry) -> bool:
    """Whether the entry was there to be deleted; one that has taken its place meanwhile is another."""
    original = NFCTAttrTuple(
        family=af,
        saddr=entry.source,
        sport=entry.source_port,
        daddr=entry.destination,
        dport=entry.destination_port,
        proto=socket.IPPROTO_UDP,
    )
    try:
        conntrack.entry("del", tuple_orig=original, id=entry.id)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return False
        raise
    return True
