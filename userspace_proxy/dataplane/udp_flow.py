"""One client's conversation over UDP.

A flow owns a socket that is connected to its endpoint, so that the kernel brings back what that endpoint
sends, and nobody else, and its ICMP errors. Answers leave through the listener's socket, from the address the
client knows.

An endpoint that is unreachable has failed the flow: the flow moves to another one, which gets the last
datagram that nobody has answered. Each endpoint is tried once for a datagram; then the flow is given up, and
the client's next datagram starts afresh. One that is silent while its client repeats itself may have failed
too (`core.udp_silence`). A flow whose endpoint is no longer listed moves when its client next sends; until
then late answers still pass.

A datagram that cannot be sent on at once (a full queue, no route back, a firewall) is dropped, as a router
would.

It is a long file for one class: whichever way a flow leaves its endpoint, by an error, by silence, or because
it is no longer listed, it goes on where the other ways do.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import ConnectionState
from userspace_proxy.core.load_balancer import LoadBalancer
from userspace_proxy.core.service_port import TrafficPolicy
from userspace_proxy.core.traffic_counters import EndpointCounters, EndpointKey, ServicePortCounters
from userspace_proxy.core.udp_silence import REPEAT_SECONDS, Answers, Silence, UdpSilence
from userspace_proxy.dataplane.poller import FAILED, READABLE, Poller, Socket
from userspace_proxy.dataplane.received_datagrams import BURST, Address
from userspace_proxy.dataplane.udp_flow_cap import CappedFlow, FlowShare

MAX_KEPT_DATAGRAM: Final = 2048
"""Bytes of the longest datagram that is kept to be sent again: an Ethernet frame's worth with room to spare.
With every flow unanswered that is 2 KiB a flow; a longer one is the client's to repeat."""

# linux/in.h and linux/in6.h; Python 3.11's socket module lacks them.
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25

_UNREACHABLE: Final = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})

FlowKey: TypeAlias = bytes
"""The client's socket address and the local address that it sends to, as they are in a record."""
Control: TypeAlias = tuple[int, int, bytes]


@dataclass(slots=True)
class ListenerFlows:
    """The flows of one listener, by the client's address and the local address it sends to, and what they
    share: where they come from, where they go, and how answers leave (`reply`, the listener's `sendmsg`).
    """

    poller: Poller
    loop: asyncio.AbstractEventLoop
    balancer: LoadBalancer
    policy: TrafficPolicy
    counters: ServicePortCounters
    share: FlowShare
    family: int
    reply: Callable[..., int]
    unanswered_seconds: float = 30.0
    answered_seconds: float = 120.0
    by_key: dict[FlowKey, UdpFlow] = field(default_factory=dict)
    silence: UdpSilence = field(default_factory=UdpSilence)


class UdpFlow(CappedFlow):
    """One client's conversation with one endpoint at a time, through a socket connected to it."""

    __slots__ = (
        "_answers",
        "_asked_at",
        "_client",
        "_judged_at",
        "_kept",
        "_key",
        "_listener",
        "_reply_control",
        "_sock",
        "_tried",
        "came_at",
        "endpoint",
        "endpoint_gone",
        "traffic",
    )

    _answers: Answers
    _judged_at: float
    _sock: Socket
    endpoint: Endpoint
    traffic: EndpointCounters

    def __init__(
        self,
        listener: ListenerFlows,
        key: FlowKey,
        client: Address,
        reply_control: tuple[Control],
        came_at: float,
    ) -> None:
        super().__init__()
        self.came_at = came_at
        self.endpoint_gone = False
        self._asked_at = 0.0  # when the client sent the first that is unanswered; 0: all are answered
        self._listener = listener
        self._key = key
        self._client = client
        self._reply_control = reply_control
        self._kept: bytes | None = None
        self._tried: set[Endpoint] | None = None

    @property
    def key(self) -> FlowKey:
        """Whose it is."""
        return self._key

    @property
    def client(self) -> Address:
        """The client's address."""
        return self._client

    @property
    def reply_control(self) -> tuple[Control]:
        """The ancillary data with which answers leave."""
        return self._reply_control

    @property
    def counters(self) -> ServicePortCounters:
        return self._listener.counters

    @property
    def leads_to(self) -> Endpoint:
        return self.endpoint

    @property
    def live_state(self) -> ConnectionState:
        return ConnectionState.ANSWERED if self.answered else ConnectionState.UNANSWERED

    def client_address(self) -> EndpointKey:
        """Raises OSError if the flow has ended."""
        if self._listener.by_key.get(self._key) is not self:
            raise OSError(errno.ENOTCONN, "the flow has ended")
        address, port = self._client[:2]
        return address, port

    def tcp_client(self) -> None:
        return None

    def is_waiting(self, since: float) -> bool:
        """Whether what its client asked then or later has no answer yet."""
        return self._asked_at >= since

    def connect(self, now: float) -> bool:
        """Take the next endpoint that has a route and was not tried; False, and counted, if there is none."""
        listener = self._listener
        balancer, client_ip = listener.balancer, self._client[0]
        while endpoint := balancer.another_endpoint(listener.policy, client_ip, now, self._tried or ()):
            if self._tried:
                listener.counters.retried += 1
            try:
                sock = self._open_socket(now)
            except OSError:
                break  # no descriptor or no memory to be had: not the endpoint's fault
            try:
                sock.connect((endpoint.address, endpoint.port))
            except BlockingIOError:
                # Every ephemeral port is taken, by flows most likely. The port of an evicted one is free
                # after this batch of events: in time for the client's next datagram, not for this one.
                listener.poller.retire(sock)
                listener.share.evict_any(now)
                break
            except OSError:
                listener.poller.retire(sock)
                self._failed_at(endpoint, now)
                continue
            self.endpoint = endpoint
            self.endpoint_gone = False
            self._answers = listener.silence.answers_of(endpoint)
            self._asked_at = 0.0
            self._sock = sock
            self._count_at(endpoint)
            listener.share.make_room(client_ip, now)
            listener.share.add(self, client_ip, listener.unanswered_seconds, now)
            return True
        listener.counters.failed += 1
        return False

    def resume(self, sock: Socket, endpoint: Endpoint, *, is_answered: bool, last_used: float) -> None:
        """Go on where another process left off, with its `sock`, which is connected to `endpoint`."""
        listener = self._listener
        self.endpoint = endpoint
        self._answers = listener.silence.answers_of(endpoint)
        self._sock = sock
        listener.poller.register(sock.fileno(), self._receive, READABLE)
        self._count_at(endpoint)
        listener.share.make_room(self._client[0], last_used)
        listener.share.add(self, self._client[0], listener.unanswered_seconds, last_used)
        if is_answered:
            listener.share.flows.answer(self, listener.answered_seconds, last_used)
            self._answers.last_at = max(self._answers.last_at, last_used)

    def detach(self) -> Socket:
        """End the flow here, and leave its socket to whoever resumes it."""
        self._listener.share.flows.remove(self)
        self.traffic.active -= 1
        self._forget()
        self._listener.poller.unregister(self._sock.fileno())
        return self._sock

    def forward(self, datagram: memoryview, now: float) -> None:
        """Send what the client sent to the endpoint, or to another one if the endpoint is gone."""
        if self.endpoint_gone:
            self._disconnect()
            if not self._reconnect(now):
                return
        if not self._asked_at:
            self._asked_at = self._judged_at = now
        elif now - self._judged_at >= REPEAT_SECONDS and not self._bear_silence(now):
            return
        while True:
            try:
                self._sock.send(datagram)
            except OSError as error:
                if error.errno in _UNREACHABLE:
                    # That was about an earlier datagram. This one has not been sent.
                    if self._endpoint_failed(now):
                        continue
                    return
            break
        if not self.answered:
            self._kept = bytes(datagram) if len(datagram) <= MAX_KEPT_DATAGRAM else None
            self._tried = None
        if self.last_used != now:
            self._listener.share.flows.use(self, now)

    def evict(self, now: float, *, at_once: bool = False) -> None:
        """End the flow, which is in the way of another one."""
        self.close(at_once=at_once)
        self._listener.share.evicted(now)

    def close(self, *, at_once: bool = False) -> None:
        """End the flow. `at_once` frees its descriptor's number even while events are being handed out."""
        self._disconnect(at_once=at_once)
        self._forget()

    def _receive(self, events: int) -> None:
        """The endpoint sent something, or an ICMP error came back.

        One datagram for an event: most flows have one at a time, and to ask for another costs more than the
        event that tells of it.
        """
        problem = self._pass_answer_on()
        if events & FAILED:
            problem = self._take_error() or problem
            for _ in range(BURST):
                if self._pass_answer_on():
                    break
        if problem and problem in _UNREACHABLE:
            self._endpoint_failed(self._listener.loop.time())

    def _pass_answer_on(self) -> int:
        """One datagram; if there is none, the error number that says so."""
        listener = self._listener
        share = listener.share
        buffer = share.buffer
        try:
            size = self._sock.recv_into(buffer)
        except OSError as error:
            return error.errno or errno.EIO
        try:
            sent = listener.reply((buffer[:size],), self._reply_control, 0, self._client)
            self.traffic.bytes_out += sent
        except OSError:
            pass  # dropped
        now = listener.loop.time()
        self._asked_at = 0.0
        self._answers.last_at = now
        if listener.balancer.ejections.suspects:
            listener.balancer.succeeded(self.endpoint)
        if not self.answered:
            share.flows.answer(self, listener.answered_seconds, now)
            self._kept = None
            self._tried = None
        elif self.last_used != now:
            share.flows.use(self, now)
        return 0

    def _endpoint_failed(self, now: float) -> bool:
        """Move to an endpoint that was not tried and send it what is unanswered; with none left, end."""
        self._disconnect()
        self._failed_at(self.endpoint, now)
        if not self._reconnect(now):
            return False
        if self._kept is not None:
            self._asked_at = self._judged_at = now
            with suppress(OSError):
                self._sock.send(self._kept)
        return True

    def _bear_silence(self, now: float) -> bool:
        """The client repeats itself. Move if that is the endpoint's fault; False if the flow has ended so."""
        listener, endpoint = self._listener, self.endpoint
        is_left_out = listener.balancer.leaves_out(listener.policy, endpoint)
        self._judged_at = now
        match listener.silence.judge(
            self._answers, self._asked_at, now, was_answered=self.answered, is_left_out=is_left_out
        ):
            case Silence.MEANS_NOTHING:
                return True
            case Silence.IS_OVER:
                self._asked_at = now
                return True
            case Silence.FAILED | Silence.MOVES as verdict:
                self._asked_at = now
                listener.balancer.failed(self._client[0], endpoint, now)
                if verdict is Silence.FAILED or not listener.balancer.has_other(listener.policy, endpoint):
                    return True
                self._disconnect()
                self._tried = {endpoint}
                return self._reconnect(now)

    def _failed_at(self, endpoint: Endpoint, now: float) -> None:
        if self._tried is None:
            self._tried = set()
        self._tried.add(endpoint)
        self._listener.balancer.failed(self._client[0], endpoint, now)

    def _reconnect(self, now: float) -> bool:
        if self.connect(now):
            return True
        self._forget()
        return False

    def _disconnect(self, *, at_once: bool = False) -> None:
        listener = self._listener
        listener.share.flows.remove(self)
        self.traffic.active -= 1
        if at_once:
            listener.poller.unregister(self._sock.fileno())
            self._sock.close()
        else:
            listener.poller.retire(self._sock)

    def _count_at(self, endpoint: Endpoint) -> None:
        self.traffic = traffic = self._listener.counters.at(endpoint.address, endpoint.port)
        traffic.opened += 1
        traffic.active += 1

    def _forget(self) -> None:
        del self._listener.by_key[self._key]
        self._listener.counters.active -= 1

    def _open_socket(self, now: float) -> Socket:
        try:
            sock = self._new_socket()
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            # The number that is freed is the only one there is, so that we get it: at worst an event of this
            # batch that was meant for the evicted flow finds nothing to read in ours.
            if not self._listener.share.evict_any(now, at_once=True):
                raise
            sock = self._new_socket()
        # Without RECVERR the kernel reports a closed port only, not a host or a network out of reach: udp(7).
        try:
            if self._listener.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            self._listener.poller.register(sock.fileno(), self._receive, READABLE)
        except OSError:
            sock.close()
            raise
        return sock

    def _new_socket(self) -> Socket:
        return Socket(self._listener.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def _take_error(self) -> int:
        """The pending error, if any, and the error queue emptied: epoll reports both until they are read."""
        problem = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        with suppress(BlockingIOError):
            while True:
                self._sock.recv(1, socket.MSG_ERRQUEUE)
        return problem
