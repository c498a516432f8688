"""Endpoints on loopback, good and faulty, and a loop in a thread to run the data path beside them.

Clients and endpoints are plain blocking sockets with a deadline, so that a test reads as the conversation
that it is. Everything here is a context manager that leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import uvloop

from userspace_proxy.core.admission import Admission, Room
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.load_balancer import LoadBalancer
from userspace_proxy.core.service_port import Port, TrafficPolicy
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.limit_reports import LimitReports
from userspace_proxy.dataplane.poller import Poller
from userspace_proxy.dataplane.splice import PipePool
from userspace_proxy.dataplane.tcp_connect import TcpConnects, TcpRoute
from userspace_proxy.dataplane.tcp_listener import TcpListener
from userspace_proxy.dataplane.tcp_relay import TcpRelays

DEADLINE_SECONDS = 20.0
LOOPBACK = "127.0.0.1"

Conversation = Callable[[socket.socket], None]
T = TypeVar("T")


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def endpoint_of(sock: socket.socket) -> Endpoint:
    address, port = sock.getsockname()[:2]
    return Endpoint(address, Port(port))


def connect(port: int, address: str = LOOPBACK) -> socket.socket:
    return socket.create_connection((address, port), timeout=DEADLINE_SECONDS)


def is_reset(port: int) -> bool:
    """Whether a client is reset before it gets anything, be it as soon as it connects."""
    try:
        with connect(port) as sock:
            sock.recv(1)
    except ConnectionResetError:
        return True
    return False


def receive_all(sock: socket.socket) -> bytes:
    chunks = []
    while chunk := sock.recv(1 << 18):
        chunks.append(chunk)
    return b"".join(chunks)


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """`work(0)` … `work(count - 1)`, all at the same time; the first exception is raised."""
    start = threading.Barrier(count)

    def run(number: int) -> T:
        start.wait(DEADLINE_SECONDS)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


# What an endpoint does with a connection.


def echo(sock: socket.socket) -> None:
    while chunk := sock.recv(1 << 16):
        sock.sendall(chunk)


def answer_digest(sock: socket.socket) -> None:
    """Answers only when the client has half-closed."""
    sock.sendall(digest(receive_all(sock)))


def say_port(sock: socket.socket) -> None:
    """Says which endpoint this is, and ends."""
    sock.sendall(str(sock.getsockname()[1]).encode())


@contextmanager
def server(converse: Conversation, address: str = LOOPBACK) -> Iterator[Endpoint]:
    """An endpoint that holds `converse` with every client, in a thread for each, and then closes."""
    with ExitStack() as stack:
        listening = stack.enter_context(_listening(address))
        yield stack.enter_context(serving(listening, converse))


@contextmanager
def serving(listening: socket.socket, converse: Conversation) -> Iterator[Endpoint]:
    """As `server`, on a socket that listens already (and stays open)."""
    threads: list[threading.Thread] = []
    accepted: list[socket.socket] = []
    stopped = threading.Event()

    def hold(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            converse(sock)

    def accept() -> None:
        while True:
            sock, _ = listening.accept()
            if stopped.is_set():
                sock.close()
                return
            sock.settimeout(DEADLINE_SECONDS)
            accepted.append(sock)
            threads.append(threading.Thread(target=hold, args=(sock,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield endpoint_of(listening)
    finally:
        stopped.set()
        socket.create_connection(listening.getsockname()[:2]).close()
        acceptor.join()
        for sock in accepted:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def _listening(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=512)


@contextmanager
def refusing(address: str = LOOPBACK) -> Iterator[Endpoint]:
    """An endpoint whose port is nobody's: a connect is refused."""
    with socket.socket() as bound:
        bound.bind((address, 0))
        yield endpoint_of(bound)


@contextmanager
def silent() -> Iterator[Endpoint]:
    """An endpoint that swallows packets: its backlog is full and nobody accepts."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind((LOOPBACK, 0))
        listening.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield endpoint_of(listening)


# The data path.


_EXPECTED = (
    "Out of descriptors",
    "Connections are refused",
    "UDP flows end early",
    "Endpoint keeps failing",
)
"""What is logged where that is what a test brings about; it looks at the clients."""


class _Collector(logging.Handler):
    def __init__(self, records: list[object]) -> None:
        super().__init__(logging.WARNING)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        if not record.getMessage().startswith(_EXPECTED):
            self._records.append(record)


class LoopThread:
    """A uvloop in a thread. At exit it asserts that nothing went wrong unseen in there."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.unseen: list[object] = []
        self._thread = threading.Thread(target=self._run)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function` in the loop's thread; its result or exception is the caller's."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(function(*args))
            except BaseException as error:
                result.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return result.result(DEADLINE_SECONDS)

    def __enter__(self) -> LoopThread:
        self.loop.set_exception_handler(lambda _, context: self.unseen.append(context))
        self._log_handler = _Collector(self.unseen)
        logging.getLogger("userspace_proxy").addHandler(self._log_handler)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        logging.getLogger("userspace_proxy").removeHandler(self._log_handler)
        assert not self.unseen

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


class TcpProxy:
    """One TCP listener on loopback with all that is behind it, in a loop's thread. `port`: the proxy port."""

    def __init__(
        self,
        thread: LoopThread,
        endpoints: Iterable[Endpoint],
        listening: socket.socket,
        pipes: PipePool,
        affinity_seconds: float | None = None,
    ) -> None:
        self.call = thread.call
        self.loop = thread.loop
        self.port: int = listening.getsockname()[1]
        self.counters = ServicePortCounters()
        self.balancer = LoadBalancer(Random(5))
        self.balancer.set_endpoints(TrafficPolicy.CLUSTER, endpoints)
        self.balancer.set_affinity(affinity_seconds)
        self.poller = Poller(thread.loop, thread.unseen.append)
        self.pipes = pipes
        self.relays = TcpRelays(thread.loop, self.poller, self.pipes)
        self.connects = TcpConnects(thread.loop, self.poller, self.relays)
        self.room = Room(1 << 20)
        self.admission = Admission(self.room)
        reports = LimitReports("default/web:http", self.counters)
        route = TcpRoute(
            self.admission, self.balancer, TrafficPolicy.CLUSTER, socket.AF_INET, self.counters, reports
        )
        self._is_listening = True
        self.listener = TcpListener(listening, self.poller, thread.loop, self.connects, route)

    def connect(self) -> socket.socket:
        return connect(self.port)

    def wait_until_idle(self) -> None:
        """Every connection is over."""
        wait_until(lambda: self.call(lambda: not (len(self.relays) or len(self.connects))))

    def close_listener(self) -> None:
        if self._is_listening:
            self._is_listening = False
            self.listener.close()

    def close(self) -> None:
        self.close_listener()
        self.connects.close()
        self.relays.close()
        self.poller.close()


@contextmanager
def tcp_proxy(
    *endpoints: Endpoint,
    affinity_seconds: float | None = None,
    pipes: PipePool | None = None,
    listening: socket.socket | None = None,
) -> Iterator[TcpProxy]:
    with LoopThread() as thread:
        sock = listening or _listening(LOOPBACK)
        proxy = thread.call(TcpProxy, thread, endpoints, sock, pipes or PipePool(), affinity_seconds)
        try:
            yield proxy
        finally:
            thread.call(proxy.close)
            assert (proxy.room.taken, proxy.admission.admitted) == (0, 0)
