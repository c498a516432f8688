"""Round robin: strictly in turn."""

from __future__ import annotations

from collections.abc import Collection

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.pickers.picker import Picker


class RoundRobin(Picker):
    """Each endpoint once, then each once again. What one cannot have goes to the next, and turns move on."""

    __slots__ = ()

    def pick(self, client: str, tried: Collection[Endpoint], now: float) -> Endpoint | None:
        """The endpoint whose turn it is. Those in `tried`, or left out, lose theirs to the next."""
        order = self._order
        left_out = self.left_out
        turn = self._next
        last_resort = None
        for _ in order:
            endpoint = order[turn]
            turn = turn + 1 if turn + 1 < len(order) else 0
            if endpoint in tried:
                continue
            if left_out and endpoint in left_out and not self._ejections.probe(endpoint, now):
                last_resort = last_resort or (endpoint, turn)
                continue
            self._next = turn
            return endpoint
        if last_resort is None:
            return None
        endpoint, self._next = last_resort
        return endpoint
