"""Bytes both ways between a client and its endpoint, until both streams have ended or one side is reset.

Small messages are copied through one buffer that the whole worker shares; a half that fills it twice in a row
is bulk and borrows a pipe while it has bytes to move, so that these never leave the kernel (`splice`). What a
half may do next is `core.relay_state`'s to say.

Both sockets are registered once, edge-triggered for both directions. The rules that follow from that:

- `readable` says that an edge was seen and the source not yet drained. It outlives a blocked sink: the edge
  will not come again, so the half goes on from `readable` when the sink has room.
- A short read means drained, and saves the read that would say EAGAIN. If the source had ended before the
  event came, it is the end as well, which then goes in one packet with the last bytes. After a failure the
  error is still to be read, and where TCP's urgent data came nothing is sure: reads stop short at its mark,
  and splice(2) there takes it for nothing, or for the end.
- A share of the loop bounds what a half moves at a time; the rest waits in the loop's own queue.

A source that was reset may still hold bytes that came before the reset, and the other side would have had
them without a proxy: they are passed on first, as far as the sink takes them at once.

This file is longer than others because a half's two ways to move bytes, and what it does when they stop, lean
on the same few facts; in two files each would have to tell them to the other.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Collection, Mapping, Set
from typing import Final

from userspace_proxy.core.admission import Admission
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.relay_state import Half, HalfEvent, HalfState, RelayPhase, RelayState
from userspace_proxy.core.traffic_counters import EndpointCounters, ServicePortCounters
from userspace_proxy.dataplane.peer_watch import NO_TIMEOUTS, PeerWatch, TcpTimeouts
from userspace_proxy.dataplane.poller import (
    FAILED,
    HUNG_UP,
    PEER_CLOSED,
    READABLE,
    URGENT,
    WRITABLE,
    Callback,
    Poller,
    Socket,
)
from userspace_proxy.dataplane.splice import Pipe, PipePool
from userspace_proxy.dataplane.tcp_options import arm_reset

BUFFER_BYTES: Final = 1 << 16
SHARE_BYTES: Final = 2 << 20
"""What a half moves before the others have their turn: about a millisecond's work."""

_FULL_READS_OF_BULK: Final = 2
_SOURCE_EVENTS: Final = READABLE | URGENT | PEER_CLOSED | HUNG_UP | FAILED
_ENDING_EVENTS: Final = PEER_CLOSED | HUNG_UP | FAILED
_RARE_EVENTS: Final = _SOURCE_EVENTS & ~READABLE
_NO_ENDPOINTS: Final[frozenset[Endpoint]] = frozenset()
_ENDED: Final = (RelayPhase.CLOSED, RelayPhase.RESET)


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
        self.pipes = pipes
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self._relays: set[_TcpRelay] = set()
        self.watch = PeerWatch(loop, self._relays, timeouts)

    def __len__(self) -> int:
        return len(self._relays)

    def start(
        self,
        client: Socket,
        endpoint: Socket,
        leads_to: Endpoint,
        counters: ServicePortCounters,
        admission: Admission,
        counted_as: str,
        client_events: int | None,
        endpoint_events: int,
    ) -> None:
        """Relay between two connected sockets. The endpoint is registered with the poller.

        `admission` has taken a connection that counts as `counted_as`, and is told when it is over.

        The events are those that the poller has reported of them and nobody has acted on; of the client None
        if it is not registered yet.
        """
        relay = _TcpRelay(self, client, endpoint, leads_to, counters, admission, counted_as)
        self._relays.add(relay)
        if not self.watch.is_running:
            self.watch.begin()
        request, response = relay.request, relay.response
        self.poller.rebind(endpoint.fileno(), response.on_event)
        # The client most likely spoke first, and then no event is to come.
        request.on_event((client_events or 0) | READABLE)
        if relay.state.phase in _ENDED:
            return
        if client_events is not None:
            self.poller.rebind(client.fileno(), request.on_event)
        elif not self._watch(client, request.on_event):
            relay.reset()
            return
        response.on_event(endpoint_events)

    def _watch(self, client: Socket, callback: Callback) -> bool:
        try:
            self.poller.register(client.fileno(), callback)
        except OSError:  # ENOMEM, ENOSPC: no room for one more registration
            return False
        return True

    def discard(self, relay: _TcpRelay) -> None:
        """`relay` is over."""
        self._relays.discard(relay)

    def close(self) -> None:
        """Reset every connection and close the pipes."""
        for relay in tuple(self._relays):
            relay.reset()
        self.watch.close()
        self.pipes.close()

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
    ) -> None:
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
        self.request = _HalfRelay(self, relays, traffic, Half.REQUEST, client, endpoint)
        self.response = _HalfRelay(self, relays, traffic, Half.RESPONSE, endpoint, client)
        self.request.opposite = self.response
        self.response.opposite = self.request
        counters.opened += 1
        counters.active += 1
        traffic.opened += 1
        traffic.active += 1

    @property
    def sockets(self) -> tuple[Socket, Socket]:
        return self._client, self._endpoint

    def close(self) -> None:
        """Both streams have ended."""
        self._leave()

    def reset(self) -> None:
        """One side was reset, or is to be: both are."""
        self.state.reset()
        arm_reset(self._client)
        arm_reset(self._endpoint)
        self._leave()

    def _leave(self) -> None:
        self.request.leave()
        self.response.leave()
        del self.request, self.response
        self._relays.discard(self)
        self._relays.poller.retire(self._client)
        self._relays.poller.retire(self._endpoint)
        self._admission.leave(self._counted_as)
        self.counters.active -= 1
        self._traffic.active -= 1


class _HalfRelay:
    """One direction: from `source` to `sink`. At most one of `remainder` and the pipe holds bytes.

    `opposite` is the other direction, whose sink is this one's source.
    """

    __slots__ = (
        "_counters",
        "_half",
        "_has_ended",
        "_is_bulk",
        "_is_ending",
        "_is_request",
        "_is_urgent",
        "_pipe",
        "_readable",
        "_relay",
        "_relays",
        "_remainder",
        "_sink",
        "_source",
        "opposite",
        "state",
    )

    opposite: _HalfRelay

    def __init__(
        self,
        relay: _TcpRelay,
        relays: TcpRelays,
        traffic: EndpointCounters,
        half: Half,
        source: Socket,
        sink: Socket,
    ) -> None:
        self._relay = relay
        self._relays = relays
        self._counters = traffic
        self._half = half
        self._is_request = half is Half.REQUEST
        self._source = source
        self._sink = sink
        self._readable = False
        self._is_ending = False
        self._has_ended = False
        self._is_bulk = False
        self._is_urgent = False
        self._remainder = b""
        self._pipe: Pipe | None = None
        self.state = HalfState.FLOWING

    def on_event(self, events: int) -> None:
        """Something happened to the source, which is the opposite half's sink."""
        if events & WRITABLE and self.opposite.state is HalfState.BLOCKED:
            self.opposite.flush()
        if not events & _SOURCE_EVENTS:
            return
        self._readable = True
        if events & _RARE_EVENTS:
            self._take_note(events)
        if self.state is HalfState.FLOWING:
            if self._is_bulk or self._is_urgent:
                self._pump()
            else:
                self._copy()
        if events & FAILED and self._relay.state.phase not in _ENDED:
            self._relay.reset()

    def _take_note(self, events: int) -> None:
        if events & _ENDING_EVENTS:
            self._is_ending = True
            self._has_ended = not events & FAILED and bool(events & PEER_CLOSED)
        if events & URGENT:
            self._is_urgent = True

    def flush(self) -> None:
        """The sink has room, and this half is BLOCKED."""
        if self._remainder:
            try:
                sent = self._sink.send(self._remainder)
            except BlockingIOError:
                return
            except OSError:
                self._relay.reset()
                return
            self._count(sent)
            self._remainder = self._remainder[sent:]
            if self._remainder:
                return
        elif self._pipe is not None and not self._drain(self._pipe):
            return
        self._move(HalfEvent.SINK_FLUSHED)
        if self._readable:
            self._pump()

    def take_turn(self) -> None:
        """The others had theirs since this half spent its share."""
        if self.state is HalfState.QUEUED:
            self._move(HalfEvent.TURN_CAME)
            self._pump()

    def leave(self) -> None:
        """The relay is over: give back what is borrowed; turns that still come do nothing."""
        self.state = HalfState.CLOSED
        del self.opposite  # without that circle the relay is gone at once, and gc has nothing to find
        self._remainder = b""
        self._give_pipe_back()

    def _pump(self) -> None:
        if self._is_urgent:
            self._give_pipe_back()
        elif self._is_bulk and self._pipe is None:
            self._pipe = self._relays.pipes.take()
            self._is_bulk = self._pipe is not None
        if self._pipe is None:
            self._copy()
        else:
            self._splice(self._pipe)

    def _copy(self) -> None:
        buffer = self._relays.buffer
        source, sink = self._source, self._sink
        full_reads = 0
        while True:
            try:
                received = source.recv_into(buffer)
            except BlockingIOError:
                self._readable = False
                return
            except OSError:
                self._relay.reset()
                return
            if not received:
                self._end()
                return
            if self._has_ended and received < BUFFER_BYTES and not self._is_urgent:
                self._pass_on_last(buffer[:received])
                return
            try:
                sent = sink.send(buffer[:received])
            except BlockingIOError:
                sent = 0
            except OSError:
                self._relay.reset()
                return
            if self._is_request:
                self._counters.bytes_in += sent
            else:
                self._counters.bytes_out += sent
            if sent < received:
                self._remainder = bytes(buffer[sent:received])
                self._move(HalfEvent.SINK_FILLED)
                return
            if received < BUFFER_BYTES:
                if not (self._is_ending or self._is_urgent):
                    self._readable = False
                    return
                continue
            full_reads += 1
            if full_reads == _FULL_READS_OF_BULK and not self._is_urgent:
                self._pipe = self._relays.pipes.take()
                if self._pipe is not None:
                    self._is_bulk = True
                    self._splice(self._pipe)
                    return
            if full_reads * BUFFER_BYTES >= SHARE_BYTES:
                self._queue()
                return

    def _pass_on_last(self, chunk: memoryview) -> None:
        """The source has ended and this is all that was left: let the end go in one packet with it."""
        try:
            sent = self._sink.send(chunk, socket.MSG_MORE)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._relay.reset()
            return
        self._count(sent)
        if sent < len(chunk):
            self._remainder = bytes(chunk[sent:])
            self._move(HalfEvent.SINK_FILLED)
        else:
            self._end()

    def _splice(self, pipe: Pipe) -> None:
        source_fd = self._source.fileno()
        moved = 0
        while moved < SHARE_BYTES:
            try:
                received = pipe.fill(source_fd)
            except BlockingIOError:
                self._readable = False
                self._is_bulk = moved >= BUFFER_BYTES
                self._give_pipe_back()  # others may need it before this half has bytes again
                self._relays.poller.let_pile_up()
                return
            except OSError:
                self._relay.reset()
                return
            if not received:
                self._give_pipe_back()
                self._copy()  # is it the end, or urgent data before more? A read tells.
                return
            if not self._drain(pipe):
                if self.state is HalfState.FLOWING:  # else it was reset
                    self._move(HalfEvent.SINK_FILLED)
                self._relays.poller.let_pile_up()
                return
            moved += received
        self._queue()

    def _drain(self, pipe: Pipe) -> bool:
        """Empty the pipe into the sink: False if the sink is full first, or gone (then so is the relay)."""
        sink_fd = self._sink.fileno()
        try:
            while pipe.level:
                self._count(pipe.drain(sink_fd))
        except BlockingIOError:
            return False
        except OSError:
            self._relay.reset()
            return False
        return True

    def _queue(self) -> None:
        self._move(HalfEvent.SHARE_SPENT)
        self._relays.poller.soon(self.take_turn)

    def _end(self) -> None:
        """The source's stream has ended and all of it was passed on: pass on the end."""
        self._move(HalfEvent.SOURCE_ENDED)
        self._give_pipe_back()
        if self._relay.state.phase is RelayPhase.CLOSED:
            self._relay.close()  # which tells the sink, too
            return
        try:
            self._sink.shutdown(socket.SHUT_WR)
        except OSError:  # ENOTCONN: the sink was reset meanwhile
            self._relay.reset()

    def _count(self, passed_on: int) -> None:
        if self._is_request:
            self._counters.bytes_in += passed_on
        else:
            self._counters.bytes_out += passed_on

    def _move(self, event: HalfEvent) -> None:
        self.state = self._relay.state.move(self._half, event)

    def _give_pipe_back(self) -> None:
        if self._pipe is not None:
            self._relays.pipes.give_back(self._pipe)
            self._pipe = None
