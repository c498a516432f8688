"""What a Service port has carried, as plain numbers: a worker adds to them, an agent reads and sums them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable
from typing import Final, TypeAlias

import msgspec

CONNECT_BOUNDS_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From a connect inside a node to the 30 s after which a client is given up."""

EndpointKey: TypeAlias = tuple[str, int]


class EndpointCounters(msgspec.Struct, array_like=True, gc=False):
    """What one endpoint of a Service port has carried: connections or flows, and bytes as clients see them.

    `failed` attempts were refused there; `ejections` is how often it was left out for failing.
    """

    opened: int = 0
    active: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    failed: int = 0
    ejections: int = 0


class ServicePortCounters(msgspec.Struct, array_like=True):
    """What one Service port has carried since its worker took it over.

    TCP connections, or UDP flows: `opened` to an endpoint in all, `failed` for want of one that answers,
    `retried` connect attempts beyond the first, `active` now. Those that `refused_*` counts were reset at
    once, because there were as many as there may be of one client, of the Service port or of the worker;
    `removed` ones later on, because their endpoint had been removed; `evicted` flows ended early to make room
    for others. `ejections` is how often an endpoint was left out for failing, `ejected` how many are left out
    now. `connects` counts TCP connections by how long it took from the client's arrival to an endpoint's
    answer, by CONNECT_BOUNDS_SECONDS; `connect_seconds` is the sum.

    Bytes are counted at `endpoints`, of which those are here that were ever used; when one has left the
    Service its bytes are kept in `departed_bytes_*`.
    """

    opened: int = 0
    failed: int = 0
    retried: int = 0
    active: int = 0
    departed_bytes_in: int = 0
    departed_bytes_out: int = 0
    refused_client_limit: int = 0
    refused_service_limit: int = 0
    refused_no_room: int = 0
    evicted: int = 0
    removed: int = 0
    ejections: int = 0
    ejected: int = 0
    connect_seconds: float = 0.0
    connects: list[int] = msgspec.field(default_factory=lambda: [0] * (len(CONNECT_BOUNDS_SECONDS) + 1))
    endpoints: dict[EndpointKey, EndpointCounters] = msgspec.field(default_factory=dict)

    @property
    def refused(self) -> int:
        return self.refused_client_limit + self.refused_service_limit + self.refused_no_room

    @property
    def bytes_in(self) -> int:
        return self.departed_bytes_in + sum(each.bytes_in for each in self.endpoints.values())

    @property
    def bytes_out(self) -> int:
        return self.departed_bytes_out + sum(each.bytes_out for each in self.endpoints.values())

    def at(self, address: str, port: int) -> EndpointCounters:
        """The counters of one endpoint."""
        key = (address, port)
        counters = self.endpoints.get(key)
        if counters is None:
            counters = self.endpoints[key] = EndpointCounters()
        return counters

    def active_at(self, address: str, port: int) -> int:
        """How many connections or flows one endpoint has."""
        counters = self.endpoints.get((address, port))
        return 0 if counters is None else counters.active

    def connected(self, seconds: float) -> None:
        """An endpoint has answered so long after the client came."""
        self.connects[bisect_left(CONNECT_BOUNDS_SECONDS, seconds)] += 1
        self.connect_seconds += seconds

    def forget_departed(self, listed: Collection[EndpointKey]) -> None:
        """Keep endpoints that are `listed` or still in use; of others the bytes alone."""
        gone = [key for key, each in self.endpoints.items() if not each.active and key not in listed]
        for key in gone:
            departed = self.endpoints.pop(key)
            self.departed_bytes_in += departed.bytes_in
            self.departed_bytes_out += departed.bytes_out


_SUMMED: Final = tuple(
    name for name in ServicePortCounters.__struct_fields__ if name not in ("connects", "endpoints")
)


def summed(parts: Iterable[ServicePortCounters]) -> ServicePortCounters:
    """What several workers have carried together."""
    total = ServicePortCounters()
    for part in parts:
        for name in _SUMMED:
            setattr(total, name, getattr(total, name) + getattr(part, name))
        total.connects = [mine + its for mine, its in zip(total.connects, part.connects, strict=True)]
        for key, carried in part.endpoints.items():
            there = total.at(*key)
            for name in EndpointCounters.__struct_fields__:
                setattr(there, name, getattr(there, name) + getattr(carried, name))
    return total
