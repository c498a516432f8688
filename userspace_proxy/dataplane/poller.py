"""One epoll of our own inside the event loop: each socket is registered once, edge-triggered, for life.

`loop.add_reader` costs a call into the loop and back for every change of interest. Here the loop watches one
descriptor - the epoll's - and a socket tells us about both directions for as long as it lives, so a relay
never re-arms anything. Source: epoll(7).

Where one conversation is all there is, its next event is looked for some microseconds before the loop sleeps
(`core.poll_patience`). Not so for bulk, of which a sleep lets more pile up for one move.

Rules for callbacks:
- An event is a hint. With edge triggering a callback reads, writes or accepts until EAGAIN or until it knows
  that nothing is left (a short read means drained), and it must bear an event that turns out to be nothing.
- A socket is closed with `retire`, never directly: its number must not be given to a new socket while events
  of the same batch are still being handed out.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from time import perf_counter
from typing import Final, TypeAlias

from userspace_proxy.core.poll_patience import PollPatience

Callback: TypeAlias = Callable[[int], None]

Socket: TypeAlias = socket.SocketType
"""A socket as C has it. `socket.socket`, a subclass in Python, costs microseconds more to make and to end."""

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
PEER_CLOSED: Final = select.EPOLLRDHUP
HUNG_UP: Final = select.EPOLLHUP
FAILED: Final = select.EPOLLERR
URGENT: Final = select.EPOLLPRI
EDGE_IN: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
EDGE_BOTH: Final = EDGE_IN | select.EPOLLOUT

_BATCH: Final = 256
_FEW: Final = 2
"""So many events are one conversation's, whose next one is worth waiting for; more are work enough."""
_MOST_BATCHES: Final = 64
"""After so many the loop's own timers and descriptors have their turn: after a few milliseconds at most."""


class Poller:
    """Hands readiness of many descriptors to their callbacks from one reader of `loop`.

    `on_error` receives an exception that a callback let escape; the other callbacks of the batch still run.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_error: Callable[[Exception], None]) -> None:
        self._loop = loop
        self._on_error = on_error
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._retired: list[Socket] = []
        self._dispatching = False
        self._looks_again = False
        self._patience = PollPatience()
        loop.add_reader(self._epoll.fileno(), self._dispatch)

    def __len__(self) -> int:
        """How many descriptors are registered."""
        return len(self._callbacks)

    def register(self, fd: int, callback: Callback, events: int = EDGE_BOTH) -> None:
        """Call `callback(events)` whenever `fd` has some of `events` (or failed, or hung up)."""
        self._callbacks[fd] = callback
        try:
            self._epoll.register(fd, events)
        except BaseException:
            del self._callbacks[fd]
            raise

    def rebind(self, fd: int, callback: Callback) -> None:
        """Give the later events of a registered `fd` to another callback; no system call."""
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        """Change what `fd` is watched for (0 pauses it). An edge that is pending is reported again."""
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        """Forget `fd`. Needed for a descriptor that others hold too: closing ours would not remove it."""
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def retire(self, sock: Socket) -> None:
        """Forget a registered socket and close it as soon as no event of this batch can name its number."""
        self._callbacks.pop(sock.fileno(), None)
        if self._dispatching:
            self._retired.append(sock)
        else:
            sock.close()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` when those who are ready now had their turn; nobody is waited for before."""
        self._looks_again = False
        self._loop.call_soon(callback)

    def let_pile_up(self) -> None:
        """What comes next is worth more if it is more: do not look for it before the loop has slept."""
        self._looks_again = False

    def close(self) -> None:
        """Stop watching. The registered descriptors stay their owners' to close. Safe to repeat."""
        if self._epoll.closed:
            return
        self._loop.remove_reader(self._epoll.fileno())
        self._callbacks.clear()
        self._close_retired()
        self._epoll.close()

    def _dispatch(self) -> None:
        self._patience.woke(perf_counter())
        self._looks_again = True
        ready = self._epoll.poll(0, _BATCH)
        for _ in range(_MOST_BATCHES):
            self._hand_out(ready)
            if len(ready) > _FEW or not self._looks_again or self._epoll.closed:
                return
            ready = self._look_again()
            if not ready:
                return
        self._hand_out(ready)

    def _look_again(self) -> list[tuple[int, int]]:
        """What is ready within the time that is worth waiting for it; none, and the loop goes to sleep."""
        now = perf_counter()
        until = now + self._patience.seconds
        while now < until:
            if ready := self._epoll.poll(0, _BATCH):
                return ready
            now = perf_counter()
        self._patience.sleeps(now)
        return []

    def _hand_out(self, ready: list[tuple[int, int]]) -> None:
        callbacks = self._callbacks
        self._dispatching = True
        try:
            for fd, events in ready:
                callback = callbacks.get(fd)
                if callback is None:
                    continue  # retired earlier in this batch
                try:
                    callback(events)
                except Exception as error:
                    self._on_error(error)
        finally:
            self._dispatching = False
            self._close_retired()

    def _close_retired(self) -> None:
        while self._retired:
            self._retired.pop().close()
