"""Random: each connection for itself, as kube-proxy's iptables and nftables modes do."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.pickers.picker import Picker


class RandomChoice(Picker):
    """Every endpoint is as likely as every other one, whoever came before."""

    __slots__ = ()

    def pick(self, client: str, tried: Collection[Endpoint], now: float) -> Endpoint | None:
        """Any of those that it has not `tried`."""
        return self._first(self._drawn(), tried, now)

    def peek(self, client: str | None, now: float) -> tuple[Endpoint, ...]:
        """Any of those that are not left out; the probe of one that is may come in between."""
        return self._any()

    def _drawn(self) -> Iterator[Endpoint]:
        """All of them, in an order of chance that is made as far as somebody asks (Fisher and Yates)."""
        order = self._order
        for done in range(len(order)):
            drawn = done + int(self._random.random() * (len(order) - done))
            order[done], order[drawn] = order[drawn], order[done]
            yield order[done]
