"""What the node's network looks like to capture: local addresses, interfaces without one, and changes.

Source: rtnetlink(7).
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
)

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.errors import UserspaceProxyError

_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_RECEIVE_BYTES: Final = 65536


class NodeNetworkError(UserspaceProxyError):
    """The kernel does not tell about the node's links, addresses or routes."""


@dataclass(frozen=True, slots=True, order=True)
class LocalAddress:
    """An address of the node, in its canonical spelling, and the interface that has it."""

    address: str
    interface: str


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """One family's addresses, sorted, and the interfaces by which packets can come in without one.

    An unnumbered interface is up, belongs to no bridge or bond, has a route but no address that REDIRECT
    could use: the host's end of a pod's veth in Calico's way of wiring. Equal networks are equal values.
    """

    family: IPFamily
    addresses: tuple[LocalAddress, ...]
    unnumbered: tuple[str, ...]


def read_node_network(family: IPFamily) -> NodeNetwork:
    """The network of the calling thread's namespace, now. Blocks; for a thread without a running event loop.

    Raises NodeNetworkError.
    """
    af = _address_family(family)
    try:
        with IPRoute() as netlink:
            links = {link["index"]: link for link in netlink.get_links()}
            addresses = _local_addresses(netlink, links, af)
            numbered = {local.interface for local in addresses if not _is_link_local_v6(local.address)}
            candidates = {
                index: name
                for index, link in links.items()
                if _takes_packets(link) and (name := link.get_attr("IFLA_IFNAME")) not in numbered
            }
            routed = set(_routed_interfaces(netlink, af)) if candidates else set()
    except (NetlinkError, OSError) as error:
        raise NodeNetworkError(f"cannot read the node's links, addresses and routes: {error}") from error
    unnumbered = (name for index, name in candidates.items() if index in routed)
    return NodeNetwork(family, addresses, tuple(sorted(unnumbered)))


def read_local_addresses(family: IPFamily) -> tuple[LocalAddress, ...]:
    """The node's addresses alone, without a look at its routes, of which there may be thousands.

    Blocks like `read_node_network`. Raises NodeNetworkError.
    """
    try:
        with IPRoute() as netlink:
            links = {link["index"]: link for link in netlink.get_links()}
            return _local_addresses(netlink, links, _address_family(family))
    except (NetlinkError, OSError) as error:
        raise NodeNetworkError(f"cannot read the node's links and addresses: {error}") from error


class NetworkChanges:
    """Tells that links, addresses or routes have changed. Not how: read them again.

    Readable (`fileno`) when something has happened since the last `drain`. Belongs to the network namespace
    of the thread that makes it. Raises NodeNetworkError where the kernel has no rtnetlink for us.
    """

    def __init__(self) -> None:
        groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                socket.NETLINK_ROUTE,
            )
            self._socket.bind((0, groups))
        except OSError as error:
            raise NodeNetworkError(f"cannot watch the node's network: {error}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take what has come so far, without waiting. Whether anything had."""
        changed = False
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self._socket.recv(_RECEIVE_BYTES)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # more came than was kept: a change all the same
                        raise
                changed = True
        return changed

    def close(self) -> None:
        self._socket.close()


def _address_family(family: IPFamily) -> socket.AddressFamily:
    return socket.AF_INET if family is IPFamily.IPV4 else socket.AF_INET6


def _local_addresses(
    netlink: Any, links: Mapping[int, Any], af: socket.AddressFamily
) -> tuple[LocalAddress, ...]:
    addresses = (
        LocalAddress(_local_address(message), links[message["index"]].get_attr("IFLA_IFNAME"))
        for message in netlink.get_addr(family=af)
        if message["index"] in links
    )
    return tuple(sorted(addresses))


def _takes_packets(link: Any) -> bool:
    """Whether packets that come in by the link are its own, not a bridge's or a bond's."""
    return bool(link["flags"] & _IFF_UP and not link["flags"] & _IFF_LOOPBACK) and not link.get_attr(
        "IFLA_MASTER"
    )


def _local_address(message: Any) -> str:
    """The node's own address; IFA_ADDRESS is the peer's on a point-to-point link."""
    return str(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))


def _routed_interfaces(netlink: Any, af: socket.AddressFamily) -> Iterator[int]:
    """The indexes of interfaces that a route leads through, beside those that every IPv6 link has."""
    for route in netlink.get_routes(family=af):
        destination = route.get_attr("RTA_DST")
        if destination and af == socket.AF_INET6 and _is_link_local_v6(destination):
            continue
        if index := route.get_attr("RTA_OIF"):
            yield index
        for hop in route.get_attr("RTA_MULTIPATH") or ():
            yield hop["oif"]


def _is_link_local_v6(text: str) -> bool:
    address = ip_address(text)
    return address.version == 6 and (address.is_link_local or address.is_multicast)
