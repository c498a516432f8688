"""One direction of a TCP connection: bytes from a source to a sink, copied or spliced.

Small messages are copied through one buffer that the whole worker shares; a half that fills it twice in a row
is bulk and borrows a pipe while it has bytes to move, so that these never leave the kernel (`splice`). What a
half may do next is `core.relay_state`'s to say.

The source is registered once, edge-triggered. The rules that follow from that:

- `readable` says that an edge was seen and the source not yet drained. It outlives a blocked sink: the edge
  will not come again, so the half goes on from `readable` when the sink has room.
- A short read means drained, and saves the read that would say EAGAIN. If the source had ended before the
  event came, it is the end as well, which then goes in one packet with the last bytes. After a failure the
  error is still to be read, and where TCP's urgent data came nothing is sure: reads stop short at its mark,
  and splice(2) there takes it for nothing, or for the end.
- A share of the loop bounds what a half moves at a time; the rest waits in the loop's own queue.

A source that was reset may still hold bytes that came before the reset, and the other side would have had
them without a proxy: they are passed on first, as far as the sink takes them at once.

Here two calls more for each event are a hundredth of a small request's CPU. So enum members have names of
their own (in Python 3.11 to look one up in its class costs more than a call), and `_copy` says at length what
it could have asked others to do.
"""

from __future__ import annotations

import socket
from typing import Final, Protocol

from userspace_proxy.core.relay_state import Half, HalfEvent, HalfState, RelayPhase, RelayState
from userspace_proxy.core.traffic_counters import EndpointCounters
from userspace_proxy.dataplane.poller import (
    EDGE_BOTH,
    FAILED,
    HUNG_UP,
    PEER_CLOSED,
    READABLE,
    URGENT,
    WRITABLE,
    Poller,
    Socket,
)
from userspace_proxy.dataplane.splice import Pipe, PipePool

BUFFER_BYTES: Final = 1 << 16
SHARE_BYTES: Final = 2 << 20
"""What a half moves before the others have their turn: about a millisecond's work."""

_FULL_READS_OF_BULK: Final = 2
_ENDING_EVENTS: Final = PEER_CLOSED | HUNG_UP | FAILED
_RARE_EVENTS: Final = _ENDING_EVENTS | URGENT
_REQUEST: Final = Half.REQUEST
_FLOWING: Final = HalfState.FLOWING
_BLOCKED: Final = HalfState.BLOCKED
_QUEUED: Final = HalfState.QUEUED
_HALF_CLOSED: Final = HalfState.CLOSED
_SOURCE_ENDED: Final = HalfEvent.SOURCE_ENDED
_CLOSED: Final = RelayPhase.CLOSED
_RESET: Final = RelayPhase.RESET


class SharedMeans:
    """What the halves of a worker share: where they hear of events, a buffer, and pipes."""

    __slots__ = ("buffer", "pipes", "poller")

    def __init__(self, poller: Poller, pipes: PipePool) -> None:
        self.poller = poller
        self.pipes = pipes
        self.buffer = memoryview(bytearray(BUFFER_BYTES))


class Whole(Protocol):
    """The connection that a half is one of."""

    state: RelayState

    def close(self) -> None:
        """Both streams have ended."""

    def reset(self) -> None:
        """One side was reset, or is to be: both are."""


class HalfRelay:
    """One direction: from `source` to `sink`. At most one of `remainder` and the pipe holds bytes.

    `opposite` is the other direction, whose sink is this one's source.
    """

    __slots__ = (
        "_counters",
        "_half",
        "_has_ended",
        "_hears_of_room",
        "_is_bulk",
        "_is_urgent",
        "_means",
        "_pipe",
        "_readable",
        "_reads_on",
        "_relay",
        "_remainder",
        "_sink",
        "_source",
        "opposite",
        "state",
    )

    opposite: HalfRelay

    def __init__(
        self,
        relay: Whole,
        means: SharedMeans,
        traffic: EndpointCounters,
        half: Half,
        source: Socket,
        sink: Socket,
    ) -> None:
        self._relay = relay
        self._means = means
        self._counters = traffic
        self._half = half
        self._source = source
        self._sink = sink
        self._readable = False
        self._reads_on = False  # even after a short read
        self._hears_of_room = half is _REQUEST
        self._has_ended = False
        self._is_bulk = False
        self._is_urgent = False
        self._remainder = b""
        self._pipe: Pipe | None = None
        self.state = _FLOWING

    def on_event(self, events: int) -> None:
        """Something happened to the source, which is the opposite half's sink."""
        if events & WRITABLE and self.opposite.state is _BLOCKED:
            self.opposite.flush()
        if events & _RARE_EVENTS:
            self._take_note(events)
        elif not events & READABLE:
            return
        self._readable = True
        if self.state is _FLOWING:
            if self._is_bulk or self._is_urgent:
                self._pump()
            else:
                self._copy()
        if events & FAILED and self._relay.state.phase not in (_CLOSED, _RESET):
            self._relay.reset()

    def _take_note(self, events: int) -> None:
        self._reads_on = True
        if events & _ENDING_EVENTS:
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
        if self.state is _QUEUED:
            self._move(HalfEvent.TURN_CAME)
            self._pump()

    def leave(self) -> None:
        """The relay is over: give back what is borrowed; turns that still come do nothing."""
        self.state = _HALF_CLOSED
        del self.opposite  # without that circle the relay is gone at once, and gc has nothing to find
        self._remainder = b""
        if self._pipe is not None:
            self._give_pipe_back()

    def _pump(self) -> None:
        if self._is_urgent:
            self._give_pipe_back()
        elif self._is_bulk and self._pipe is None:
            self._pipe = self._means.pipes.take()
            self._is_bulk = self._pipe is not None
        if self._pipe is None:
            self._copy()
        else:
            self._splice(self._pipe)

    def _copy(self) -> None:
        buffer = self._means.buffer
        full_reads = 0
        while True:
            try:
                received = self._source.recv_into(buffer)
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
                sent = self._sink.send(buffer[:received])
            except BlockingIOError:
                sent = 0
            except OSError:
                self._relay.reset()
                return
            if self._half is _REQUEST:
                self._counters.bytes_in += sent
            else:
                self._counters.bytes_out += sent
            if sent < received:
                self._remainder = bytes(buffer[sent:received])
                self._block()
                return
            if received < BUFFER_BYTES:
                if self._reads_on:
                    continue
                self._readable = False
                return
            full_reads += 1
            if full_reads == _FULL_READS_OF_BULK and not self._is_urgent:
                self._pipe = self._means.pipes.take()
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
            self._block()
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
                self._means.poller.let_pile_up()
                return
            except OSError:
                self._relay.reset()
                return
            if not received:
                self._give_pipe_back()
                self._copy()  # is it the end, or urgent data before more? A read tells.
                return
            if not self._drain(pipe):
                if self.state is _FLOWING:  # else it was reset
                    self._block()
                self._means.poller.let_pile_up()
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

    def _block(self) -> None:
        """The sink is full. A client seldom is, so that it is asked only now to say when there is room; if
        there is some again already, it says so at once.
        """
        self._move(HalfEvent.SINK_FILLED)
        if not self._hears_of_room:
            self._hears_of_room = True
            self._means.poller.modify(self._sink.fileno(), EDGE_BOTH)

    def _queue(self) -> None:
        self._move(HalfEvent.SHARE_SPENT)
        self._means.poller.soon(self.take_turn)

    def _end(self) -> None:
        """The source's stream has ended and all of it was passed on: pass on the end."""
        self._move(_SOURCE_ENDED)
        if self._pipe is not None:
            self._give_pipe_back()
        if self._relay.state.phase is _CLOSED:
            self._relay.close()  # which tells the sink, too
            return
        try:
            self._sink.shutdown(socket.SHUT_WR)
        except OSError:  # ENOTCONN: the sink was reset meanwhile
            self._relay.reset()

    def _count(self, passed_on: int) -> None:
        if self._half is _REQUEST:
            self._counters.bytes_in += passed_on
        else:
            self._counters.bytes_out += passed_on

    def _move(self, event: HalfEvent) -> None:
        self.state = self._relay.state.move(self._half, event)

    def _give_pipe_back(self) -> None:
        if self._pipe is not None:
            self._means.pipes.give_back(self._pipe)
            self._pipe = None
