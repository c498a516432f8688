"""Source hash: a client's address decides, alike on every node and after every restart.

Unlike ClientIP affinity nothing is remembered, so nothing runs out; but a client may move to another endpoint
when endpoints come or go: one in n of all clients for one of n endpoints.

Source: D. Karger et al., Consistent Hashing and Random Trees, STOC 1997.
"""

from __future__ import annotations

import struct
from bisect import bisect
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from random import Random
from typing import Final

from userspace_proxy.core.ejection import Ejections
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.pickers.picker import Load, Picker

POINTS: Final = 128
"""How often each endpoint stands on the ring: their shares of it then differ by some 9 % (1/sqrt(128))."""
_POINTS_PER_DIGEST: Final = 16


class SourceHash(Picker):
    """Each endpoint stands at many places of a ring; a client belongs to the first one from its own place on.

    If that one is left out, or was tried, the next one on the ring has the client meanwhile. The ring is made
    when it is asked for: some 50 µs for each endpoint.
    """

    __slots__ = ("_at", "_ring")

    def __init__(self, random: Random, ejections: Ejections, load: Load) -> None:
        super().__init__(random, ejections, load)
        self._ring: list[int] = []
        self._at: dict[int, Endpoint] = {}

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """Replace the endpoints. Clients of those that stay stay there, except a new one's share."""
        before = self._usable
        super().update(endpoints)
        if self._usable != before:
            self._ring = []

    def pick(self, client: str, tried: Collection[Endpoint], now: float) -> Endpoint | None:
        """The endpoint of `client`'s place on the ring, or the next one from there on."""
        return self._first(self._from(client), tried, now)

    def peek(self, client: str | None, now: float) -> tuple[Endpoint, ...]:
        """The same for a client; for somebody, any of those that are not left out."""
        if client is None:
            return self._any()
        self._make_ring()  # here, where it lasts
        return super().peek(client, now)

    def _make_ring(self) -> None:
        if not self._ring:
            self._at = {point: endpoint for endpoint in sorted(self._usable) for point in _points(endpoint)}
            self._ring = sorted(self._at)

    def _from(self, client: str) -> Iterator[Endpoint]:
        self._make_ring()
        ring = self._ring
        start = bisect(ring, _place(client))
        seen: set[Endpoint] = set()
        for step in range(len(ring)):
            endpoint = self._at[ring[(start + step) % len(ring)]]
            if endpoint in seen:
                continue
            yield endpoint
            seen.add(endpoint)
            if len(seen) == len(self._usable):
                return


def _place(client: str) -> int:
    return int.from_bytes(blake2b(client.encode(), digest_size=4).digest(), "little")


def _points(endpoint: Endpoint) -> Iterator[int]:
    name = str(endpoint).encode()
    for number in range(POINTS // _POINTS_PER_DIGEST):
        yield from struct.unpack("<16I", blake2b(name, salt=struct.pack("<Q", number)).digest())
