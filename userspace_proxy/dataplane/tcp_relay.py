"""Bytes both ways between a client and its endpoint, until both streams have ended or one side is reset.

Small messages are copied through one buffer that the whole worker shares; a half that fills it twice in a row
is bulk and borrows a pipe while it has bytes to move, so that these never leave the kernel (`splice`). What a
half may do next is `core.relay_state`'s to say.

Both sockets are registered once, edge-triggered for both directions. The rules that follow from that:

- `readable` says that an edge was seen and the source not yet drained. It outlives a blocked sink: the edge
  will not come again, so the half goes on from `readable` when the sink has room.
- A short read means drained, and saves the read that would say EAGAIN - unless the source is `ending`: then
  the end of the stream is still to be read, and nothing more will announce it. Nor does it where TCP's urgent
  data came: reads stop short at its mark, and splice(2) there takes it for nothing, or for the end.
- A share of the loop bounds what a half moves at a time; the rest waits in the loop's own queue.

A source that was reset may still hold bytes that came before the reset, and the other side would have had
them without a proxy: they are passed on first, as far as the sink takes them at once.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

from userspace_proxy.core.relay_state import Half, HalfEvent, HalfState, RelayPhase, RelayState
from userspace_proxy.dataplane.messages import ServicePortCounters
from userspace_proxy.dataplane.poller import FAILED, HUNG_UP, PEER_CLOSED, READABLE, URGENT, WRITABLE, Poller
from userspace_proxy.dataplane.splice import Pipe, PipePool

BUFFER_BYTES: Final = 1 << 16
SHARE_BYTES: Final = 2 << 20
"""What a half moves before the others have their turn: about a millisecond's work."""

_FULL_READS_OF_BULK: Final = 2
_SOURCE_EVENTS: Final = READABLE | URGENT | PEER_CLOSED | HUNG_UP | FAILED
_ENDING_EVENTS: Final = PEER_CLOSED | HUNG_UP | FAILED
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


def arm_reset(sock: socket.socket) -> None:
    """Let the close of `sock` be a reset, not an orderly end; SO_LINGER in socket(7)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


class TcpRelays:
    """The relays of a worker, and what they share. Owns their sockets and pipes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, pipes: PipePool) -> None:
        self.loop = loop
        self.poller = poller
        self.pipes = pipes
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self._relays: set[_TcpRelay] = set()

    def __len__(self) -> int:
        return len(self._relays)

    def start(
        self,
        client: socket.socket,
        endpoint: socket.socket,
        counters: ServicePortCounters,
        client_events: int,
        endpoint_events: int,
    ) -> None:
        """Relay between two connected sockets that are registered with the poller.

        The events are those that the poller has reported of them and nobody has acted on.
        """
        relay = _TcpRelay(self, client, endpoint, counters)
        self._relays.add(relay)
        self.poller.rebind(client.fileno(), relay.on_client_event)
        self.poller.rebind(endpoint.fileno(), relay.on_endpoint_event)
        relay.on_client_event(client_events)
        relay.on_endpoint_event(endpoint_events)

    def discard(self, relay: _TcpRelay) -> None:
        """`relay` is over."""
        self._relays.discard(relay)

    def close(self) -> None:
        """Reset every connection and close the pipes."""
        for relay in tuple(self._relays):
            relay.reset()
        self.pipes.close()


class _TcpRelay:
    """One connection: two halves over two sockets."""

    __slots__ = ("_client", "_endpoint", "_relays", "_request", "_response", "counters", "state")

    def __init__(
        self,
        relays: TcpRelays,
        client: socket.socket,
        endpoint: socket.socket,
        counters: ServicePortCounters,
    ) -> None:
        self._relays = relays
        self._client = client
        self._endpoint = endpoint
        self.counters = counters
        self.state = RelayState()
        self._request = _HalfRelay(self, relays, Half.REQUEST, client, endpoint)
        self._response = _HalfRelay(self, relays, Half.RESPONSE, endpoint, client)
        counters.opened += 1
        counters.active += 1

    def on_client_event(self, events: int) -> None:
        self._on_event(events, self._request, self._response)

    def on_endpoint_event(self, events: int) -> None:
        self._on_event(events, self._response, self._request)

    def _on_event(self, events: int, reads: _HalfRelay, writes: _HalfRelay) -> None:
        """Something happened to the socket that is the source of `reads` and the sink of `writes`."""
        if events & WRITABLE and writes.state is HalfState.BLOCKED:
            writes.flush()
        if events & _SOURCE_EVENTS:
            reads.source_became_ready(events)
            if events & FAILED and self.state.phase in (RelayPhase.OPEN, RelayPhase.HALF_CLOSED):
                self.reset()

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
        self._request.leave()
        self._response.leave()
        self._relays.discard(self)
        self._relays.poller.retire(self._client)
        self._relays.poller.retire(self._endpoint)
        self.counters.active -= 1


class _HalfRelay:
    """One direction: from `source` to `sink`. At most one of `remainder` and the pipe holds bytes."""

    __slots__ = (
        "_ending",
        "_half",
        "_is_bulk",
        "_is_urgent",
        "_pipe",
        "_readable",
        "_relay",
        "_relays",
        "_remainder",
        "_sink",
        "_source",
        "state",
    )

    def __init__(
        self, relay: _TcpRelay, relays: TcpRelays, half: Half, source: socket.socket, sink: socket.socket
    ) -> None:
        self._relay = relay
        self._relays = relays
        self._half = half
        self._source = source
        self._sink = sink
        self._readable = False
        self._ending = False
        self._is_bulk = False
        self._is_urgent = False
        self._remainder = b""
        self._pipe: Pipe | None = None
        self.state = HalfState.FLOWING

    def source_became_ready(self, events: int) -> None:
        self._readable = True
        if events & _ENDING_EVENTS:
            self._ending = True
        if events & URGENT:
            self._is_urgent = True
        if self.state is HalfState.FLOWING:
            self._pump()

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
        """The relay is over: give back what is borrowed; events and turns that still come do nothing."""
        self.state = HalfState.CLOSED
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
            try:
                sent = sink.send(buffer[:received])
            except BlockingIOError:
                sent = 0
            except OSError:
                self._relay.reset()
                return
            self._count(sent)
            if sent < received:
                self._remainder = bytes(buffer[sent:received])
                self._move(HalfEvent.SINK_FILLED)
                return
            if received < BUFFER_BYTES:
                if not (self._ending or self._is_urgent):
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
        self._relays.loop.call_soon(self.take_turn)

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
        if self._half is Half.REQUEST:
            self._relay.counters.bytes_in += passed_on
        else:
            self._relay.counters.bytes_out += passed_on

    def _move(self, event: HalfEvent) -> None:
        self.state = self._relay.state.move(self._half, event)

    def _give_pipe_back(self) -> None:
        if self._pipe is not None:
            self._relays.pipes.give_back(self._pipe)
            self._pipe = None
