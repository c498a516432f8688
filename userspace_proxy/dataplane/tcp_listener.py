"""Accepting: one listening socket of a TCP Service port.

Level-triggered, unlike connections: a listener that is paused, or that stopped in the middle of a burst, is
reported again by itself.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from userspace_proxy.dataplane.poller import READABLE, Poller, Socket
from userspace_proxy.dataplane.tcp_connect import TcpConnects, TcpRoute
from userspace_proxy.dataplane.tcp_options import count_waiting

BURST: Final = 64
"""How many are accepted before everybody else has a turn."""
SHARED_BURST: Final = 4
"""The same where other workers accept too: who has little to do is to take more than who is busy."""

_FIRST_PAUSE_SECONDS: Final = 0.01
_LONGEST_PAUSE_SECONDS: Final = 1.0

_CLIENT_LEFT: Final = frozenset(
    (
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    )
)
"""Errors of the connection that was waiting, not of the listener: on with the next one; accept(2)."""


class TcpListener:
    """Owns `sock`, which listens and does not block, and hands every client that comes to `connects`.

    When descriptors run out it stops accepting for a while (10 ms, doubling up to 1 s); clients wait in the
    backlog meanwhile. `pauses` counts that. `burst` is how many it accepts at a time.
    """

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        loop: asyncio.AbstractEventLoop,
        connects: TcpConnects,
        route: TcpRoute,
    ) -> None:
        self.burst = BURST
        self.pauses = 0
        self.route = route
        self._sock = sock
        self._family = int(sock.family)
        # Not `accept`: that makes enums of what we know, and a socket that is a Python object (`Socket`).
        self._accept: Callable[[], tuple[int, tuple[str, int]]] = sock._accept  # type: ignore[attr-defined]
        self._poller = poller
        self._loop = loop
        self._connects = connects
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._resume_timer: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        poller.register(sock.fileno(), self._on_readable, READABLE)

    def serve_waiting(self) -> None:
        """Accept those who wait in the backlog. Called when no rule leads here any more, before `close`:
        closing a listener resets what is queued in it.

        Who comes later is not waited for: others have their connections here, too.
        """
        for _ in range(count_waiting(self._sock)):
            if not self._accept_one():
                return

    def close(self) -> None:
        """Stop listening; whoever holds a duplicate of the socket goes on."""
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        # Because of that duplicate, closing ours would not take it out of the epoll.
        self._poller.unregister(self._sock.fileno())
        self._poller.retire(self._sock)

    def _on_readable(self, _events: int) -> None:
        # Asking once more than there are clients costs as much as a twentieth of a connection.
        for _ in range(max(1, min(self.burst, count_waiting(self._sock)))):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Whether to ask again: False once nobody waits, or when there is no room."""
        if self._connects.is_short_of_descriptors:
            self._pause()
            return False
        try:
            descriptor, address = self._accept()
        except BlockingIOError:
            self._pause_seconds = _FIRST_PAUSE_SECONDS
            return False
        except OSError as error:
            if error.errno in _CLIENT_LEFT:
                return True
            self._connects.say_shortage()
            self._pause()  # EMFILE, ENFILE, ENOBUFS, ENOMEM; and nothing else may make us spin
            return False
        client = Socket(self._family, socket.SOCK_STREAM, 0, descriptor)
        client.setblocking(False)
        self._connects.start(client, address[0], self.route)
        return True

    def _pause(self) -> None:
        self.pauses += 1
        if self._resume_timer is not None:
            return
        self._poller.modify(self._sock.fileno(), 0)
        self._resume_timer = self._loop.call_later(self._pause_seconds, self._resume)
        self._pause_seconds = min(self._pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    def _resume(self) -> None:
        self._resume_timer = None
        self._poller.modify(self._sock.fileno(), READABLE)
