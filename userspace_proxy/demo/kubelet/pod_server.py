"""The server that a container without a `command:` runs: it says who it is, over HTTP, TCP and UDP.

On each of its ports it listens for all of them, in both families; what a TCP client says first decides.

    /             who answers, who asked, in a line; /json the same as JSON, /name the pod's name alone
    /client       the address and port that the request came from
    /status/503   that status
    /sleep/2.5    the answer of `/`, after so many seconds
    /bytes/1000   so many bytes

A TCP client that does not speak HTTP gets the line and then back what it sends; a datagram gets the line.

It sits on a selector, not on asyncio: a cluster runs dozens of these, and a forked one has 2 MB of its own
so, where one with asyncio's loop has almost 4. After SIGTERM it serves new connections for a while, since
proxies may not have heard yet that it leaves; then it closes what is idle, and ends once the rest is done.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

from userspace_proxy.demo.kubelet.pod_connection import Connection
from userspace_proxy.demo.kubelet.pod_http import Identity

LEAVING_SECONDS: Final = 2.0
"""So long after SIGTERM new connections are served: longer than the news takes to reach every proxy."""
_FIRST_REQUEST_SECONDS: Final = 0.5
"""What the last who were let in are given to ask something."""

_FULL_SECONDS: Final = 0.1
_BACKLOG: Final = 1024
_LOG_LINES_PER_SECOND: Final = 50

_Peer: TypeAlias = tuple[str, int] | tuple[str, int, int, int]


class PodServer:
    """A pod's server. Raises OSError where it cannot listen on a port."""

    def __init__(self, identity: Identity, ports: list[int]) -> None:
        self.identity = identity
        self.is_leaving = False
        self._selector = selectors.DefaultSelector()
        self._connections: set[Connection] = set()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._log_second = 0
        self._logged = 0
        self._listeners = [_bound(socket.SOCK_STREAM, port) for port in ports]
        for listener in self._listeners:
            listener.listen(_BACKLOG)
            self._selector.register(listener, selectors.EVENT_READ, self._accept)
        for port in ports:
            datagrams = _bound(socket.SOCK_DGRAM, port)
            self._selector.register(datagrams, selectors.EVENT_READ, self._answer_datagrams)

    def run(self) -> None:
        """Serve until SIGTERM, and then until all is done. Only in a process of its own: it takes SIGTERM."""
        woken, waker = socket.socketpair()
        waker.setblocking(False)
        self._selector.register(woken, selectors.EVENT_READ, self._woken)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda _number, _frame: None)
        while self._listeners or self._connections:
            for key, mask in self._selector.select(self._patience()):
                if isinstance(key.data, Connection):
                    key.data.ready(mask)
                else:
                    key.data(key.fileobj)
            self._call_due()

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Have `function` called."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), function))

    def want(self, connection: Connection, stream: socket.socket, mask: int) -> None:
        """Have `connection` called when `stream` is ready for what `mask` says."""
        registered = stream in self._selector.get_map()
        if not mask:
            if registered:
                self._selector.unregister(stream)
        elif registered:
            self._selector.modify(stream, mask, connection)
        else:
            self._selector.register(stream, mask, connection)

    def forget(self, connection: Connection, stream: socket.socket) -> None:
        """The connection is over."""
        self.want(connection, stream, 0)
        self._connections.discard(connection)

    def log(self, line: str) -> None:
        """Say `line`, unless much was said this second. A slow reader misses lines, and delays nobody."""
        second = int(time.monotonic())
        if second != self._log_second:
            self._log_second, self._logged = second, 0
        self._logged += 1
        if self._logged == _LOG_LINES_PER_SECOND:
            line = "more requests within this second are not logged"
        if self._logged <= _LOG_LINES_PER_SECOND:
            with suppress(OSError):
                os.write(sys.stdout.fileno(), f"{line}\n".encode(errors="replace"))

    def _patience(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _call_due(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _due, _number, function = heapq.heappop(self._timers)
            function()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionError):
            while stream_and_peer := self._accepted(listener):
                stream, peer = stream_and_peer
                stream.setblocking(False)
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(self, stream, _spelled(peer))
                self._connections.add(connection)
                self._selector.register(stream, selectors.EVENT_READ, connection)

    def _accepted(self, listener: socket.socket) -> tuple[socket.socket, _Peer] | None:
        """None where no descriptor is left: whoever waits is let in when others have gone."""
        try:
            return listener.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
        self._selector.unregister(listener)
        self.call_later(_FULL_SECONDS, lambda: self._accept_again(listener))
        return None

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def _answer_datagrams(self, datagrams: socket.socket) -> None:
        with suppress(OSError):  # among others one that answers an earlier datagram: nobody listens there
            while True:
                _datagram, peer = datagrams.recvfrom(65535)
                client = _spelled(peer)
                datagrams.sendto(self.identity.line(client).encode(), peer)
                self.log(f"{client} UDP")

    def _woken(self, woken: socket.socket) -> None:
        woken.recv(64)
        if not self.is_leaving:
            self.is_leaving = True
            self.log(f"asked to end; new connections are served for {LEAVING_SECONDS:.0f} s more")
            self.call_later(LEAVING_SECONDS, self._close_listeners)
            self.call_later(LEAVING_SECONDS + _FIRST_REQUEST_SECONDS, self._close_idle)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            self._accept(listener)  # closing it would reset who waits in its backlog
            if listener in self._selector.get_map():
                self._selector.unregister(listener)
            listener.close()
        self._listeners.clear()

    def _close_idle(self) -> None:
        for connection in list(self._connections):
            if connection.is_idle:
                connection.close()


def serve(identity: Identity, ports: list[int], listens: Callable[[], None]) -> int:
    """Be the server, and return its process's exit status. `listens` is called once clients are heard."""
    try:
        server = PodServer(identity, ports)
    except OSError as error:
        print(f"{identity.name} cannot listen: {error}", file=sys.stderr, flush=True)
        return 1
    os.set_blocking(sys.stdout.fileno(), False)
    where = ", ".join(map(str, ports))
    server.log(f"{identity.name} serves HTTP, TCP and UDP on port {where}")
    listens()
    server.run()
    server.log("ended, with nothing left to do")
    return 0


def _bound(kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket on all addresses of both families; of IPv4 alone where the kernel has no IPv6."""
    try:
        bound = socket.socket(socket.AF_INET6, kind)
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        address = "::"
    except OSError:
        bound, address = socket.socket(socket.AF_INET, kind), "0.0.0.0"
    if kind == socket.SOCK_STREAM:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setblocking(False)
    try:
        bound.bind((address, port))
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"{error.strerror} (port {port})") from error
    return bound


def _spelled(peer: _Peer) -> str:
    host = peer[0].removeprefix("::ffff:")
    return f"[{host}]:{peer[1]}" if ":" in host else f"{host}:{peer[1]}"
