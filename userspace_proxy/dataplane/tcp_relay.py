"""The established connections of a worker: each a client and its endpoint, with bytes both ways between them,
until both streams have ended or one side is reset.

`tcp_half_relay` moves the bytes, a half in each direction; this file has what concerns the whole connection:
how it begins and ends, and who is told. Both sockets are registered once, edge-triggered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Set
from typing import Final

from userspace_proxy.core.admission import Admission
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import ConnectionState, state_of
from userspace_proxy.core.relay_state import Half, RelayPhase, RelayState
from userspace_proxy.core.traffic_counters import EndpointKey, ServicePortCounters
from userspace_proxy.dataplane.peer_watch import NO_TIMEOUTS, PeerWatch, TcpTimeouts
from userspace_proxy.dataplane.poller import EDGE_IN, READABLE, Callback, Poller, Socket
from userspace_proxy.dataplane.splice import PipePool
from userspace_proxy.dataplane.tcp_half_relay import HalfRelay, SharedMeans
from userspace_proxy.dataplane.tcp_options import acknowledge, arm_reset

_REQUEST: Final = Half.REQUEST
_RESPONSE: Final = Half.RESPONSE
_CLOSED: Final = RelayPhase.CLOSED
_RESET: Final = RelayPhase.RESET
_NO_ENDPOINTS: Final[frozenset[Endpoint]] = frozenset()


class TcpRelays:
    """The relays of a worker, and what they share. Owns their sockets and pipes."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: Poller,
        pipes: PipePool,
        timeouts: TcpTimeouts = NO_TIMEOUTS,
    ) -> None:
        self.loop = loop
        self.poller = poller
        self.means = SharedMeans(poller, pipes)
        self._relays: dict[_TcpRelay, None] = {}  # as they came
        self.watch = PeerWatch(loop, self._relays, timeouts)

    def __len__(self) -> int:
        return len(self._relays)

    def __iter__(self) -> Iterator[_TcpRelay]:
        return iter(self._relays)

    def start(
        self,
        client: Socket,
        endpoint: Socket,
        leads_to: Endpoint,
        counters: ServicePortCounters,
        admission: Admission,
        counted_as: str,
        came_at: float,
        client_events: int | None,
        endpoint_events: int,
    ) -> None:
        """Relay between two connected sockets. The endpoint is registered with the poller.

        The client `came_at` a time of the loop's clock. `admission` has taken a connection that counts as
        `counted_as`, and is told when it is over.

        The events are those that the poller has reported of them and nobody has acted on; of the client None
        if it is not registered yet.
        """
        relay = _TcpRelay(self, client, endpoint, leads_to, counters, admission, counted_as, came_at)
        self._relays[relay] = None
        if not self.watch.is_running:
            self.watch.begin()
        request, response = relay.request, relay.response
        self.poller.rebind(endpoint.fileno(), response.on_event)
        # The client most likely spoke first, and then no event is to come.
        request.on_event((client_events or 0) | READABLE)
        if relay.state.phase in (_CLOSED, _RESET):
            return
        acknowledge(endpoint)
        if client_events is not None:
            self.poller.rebind(client.fileno(), request.on_event)
        elif not self._watch(client, request.on_event):
            relay.reset()
            return
        response.on_event(endpoint_events)

    def _watch(self, client: Socket, callback: Callback) -> bool:
        try:
            self.poller.register(client.fileno(), callback, EDGE_IN)
        except OSError:  # ENOMEM, ENOSPC: no room for one more registration
            return False
        return True

    def discard(self, relay: _TcpRelay) -> None:
        """`relay` is over."""
        self._relays.pop(relay, None)

    def close(self) -> None:
        """Reset every connection and close the pipes."""
        for relay in tuple(self._relays):
            relay.reset()
        self.watch.close()
        self.means.pipes.close()

    def endpoints_of(self, service_ports: Collection[int]) -> dict[int, set[Endpoint]]:
        """Where the connections of these Service ports lead, by the identity of their counters.

        Looks at every relay, and so does `reset_to`.
        """
        found: dict[int, set[Endpoint]] = {}
        for relay in self._relays:
            key = id(relay.counters)
            if key in service_ports:
                found.setdefault(key, set()).add(relay.leads_to)
        return found

    def reset_to(self, endpoints: Mapping[int, Set[Endpoint]]) -> Counter[int]:
        """Reset the Service ports' connections to these `endpoints`. Returns how many each had."""
        ending = [
            relay
            for relay in self._relays
            if relay.leads_to in endpoints.get(id(relay.counters), _NO_ENDPOINTS)
        ]
        for relay in ending:
            relay.reset()
        return Counter(id(relay.counters) for relay in ending)


class _TcpRelay:
    """One connection: two halves over two sockets."""

    __slots__ = (
        "_admission",
        "_client",
        "_counted_as",
        "_endpoint",
        "_relays",
        "_traffic",
        "came_at",
        "counters",
        "leads_to",
        "request",
        "response",
        "state",
        "timeouts",
    )

    def __init__(
        self,
        relays: TcpRelays,
        client: Socket,
        endpoint: Socket,
        leads_to: Endpoint,
        counters: ServicePortCounters,
        admission: Admission,
        counted_as: str,
        came_at: float,
    ) -> None:
        self.came_at = came_at
        self.leads_to = leads_to
        self.timeouts: TcpTimeouts | None = None
        self._relays = relays
        self._client = client
        self._endpoint = endpoint
        self._admission = admission
        self._counted_as = counted_as
        self.counters = counters
        self._traffic = traffic = counters.at(leads_to.address, leads_to.port)
        self.state = RelayState()
        means = relays.means
        self.request = request = HalfRelay(self, means, traffic, _REQUEST, client, endpoint)
        self.response = response = HalfRelay(self, means, traffic, _RESPONSE, endpoint, client)
        request.opposite = response
        response.opposite = request
        counters.opened += 1
        counters.active += 1
        traffic.opened += 1
        traffic.active += 1

    @property
    def sockets(self) -> tuple[Socket, Socket]:
        return self._client, self._endpoint

    @property
    def live_state(self) -> ConnectionState:
        return state_of(self.state)

    def client_address(self) -> EndpointKey:
        address, port = self._client.getpeername()[:2]
        return address, port

    def tcp_client(self) -> Socket:
        return self._client

    def close(self) -> None:
        """Both streams have ended, or one side was reset."""
        self.request.leave()
        self.response.leave()
        del self.request, self.response
        self._relays.discard(self)
        poller = self._relays.poller
        poller.retire(self._client)
        poller.retire(self._endpoint)
        self._admission.leave(self._counted_as)
        self.counters.active -= 1
        self._traffic.active -= 1

    def reset(self) -> None:
        """One side was reset, or is to be: both are."""
        self.state.reset()
        arm_reset(self._client)
        arm_reset(self._endpoint)
        self.close()
