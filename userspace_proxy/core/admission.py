"""Which connections a worker takes while there is room, so that none of its Service ports starves another.

Theory of operation. What runs out first is descriptors, so room is counted in these: a TCP connection takes
two. A Service port may take what is free as long as it has no more than SHARE times what stays free. A single
busy one thus gets four fifths of the room, the next busy one four fifths of the rest, and so on: there is
always some left for who comes with little. While room is scarce, those that have less than the others may
take what becomes free and those that have more may not, so as connections end, all come to have the same.
Nobody need be counted or compared for it, and what was taken is never taken back. Source: A. K. Choudhury and
E. L. Hahne, Dynamic Queue Length Thresholds for Shared-Memory Packet Switches, 1998.

Beside that, a Service port has limits of its own: for all its connections, and for those of one client. That
is an IPv4 address, or a /64 of IPv6: whoever has one address there may have all 2^64, as they please. A pod
has the one it was given, so each pod counts for itself. Source: RFC 4291, section 2.5.1; RFC 7934.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from functools import lru_cache
from typing import Final

SHARE: Final = 4
TCP_DESCRIPTORS: Final = 2
CLIENTS_SHARE: Final = 4
"""One in so many of the connections that a worker has room for may be one client's."""
UNLIMITED: Final = 1 << 62


class Refusal(Enum):
    """Why a connection is not taken."""

    CLIENT_LIMIT = "the client has as many connections as one may have"
    SERVICE_LIMIT = "the Service port has as many connections as it may have"
    NO_ROOM = "the worker has too little room left for a Service port that has so many"


def client_of(address: str, pod_cidrs: tuple[str, ...]) -> str:
    """The client that `address` is one of: itself, in IPv4 and within `pod_cidrs` (of IPv6), or its /64."""
    return _client_of(address, pod_cidrs) if ":" in address else address


@lru_cache(maxsize=4096)
def _client_of(address: str, pod_cidrs: tuple[str, ...]) -> str:
    number = int(ipaddress.IPv6Address(address))
    if any(number & mask == network for network, mask in _parsed(pod_cidrs)):
        return address
    groups = (f"{number >> shift & 0xFFFF:x}" for shift in (112, 96, 80, 64))
    return f"{':'.join(groups)}::/64"  # not shortened further: that would take four times as long


@lru_cache(maxsize=16)
def _parsed(cidrs: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    networks = map(ipaddress.IPv6Network, cidrs)
    return tuple((int(network.network_address), int(network.netmask)) for network in networks)


class Room:
    """The room of a worker. `capacity` and `taken` are descriptors; `capacity` may change at any time."""

    __slots__ = ("capacity", "taken")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0


class Admission:
    """The TCP connections of one Service port. `admitted` is how many there are.

    `max_connections` and `max_per_client` limit them, `pod_cidrs` is for whoever asks `client_of`.
    The clients' table has an entry for as long as a client has connections, so it is never larger than that.
    """

    __slots__ = ("_beside", "_clients", "_room", "admitted", "max_connections", "max_per_client", "pod_cidrs")

    def __init__(self, room: Room) -> None:
        self.admitted = 0
        self.max_connections = UNLIMITED
        self.max_per_client = UNLIMITED
        self.pod_cidrs: tuple[str, ...] = ()
        self._beside = 0
        self._room = room
        self._clients: dict[str, int] = {}

    def admit(self, client: str) -> Refusal | None:
        """Take a connection of `client` (see `client_of`), or say why not. `leave` is for when it is over."""
        admitted = self.admitted
        clients = self._clients
        of_client = clients.get(client, 0)
        if of_client >= self.max_per_client:
            return Refusal.CLIENT_LIMIT
        if admitted >= self.max_connections:
            return Refusal.SERVICE_LIMIT
        room = self._room
        left = room.capacity - room.taken - TCP_DESCRIPTORS
        if left < 0 or admitted * TCP_DESCRIPTORS + self._beside > left * SHARE:
            return Refusal.NO_ROOM
        clients[client] = of_client + 1
        self.admitted = admitted + 1
        room.taken += TCP_DESCRIPTORS
        return None

    def take_beside(self) -> bool:
        """Take a descriptor more for a connection that tries several endpoints, if there is room by the same
        rule. `leave_beside` is for when it is over.
        """
        room = self._room
        left = room.capacity - room.taken - 1
        if left < 0 or self.admitted * TCP_DESCRIPTORS + self._beside > left * SHARE:
            return False
        self._beside += 1
        room.taken += 1
        return True

    def leave_beside(self) -> None:
        """One that `take_beside` took is free again."""
        self._beside -= 1
        self._room.taken -= 1

    def leave(self, client: str) -> None:
        """A connection of `client` that was taken is over."""
        self.admitted -= 1
        self._room.taken -= TCP_DESCRIPTORS
        clients = self._clients
        of_client = clients[client]
        if of_client == 1:
            del clients[client]
        else:
            clients[client] = of_client - 1
