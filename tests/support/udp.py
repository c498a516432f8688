"""A UDP listener on loopback, with real sockets, and the loop in a thread of its own.

A `Client` and a `Pod` are plain blocking sockets in the test's hands, so a test reads as the conversation
that it is; what happens inside the loop is looked at through `Proxy.call` and waited for with a deadline.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any

from tests.support.loopback import DEADLINE_SECONDS, LoopThread, wait_until
from userspace_proxy.core.admission import Room
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.load_balancer import LoadBalancer
from userspace_proxy.core.service_port import Port, TrafficPolicy
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.limit_reports import LimitReports
from userspace_proxy.dataplane.poller import Poller
from userspace_proxy.dataplane.udp_flow_cap import FlowCap, FlowShare
from userspace_proxy.dataplane.udp_listener import UdpListener

CLUSTER = TrafficPolicy.CLUSTER


def open_udp(address: str, port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(DEADLINE_SECONDS)
    sock.bind((address, port))
    return sock


class Pod:
    """An endpoint."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.sock = open_udp(address, port)
        self.endpoint = Endpoint(address, Port(self.sock.getsockname()[1]))

    def __enter__(self) -> Pod:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def receive(self) -> tuple[bytes, Any]:
        return self.sock.recvfrom(65536)

    def echo(self) -> bytes:
        datagram, peer = self.receive()
        self.sock.sendto(datagram, peer)
        return datagram

    def has_nothing(self) -> bool:
        return not select.select([self.sock], [], [], 0)[0]


class EchoingPod(Pod):
    """An endpoint that echoes by itself, except for what it is told to ignore."""

    def __enter__(self) -> EchoingPod:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with open_udp("127.0.0.1") as sock:
            sock.sendto(b"stop", ("127.0.0.1", self.endpoint.port))
        self._thread.join(DEADLINE_SECONDS)
        super().__exit__()

    def _run(self) -> None:
        self.sock.settimeout(None)
        while (received := self.receive())[0] != b"stop":
            if received[0] != b"ignore":
                self.sock.sendto(*received)


class Client:
    """Somebody who sends to one address of the listener and sees where answers come from."""

    def __init__(self, proxy: Proxy, address: str | None = None, source: str | None = None) -> None:
        self.target = (address or proxy.address, proxy.port)
        self.sock = open_udp(source or self.target[0])

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, datagram: bytes) -> None:
        self.sock.sendto(datagram, self.target)

    def receive(self) -> bytes:
        datagram, source = self.sock.recvfrom(65536)
        assert source[:2] == self.target, "an answer came from another address than the client had sent to"
        return datagram

    def hears_nothing(self, seconds: float = 0.1) -> bool:
        self.sock.settimeout(seconds)
        try:
            self.sock.recv(1)
        except TimeoutError:
            return True
        return False


class Proxy:
    """A UDP listener that serves `pods`, in a loop that runs in its own thread."""

    def __init__(self, pods: Sequence[Pod], max_flows: int = 1000, address: str = "127.0.0.1") -> None:
        self.address = address
        self._stack = ExitStack()
        thread = self._stack.enter_context(LoopThread())
        self.loop, self.call = thread.loop, thread.call
        self.balancer = LoadBalancer(Random(1))
        self.counters = ServicePortCounters()
        self.poller = self.call(lambda: Poller(self.loop, thread.unseen.append))
        self.room = Room(1 << 20)
        self.cap = FlowCap(max_flows, self.loop, self.room)
        self.share = FlowShare(self.cap, LimitReports("default/web", self.counters))
        sock = open_udp("::" if ":" in address else "0.0.0.0")
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        self._stack.enter_context(sock.dup())  # as the agent holds one
        self.listener = self.call(
            lambda: UdpListener(
                sock, self.poller, self.loop, self.balancer, CLUSTER, self.counters, self.share
            )
        )
        self.serve(*pods)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self.call(self.listener.close)
            with Client(self) as client:
                client.send(b"to the duplicate")
            assert self.is_quiet()
            assert len(self.poller) == 0
            assert self.counters.active == 0
            self.call(self.poller.close)

    def is_quiet(self) -> bool:
        """Whether nothing is reported that nobody takes care of, which would keep the loop spinning."""
        return not self.call(lambda: self.poller._epoll.poll(0))

    @contextmanager
    def busy_elsewhere(self) -> Iterator[None]:
        """Keep the loop from reading, so that what is sent meanwhile is read in one go."""
        go_on = threading.Event()
        self.loop.call_soon_threadsafe(go_on.wait, DEADLINE_SECONDS)
        yield
        go_on.set()

    def wait_for_opened(self, flows: int) -> None:
        wait_until(lambda: self.counters.opened >= flows)

    def serve(self, *pods: Pod) -> None:
        endpoints = tuple(pod.endpoint for pod in pods)
        self.call(lambda: self.balancer.set_endpoints(CLUSTER, endpoints))
        self.call(lambda: self.listener.endpoints_changed(endpoints))


def exchange(client: Client, pods: Sequence[Pod], datagram: bytes = b"?") -> Pod:
    """One question and its answer; the pod that got it."""
    client.send(datagram)
    ready, _, _ = select.select([pod.sock for pod in pods], [], [], DEADLINE_SECONDS)
    (pod,) = (pod for pod in pods if pod.sock in ready)
    assert pod.echo() == datagram
    assert client.receive() == datagram
    return pod


@contextmanager
def refusing_endpoint(address: str = "127.0.0.1") -> Iterator[Pod]:
    """A port that nobody listens on."""
    pod = Pod(address)
    pod.sock.close()
    yield pod


@contextmanager
def open_clients(proxy: Proxy, count: int) -> Iterator[list[Client]]:
    """Clients that are there at the same time, so that no two have the same port."""
    with ExitStack() as stack:
        yield [stack.enter_context(Client(proxy)) for _ in range(count)]
