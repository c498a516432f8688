"""Whose turn it is: one `LoadBalancer` for each Service port, shared by its listeners.

Theory of operation. A listener carries one class of traffic (a `TrafficPolicy`), and each class has the
endpoints that it may use. A `Picker` chooses for one class, in turn unless the Service wants it otherwise.
`ClientAffinity` remembers which endpoint a client had; it belongs to the Service port, so a client that comes
through another frontend, or on another class of traffic, finds the same endpoint if that class may use it.

A connection asks `next_endpoint` once. If that endpoint fails, it says so with `failed`, and asks
`another_endpoint` for one that it has not tried; that one takes its turn like any other, so a dead endpoint's
share is spread evenly over the living ones instead of falling to its neighbour. When one of several attempts
has won, `settle` makes the client's affinity agree with the outcome. `succeeded` need be called only while
there are suspects.

An endpoint that keeps failing is left out for a while, in turn and by affinity (`ejection`). As a last resort
it is tried still, where every other one was tried: no connection fails while one endpoint lives.

Time (seconds of any monotonic clock), chance, and what endpoints have to do already are arguments.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from random import Random
from typing import Final, TypeAlias

from userspace_proxy.core.balancing import Balancing
from userspace_proxy.core.ejection import Ejections
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.pickers import PICKERS
from userspace_proxy.core.pickers.picker import Load, Picker
from userspace_proxy.core.service_port import TrafficPolicy

MAX_AFFINE_CLIENTS: Final = 100_000
"""How many clients one Service port remembers; beyond that the least recently seen is forgotten."""

EjectionChanged: TypeAlias = Callable[[Endpoint, float | None], None]
"""Told which endpoint is left out from now on, and for how many seconds; None: it is used again."""


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

    def clients(self, now: float, start: int, stop: int | None) -> list[tuple[str, Endpoint, float]]:
        """Those that are remembered, the longest silent first: address, endpoint, seconds of silence."""
        clients = islice(self._clients.items(), start, stop)
        return [(client, entry.endpoint, now - entry.last_seen) for client, entry in clients]

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

    __slots__ = (
        "_affinity",
        "_balancing",
        "_ejection_changed",
        "_load",
        "_max_affine_clients",
        "_random",
        "_turns",
        "ejections",
    )

    def __init__(
        self,
        random: Random,
        ejection_changed: EjectionChanged = lambda _endpoint, _seconds: None,
        *,
        load: Load = lambda _endpoint: 0,
        max_affine_clients: int = MAX_AFFINE_CLIENTS,
    ) -> None:
        self.ejections = Ejections()
        self._ejection_changed = ejection_changed
        self._load = load
        self._random = random
        self._max_affine_clients = max_affine_clients
        self._balancing = Balancing.ROUND_ROBIN
        self._turns: dict[TrafficPolicy, Picker] = {}
        self._affinity: ClientAffinity | None = None

    def set_balancing(self, balancing: Balancing) -> None:
        """Choose endpoints in this way from now on."""
        if balancing == self._balancing:
            return
        self._balancing = balancing
        for policy, before in self._turns.items():
            self._turns[policy] = self._picker()
            self._turns[policy].update(before)

    def _picker(self) -> Picker:
        return PICKERS[self._balancing](self._random, self.ejections, self._load)

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
            turn = self._turns[policy] = self._picker()
        before = self.ejected
        turn.update(endpoints)
        self._forget_unusable(before)

    def keep_classes(self, policies: Collection[TrafficPolicy]) -> None:
        """There is no other traffic any more. Who of another class is on the way still goes where these go;
        so without any, all stays as it is.
        """
        gone = [policy for policy in self._turns if policy not in policies]
        if len(gone) in (0, len(self._turns)):
            return
        before = self.ejected
        for policy in gone:
            del self._turns[policy]
        self._forget_unusable(before)

    def _forget_unusable(self, before: frozenset[Endpoint]) -> None:
        if self.ejections.suspects:
            usable = {each for turn in self._turns.values() for each in turn}
            self.ejections.forget_all_but(usable)
            self._leave_out(before & usable)

    @property
    def left_out(self) -> frozenset[Endpoint]:
        """The endpoints that some class of traffic leaves out now."""
        return frozenset().union(*(turn.left_out for turn in self._turns.values()))

    @property
    def ejected(self) -> frozenset[Endpoint]:
        """Those of them that are left out because they keep failing, and not by an operator's will."""
        return self.left_out - self.ejections.taken_out

    def take_out(self, endpoints: frozenset[Endpoint]) -> None:
        """Leave exactly these out by an operator's will."""
        self.ejections.taken_out = endpoints
        for turn in self._turns.values():
            turn.leave_out()

    def usable(self, policy: TrafficPolicy) -> Iterable[Endpoint]:
        """The endpoints of a class of traffic."""
        return self._turns.get(policy, ())

    def leaves_out(self, policy: TrafficPolicy, endpoint: Endpoint) -> bool:
        """Whether a class of traffic leaves `endpoint` out now."""
        return policy in self._turns and endpoint in self._turns[policy].left_out

    def has_other(self, policy: TrafficPolicy, endpoint: Endpoint) -> bool:
        """Whether a class of traffic has an endpoint to go to instead of `endpoint`."""
        return policy in self._turns and self._turns[policy].has_other(endpoint)

    def peek(self, policy: TrafficPolicy, client: str | None, now: float) -> tuple[Endpoint, ...]:
        """Where `next_endpoint` would have `client` (None: somebody new) go, which changes nothing.

        Several: to any of these. Empty: nothing is usable.
        """
        turn = self._turns.get(policy) or next(iter(self._turns.values()), None)
        if turn is None:
            return ()
        if self._affinity is not None and client is not None:
            endpoint = self._affinity.endpoint_of(client, now)
            if endpoint is not None and turn.twin().takes(endpoint, now):
                return (endpoint,)
        return turn.peek(client, now)

    def bound_endpoint(self, client: str, now: float) -> Endpoint | None:
        """The endpoint that `client` has by affinity, whether or not it may go there now."""
        return None if self._affinity is None else self._affinity.endpoint_of(client, now)

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
        turn = self._turns.get(policy) or next(iter(self._turns.values()), None)
        if turn is None:
            return None
        affinity = self._affinity
        if affinity is None:
            return turn.pick(client, tried, now)
        endpoint = affinity.endpoint_of(client, now)
        if endpoint is None or endpoint in tried or not turn.takes(endpoint, now):
            endpoint = turn.pick(client, tried, now)
        if endpoint is not None:
            affinity.remember(client, endpoint, now)
        return endpoint

    def failed(self, client: str, endpoint: Endpoint, now: float) -> None:
        """A connect of `client` to `endpoint` failed: the client is bound to it no more."""
        if self._affinity is not None:
            self._affinity.forget(client, endpoint)
        if self.ejections.failed(endpoint, now, self._random.random()):
            self._leave_out(frozenset())
            if endpoint in self.ejected:
                self._ejection_changed(endpoint, self.ejections.seconds_of(endpoint))

    def succeeded(self, endpoint: Endpoint) -> None:
        """A connect to `endpoint` succeeded, or it answered."""
        if endpoint not in self.ejections.suspects:
            return
        before = self.ejected
        if self.ejections.succeeded(endpoint):
            self._leave_out(before)

    def affine_clients(
        self, now: float, start: int = 0, stop: int | None = None
    ) -> list[tuple[str, Endpoint, float]]:
        """Who is bound to which endpoint, and for how many seconds nothing has come from them.

        From number `start` on, without number `stop`, in an order that stays as long as nobody comes.
        """
        return [] if self._affinity is None else self._affinity.clients(now, start, stop)

    def settle(self, client: str, endpoint: Endpoint, now: float) -> None:
        """`client` was connected to `endpoint` after several attempts; that is the one it has now."""
        if self._affinity is not None:
            self._affinity.remember(client, endpoint, now)

    def _leave_out(self, before: frozenset[Endpoint]) -> None:
        """Follow a change of the ejections, and say which of those ejected `before` are used again."""
        for turn in self._turns.values():
            turn.leave_out()
        for endpoint in sorted(before - self.ejected):
            self._ejection_changed(endpoint, None)
