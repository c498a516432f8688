"""Whose turn it is: one `LoadBalancer` for each Service port, shared by its listeners.

Theory of operation. A listener carries one class of traffic (a `TrafficPolicy`), and each class has the
endpoints that it may use. `RoundRobin` keeps the turn of one class. `ClientAffinity` remembers which endpoint
a client had; it belongs to the Service port, so a client that comes through another frontend, or on another
class of traffic, finds the same endpoint if that class may use it.

A connection asks `next_endpoint` once. If that endpoint fails, it says so with `release`, and asks
`another_endpoint` for one that it has not tried; that one takes its turn like any other, so a dead endpoint's
share is spread evenly over the living ones instead of falling to its neighbour. When one of several attempts
has won, `settle` makes the client's affinity agree with the outcome.

Time (seconds of any monotonic clock) and chance are arguments. Other ways to pick (least connections, Maglev)
would be further classes beside `RoundRobin` with its three methods.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from random import Random
from typing import Final

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.service_port import TrafficPolicy

MAX_AFFINE_CLIENTS: Final = 100_000
"""How many clients one Service port remembers; beyond that the least recently seen is forgotten."""


class RoundRobin:
    """Endpoints strictly in turn. The order is shuffled, so that nodes do not all start with the same one."""

    __slots__ = ("_next", "_order", "_random", "_usable")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._order: list[Endpoint] = []
        self._next = 0
        self._usable: frozenset[Endpoint] = frozenset()

    def __contains__(self, endpoint: Endpoint) -> bool:
        return endpoint in self._usable

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """Replace the endpoints. Those that stay keep their order and turn; new ones come after them."""
        waiting = self._order[self._next :] + self._order[: self._next]
        usable = frozenset(endpoints)
        new = sorted(usable - self._usable)  # a set's order is chance that is not ours
        self._random.shuffle(new)
        self._order = [endpoint for endpoint in waiting if endpoint in usable] + new
        self._next = 0
        self._usable = usable

    def pick(self, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint whose turn it is, and the turn moves on. Those in `tried` lose theirs to the next."""
        order = self._order
        turn = self._next
        for _ in order:
            endpoint = order[turn]
            turn = turn + 1 if turn + 1 < len(order) else 0
            if endpoint not in tried:
                self._next = turn
                return endpoint
        return None


class _Affine:
    __slots__ = ("endpoint", "last_seen")

    def __init__(self, endpoint: Endpoint, last_seen: float) -> None:
        self.endpoint = endpoint
        self.last_seen = last_seen


class ClientAffinity:
    """`sessionAffinity: ClientIP`: client address → endpoint, until the client was silent for the timeout.

    Kept in the order in which clients were last seen, which is also the order in which they expire. The
    timeout is applied when an entry is read, so a new one takes effect for every entry at once.
    """

    __slots__ = ("_clients", "_max_clients", "timeout_seconds")

    def __init__(self, timeout_seconds: float, max_clients: int) -> None:
        self.timeout_seconds = timeout_seconds
        self._max_clients = max_clients
        self._clients: OrderedDict[str, _Affine] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def endpoint_of(self, client: str, now: float) -> Endpoint | None:
        """The endpoint that `client` still has."""
        entry = self._clients.get(client)
        if entry is None or now - entry.last_seen >= self.timeout_seconds:
            return None
        return entry.endpoint

    def remember(self, client: str, endpoint: Endpoint, now: float) -> None:
        """`client` has `endpoint`, seen just now."""
        clients = self._clients
        entry = clients.get(client)
        if entry is not None:
            entry.endpoint = endpoint
            entry.last_seen = now
            clients.move_to_end(client)
            return
        clients[client] = _Affine(endpoint, now)
        if len(clients) > self._max_clients:
            clients.popitem(last=False)
        self._forget_expired(now)

    def forget(self, client: str, endpoint: Endpoint) -> None:
        """`client` no longer has `endpoint`; if it has another one by now, it keeps that."""
        entry = self._clients.get(client)
        if entry is not None and entry.endpoint == endpoint:
            del self._clients[client]

    def _forget_expired(self, now: float) -> None:
        # One client comes in, at most two go out: the work is bounded and the expired still run out.
        for _ in range(2):
            client, entry = next(iter(self._clients.items()))
            if now - entry.last_seen < self.timeout_seconds:
                return
            del self._clients[client]


class LoadBalancer:
    """Picks endpoints for the connections and flows of one Service port."""

    __slots__ = ("_affinity", "_max_affine_clients", "_random", "_turns")

    def __init__(self, random: Random, *, max_affine_clients: int = MAX_AFFINE_CLIENTS) -> None:
        self._random = random
        self._max_affine_clients = max_affine_clients
        self._turns: dict[TrafficPolicy, RoundRobin] = {}
        self._affinity: ClientAffinity | None = None

    def set_affinity(self, timeout_seconds: float | None) -> None:
        """Switch ClientIP affinity on, to another timeout, or (None) off, which forgets every client."""
        if timeout_seconds is None:
            self._affinity = None
        elif self._affinity is None:
            self._affinity = ClientAffinity(timeout_seconds, self._max_affine_clients)
        else:
            self._affinity.timeout_seconds = timeout_seconds

    def set_endpoints(self, policy: TrafficPolicy, endpoints: Iterable[Endpoint]) -> None:
        """Replace what this class of traffic may use."""
        turn = self._turns.get(policy)
        if turn is None:
            turn = self._turns[policy] = RoundRobin(self._random)
        turn.update(endpoints)

    def next_endpoint(self, policy: TrafficPolicy, client: str, now: float) -> Endpoint | None:
        """Where a new connection or flow of `client` (an IP address) goes; None if nothing is usable."""
        return self.another_endpoint(policy, client, now, ())

    def another_endpoint(
        self, policy: TrafficPolicy, client: str, now: float, tried: Collection[Endpoint]
    ) -> Endpoint | None:
        """The next one in turn that is not in `tried`; None if all usable ones are.

        Connections of one client that fail together stay together: the first takes the turn, the others
        find its choice as the client's new affinity.
        """
        turn = self._turns.get(policy)
        if turn is None:
            return None
        affinity = self._affinity
        if affinity is None:
            return turn.pick(tried)
        endpoint = affinity.endpoint_of(client, now)
        if endpoint is None or endpoint in tried or endpoint not in turn:
            endpoint = turn.pick(tried)
        if endpoint is not None:
            affinity.remember(client, endpoint, now)
        return endpoint

    def release(self, client: str, endpoint: Endpoint) -> None:
        """A connect of `client` to `endpoint` failed: it is bound to that endpoint no more."""
        if self._affinity is not None:
            self._affinity.forget(client, endpoint)

    def settle(self, client: str, endpoint: Endpoint, now: float) -> None:
        """`client` was connected to `endpoint` after several attempts; that is the one it has now."""
        if self._affinity is not None:
            self._affinity.remember(client, endpoint, now)
