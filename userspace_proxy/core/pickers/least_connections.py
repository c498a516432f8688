"""Least connections: whoever has the fewest, for connections that differ much in how long they last."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.pickers.picker import Picker

COMPARED: Final = 128
"""Among how many endpoints, from the turn on, the least loaded is looked for: a pick's cost is bounded."""


class LeastConnections(Picker):
    """The endpoint with the fewest connections of this Service port; in turn among those that have as few."""

    __slots__ = ()

    def pick(self, client: str, tried: Collection[Endpoint], now: float) -> Endpoint | None:
        """The least loaded of those that it has not `tried`; a probe that is due comes first."""
        order = self._order
        size = len(order)
        best = last_resort = -1
        fewest = 0
        for step in range(size):
            if step >= COMPARED and best >= 0:
                break
            place = (self._next + step) % size
            endpoint = order[place]
            if endpoint in tried:
                continue
            if endpoint in self.left_out:
                if self._ejections.probe(endpoint, now):
                    best = place
                    break
                if last_resort < 0:
                    last_resort = place
                continue
            load = self._load(endpoint)
            if best < 0 or load < fewest:
                best, fewest = place, load
                if not load:
                    break
        picked = best if best >= 0 else last_resort
        if picked < 0:
            return None
        self._next = (picked + 1) % size
        return order[picked]
