"""From an accepted client to an endpoint that answers: connection attempts, carried out.

`core.connect_attempts` decides whom to try and when; this file starts the attempts, hears how they end, and
hands the two sockets to the relay. While attempts are under way the client's bytes stay in its socket, its
half-close is kept for the relay, and its reset ends the attempts.

No client waits for another's connect: each attempt is a non-blocking connect(2) and an event. The passing of
time is told to all of them by one timer, which runs only while somebody is connecting.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final

from userspace_proxy.core import proxy_protocol
from userspace_proxy.core.admission import Admission, client_of
from userspace_proxy.core.connect_attempts import MAX_ATTEMPTS_BESIDE, ConnectAttempts, Decision, Verdict
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import ConnectionState
from userspace_proxy.core.load_balancer import LoadBalancer
from userspace_proxy.core.service_port import TrafficPolicy
from userspace_proxy.core.traffic_counters import EndpointKey, ServicePortCounters
from userspace_proxy.dataplane.limit_reports import LimitReports
from userspace_proxy.dataplane.poller import EDGE_IN, FAILED, HUNG_UP, WRITABLE, Poller, Socket
from userspace_proxy.dataplane.tcp_options import arm_reset, defer_acknowledgement, frontend_of
from userspace_proxy.dataplane.tcp_relay import TcpRelays

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.025
"""How coarse time is for connects: a wait of 250 ms ends after 250 to 275 ms."""

_SHORT_SECONDS: Final = 0.25
_SAY_AGAIN_SECONDS: Final = 30.0
_WAIT: Final = Verdict.WAIT
_GIVE_UP: Final = Verdict.GIVE_UP
_STREAM: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


@dataclass(frozen=True, slots=True)
class TcpRoute:
    """Which connections of a listener are taken, where they go, and who counts them.

    `family` is the endpoints'. With `sends_proxy_protocol` these are told of the client first.
    """

    admission: Admission
    balancer: LoadBalancer
    policy: TrafficPolicy
    family: socket.AddressFamily
    counters: ServicePortCounters
    reports: LimitReports
    sends_proxy_protocol: bool = False


class TcpConnects:
    """The connections of a worker that have no endpoint yet. Owns their sockets until they are relayed.

    `ran_short` is called, every 30 s at most, when descriptors or socket memory are used up.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        poller: Poller,
        relays: TcpRelays,
        ran_short: Callable[[], None] = lambda: None,
    ) -> None:
        self._ran_short = ran_short
        self.poller = poller
        self.relays = relays
        self.now = monotonic  # the loop's clock too, which may have but milliseconds
        self._loop = loop
        self._pending: dict[_TcpConnect, None] = {}  # as they came
        self._timer: asyncio.TimerHandle | None = None
        self._short_until = 0.0
        self._silent_until = 0.0
        self._ports_silent_until = 0.0

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[_TcpConnect]:
        return iter(self._pending)

    def start(self, client: Socket, client_address: str, route: TcpRoute) -> None:
        """Find an endpoint for `client`, an accepted non-blocking socket, and relay; or reset it at once, if
        there are as many connections as there may be.
        """
        counted_as = client_of(client_address, route.admission.pod_cidrs)
        if (refusal := route.admission.admit(counted_as)) is not None:
            arm_reset(client)
            client.close()
            route.reports.refused(counted_as, refusal, route.admission.admitted, self.now())
            return
        now = self.now()
        connect = _TcpConnect(self, client, client_address, counted_as, route, now)
        self._pending[connect] = None
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        connect.begin(now)

    @property
    def is_short_of_descriptors(self) -> bool:
        """Descriptors ran out a moment ago. Clients who are in already need them more than new ones do."""
        return self._short_until > 0.0 and self.now() < self._short_until

    def descriptors_ran_out(self) -> None:
        """Let no more clients in for a moment."""
        self._short_until = self.now() + _SHORT_SECONDS
        self.say_shortage()

    def say_shortage(self) -> None:
        """Tell the operator, not more often than every 30 s."""
        now = self.now()
        if now >= self._silent_until:
            self._silent_until = now + _SAY_AGAIN_SECONDS
            logger.warning(
                "Out of descriptors or socket memory, new connections wait: raise the limit of open files, "
                "or close idle connections"
            )
            self._ran_short()

    def say_no_source_port(self, endpoint: Endpoint) -> None:
        """Tell the operator, not more often than every 30 s."""
        now = self.now()
        if now >= self._ports_silent_until:
            self._ports_silent_until = now + _SAY_AGAIN_SECONDS
            logger.warning(
                "Out of source ports towards an endpoint, others are tried: endpoint=%s; "
                "widen net.ipv4.ip_local_port_range, set net.ipv4.tcp_tw_reuse=1, or add endpoints",
                endpoint,
            )

    def discard(self, connect: _TcpConnect) -> None:
        """`connect` is over, one way or the other."""
        self._pending.pop(connect, None)

    def leave_all_but(self, listed: Mapping[int, Collection[Endpoint]]) -> None:
        """Go on elsewhere with who is on the way to an endpoint that is not `listed`; Service ports by the
        identity of their counters.
        """
        for connect in tuple(self._pending):
            endpoints = listed.get(id(connect.route.counters))
            if endpoints is not None:
                connect.leave_all_but(endpoints)

    def close(self) -> None:
        """Reset every client that still waits."""
        for connect in tuple(self._pending):
            connect.abandon()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        now = self.now()
        try:
            for connect in tuple(self._pending):
                connect.time_passed(now)
        finally:
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick) if self._pending else None


class _TcpConnect:
    """One client on its way to an endpoint."""

    __slots__ = (
        "_attempts",
        "_client",
        "_client_events",
        "_connects",
        "_counted_as",
        "came_at",
        "route",
        "schedule",
    )

    def __init__(
        self,
        connects: TcpConnects,
        client: Socket,
        client_address: str,
        counted_as: str,
        route: TcpRoute,
        now: float,
    ) -> None:
        self._connects = connects
        self._client = client
        self._counted_as = counted_as
        self._client_events: int | None = None
        self.route = route
        self._attempts: list[_Attempt] = []
        self.came_at = now
        self.schedule = ConnectAttempts(route.balancer, route.policy, client_address, now)

    @property
    def counters(self) -> ServicePortCounters:
        return self.route.counters

    @property
    def leads_to(self) -> Endpoint | None:
        """Whom it has tried last."""
        return self._attempts[-1].endpoint if self._attempts else None

    @property
    def live_state(self) -> ConnectionState:
        return ConnectionState.CONNECTING

    def client_address(self) -> EndpointKey:
        address, port = self._client.getpeername()[:2]
        return address, port

    def tcp_client(self) -> Socket:
        return self._client

    def begin(self, now: float) -> None:
        self._carry_out(self.schedule.begin(now))

    def time_passed(self, now: float) -> None:
        if self._client_events is None:
            if now - self.came_at >= TICK_SECONDS:
                self._watch_client()
        elif self.schedule.due_at <= now:
            self._carry_out(self.schedule.waited(now))

    def _watch_client(self) -> None:
        """Notice from now on if the client goes. One whose endpoint answers at once need not be asked."""
        self._client_events = 0
        try:
            self._connects.poller.register(self._client.fileno(), self.on_client_event, EDGE_IN)
        except OSError:  # ENOMEM, ENOSPC: no room for one more registration
            self.route.counters.failed += 1
            self.abandon()

    def on_client_event(self, events: int) -> None:
        """Nothing is read before there is somewhere to put it; the relay will want to know what was there."""
        self._client_events = (self._client_events or 0) | events
        if events & (FAILED | HUNG_UP):
            self.abandon()

    def attempt_failed(self, attempt: _Attempt) -> None:
        self._attempts.remove(attempt)
        self._give_back_beside()
        self._connects.poller.retire(attempt.sock)
        self.route.counters.at(attempt.endpoint.address, attempt.endpoint.port).failed += 1
        self._carry_out(self.schedule.failed(attempt.endpoint, self._connects.now()))

    def attempt_succeeded(self, attempt: _Attempt, events: int) -> None:
        if self.route.sends_proxy_protocol and not self._tell_of_client(attempt.sock):
            self.attempt_failed(attempt)
            return
        connects = self._connects
        attempts = self._attempts
        attempts.remove(attempt)
        if attempts:
            self._give_back_beside()
            self._close_attempts()
        connects.discard(self)
        now = connects.now()
        self.schedule.succeeded(attempt.endpoint, now)
        self.route.counters.connected(now - self.came_at)
        connects.relays.start(
            self._client,
            attempt.sock,
            attempt.endpoint,
            self.route.counters,
            self.route.admission,
            self._counted_as,
            self.came_at,
            self._client_events,
            events,
        )

    def leave_all_but(self, listed: Collection[Endpoint]) -> None:
        """The Service has no other endpoints any more."""
        for attempt in [attempt for attempt in self._attempts if attempt.endpoint not in listed]:
            if attempt in self._attempts:  # else the client was given up meanwhile
                self._attempts.remove(attempt)
                self._give_back_beside()
                self._connects.poller.retire(attempt.sock)
                self._carry_out(self.schedule.left(attempt.endpoint, self._connects.now()))

    def _tell_of_client(self, endpoint: Socket) -> bool:
        """Whether there was somebody to tell; the header has room in an empty socket."""
        try:
            client = self._client.getpeername()[:2]
        except OSError:  # it has left, as the relay will see
            return True
        try:
            endpoint.send(proxy_protocol.header(client, frontend_of(self._client)))
        except OSError:
            return False
        return True

    def abandon(self) -> None:
        """Close the attempts and reset the client."""
        self._close_attempts()
        self._connects.discard(self)
        self.route.admission.leave(self._counted_as)
        arm_reset(self._client)
        self._connects.poller.retire(self._client)

    def _carry_out(self, decision: Decision) -> None:
        while isinstance(decision, Endpoint):
            decision = self._try(decision)
        if decision is _GIVE_UP:
            self.route.counters.failed += 1
            self.abandon()

    def _try(self, endpoint: Endpoint) -> Decision:
        connects = self._connects
        route = self.route
        attempts = self._attempts
        is_beside = bool(attempts)
        if is_beside and (len(attempts) == MAX_ATTEMPTS_BESIDE or not route.admission.take_beside()):
            oldest = attempts.pop(0)
            connects.poller.retire(oldest.sock)
            self.schedule.closed(oldest.endpoint)
        if self.schedule.made > 1:
            route.counters.retried += 1
        try:
            sock = Socket(route.family, _STREAM)
        except OSError:  # EMFILE, ENFILE, ENOBUFS
            self._give_back_beside()
            return self._postpone(endpoint)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            defer_acknowledgement(sock)
            error = sock.connect_ex((endpoint.address, endpoint.port))
            if error not in (0, errno.EINPROGRESS):  # ENETUNREACH …
                sock.close()
                self._give_back_beside()
                if error == errno.EADDRNOTAVAIL:
                    connects.say_no_source_port(endpoint)
                    return self.schedule.passed_over(endpoint, connects.now())
                return self.schedule.failed(endpoint, connects.now())
            attempt = _Attempt(self, endpoint, sock)
            connects.poller.register(sock.fileno(), attempt.on_event)
        except OSError:  # ENOMEM, ENOSPC
            sock.close()
            self._give_back_beside()
            return self._postpone(endpoint)
        attempts.append(attempt)
        return _WAIT

    def _postpone(self, endpoint: Endpoint) -> Verdict:
        self._connects.descriptors_ran_out()
        self.schedule.postponed(endpoint, self._connects.now())
        return _WAIT

    def _close_attempts(self) -> None:
        while self._attempts:
            self._connects.poller.retire(self._attempts.pop().sock)
            self._give_back_beside()

    def _give_back_beside(self) -> None:
        """There is one attempt less. All but one take room beside what the connection has."""
        if self._attempts:
            self.route.admission.leave_beside()


class _Attempt:
    """One connect(2) under way."""

    __slots__ = ("_connect", "endpoint", "sock")

    def __init__(self, connect: _TcpConnect, endpoint: Endpoint, sock: Socket) -> None:
        self._connect = connect
        self.endpoint = endpoint
        self.sock = sock

    def on_event(self, events: int) -> None:
        if events & (FAILED | HUNG_UP):
            self._connect.attempt_failed(self)
        elif events & WRITABLE:
            self._connect.attempt_succeeded(self, events)
