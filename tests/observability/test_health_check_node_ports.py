from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
import uvloop

from tests.support.kernel_state import descriptors_at_rest
from tests.support.loopback import DEADLINE_SECONDS, open_descriptors, wait_until
from tests.support.recorded_events import RecordedEvents
from userspace_proxy.core.proxy_plan import HealthCheck
from userspace_proxy.core.service_port import Port, ServiceName
from userspace_proxy.observability.health_check_node_ports import HealthCheckNodePorts

WEB = ServiceName("default", "web")
DNS = ServiceName("default", "dns")
V4 = "127.0.0.1"
V6 = "::1"
LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]
LOOPS = [pytest.param(uvloop.new_event_loop, id="uvloop"), pytest.param(asyncio.new_event_loop, id="asyncio")]


class Node:
    """The ports of a node on loopback, in a thread; change `is_healthy` and `addresses` at will."""

    def __init__(self, runner: asyncio.Runner, max_conversations: int, conversation_seconds: float) -> None:
        self.is_healthy = True
        self.addresses: Sequence[str] = (V4,)
        self._loop = runner.get_loop()
        self.events = RecordedEvents()
        self._ports = HealthCheckNodePorts(
            self._loop,
            is_healthy=lambda: self.is_healthy,
            addresses=lambda: self.addresses,
            max_conversations=max_conversations,
            conversation_seconds=conversation_seconds,
            record_event=self.events,
        )
        self._job = self._loop.create_task(self._ports.run())

    def serve(self, *checks: tuple[ServiceName, int, int]) -> None:
        """Each is a Service, its port and how many local endpoints it has."""
        wanted = {service: HealthCheck(Port(port), count) for service, port, count in checks}

        async def serve() -> None:
            self._ports.serve(wanted)

        asyncio.run_coroutine_threadsafe(serve(), self._loop).result(DEADLINE_SECONDS)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """The loop is busy with something else meanwhile."""
        over = threading.Event()
        self._loop.call_soon_threadsafe(over.wait, DEADLINE_SECONDS)
        try:
            yield
        finally:
            over.set()

    def close(self) -> None:
        async def close() -> None:
            self._job.cancel()
            await asyncio.wait([self._job])
            await self._ports.close()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(DEADLINE_SECONDS)


@contextmanager
def serving(
    loop_factory: LoopFactory = uvloop.new_event_loop,
    *,
    max_conversations: int = 100,
    conversation_seconds: float = 3600.0,
) -> Iterator[Node]:
    """A node whose ports are closed at the end. Nothing may have gone wrong unseen in its loop."""
    unseen: list[object] = []
    with asyncio.Runner(loop_factory=loop_factory) as runner, ThreadPoolExecutor(1) as thread:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: unseen.append(context))
        node = Node(runner, max_conversations, conversation_seconds)
        running = thread.submit(loop.run_forever)
        try:
            yield node
        finally:
            try:
                node.close()
            finally:
                loop.call_soon_threadsafe(loop.stop)
                running.result(DEADLINE_SECONDS)
    assert not unseen


@pytest.fixture(params=LOOPS)
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    with serving(request.param) as node:
        yield node


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server((V4, 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in taken]


def open_sockets() -> int:
    """How many descriptors are sockets. (uvloop keeps one of /dev/null, from the first listener on.)"""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(str(link.readlink()).startswith("socket:") for link in links)


def is_open(port: int, address: str = V4) -> bool:
    try:
        socket.create_connection((address, port), timeout=DEADLINE_SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


def ask(
    port: int, address: str = V4, method: str = "GET", path: str = "/", body: bytes | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """One check, as soon as the port is open."""
    wait_until(lambda: is_open(port, address))
    client = http.client.HTTPConnection(address, port, timeout=DEADLINE_SECONDS)
    try:
        client.request(method, path, body)
        response = client.getresponse()
        return response, response.read()
    finally:
        client.close()


def count_at(port: int, address: str = V4) -> tuple[int, str, int]:
    """Status, Service and number of local endpoints."""
    response, body = ask(port, address)
    said = json.loads(body)
    return response.status, said["service"]["name"], said["localEndpoints"]


def say(port: int, data: bytes) -> bytes:
    """What is answered to `data`, to the end."""
    wait_until(lambda: is_open(port))
    with socket.create_connection((V4, port), timeout=DEADLINE_SECONDS) as sock:
        sock.sendall(data)
        return received(sock)


def received(sock: socket.socket) -> bytes:
    """Everything until the end, of whichever kind."""
    chunks = []
    try:
        while chunk := sock.recv(65536):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)


def is_over_after(sock: socket.socket, data: bytes) -> bool:
    """Whether the other side has ended the conversation by the time we have said `data`, too."""
    try:
        sock.sendall(data)
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_node_with_a_local_endpoint_passes(node: Node, port: int) -> None:
    node.serve((WEB, port, 2))
    response, body = ask(port)
    assert response.status == 200
    assert json.loads(body) == {
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Load-Balancing-Endpoint-Weight"] == "2"
    assert response.headers["Connection"] == "close"


def test_a_node_without_one_does_not(node: Node, port: int) -> None:
    node.serve((WEB, port, 0))
    response, body = ask(port)
    assert response.status == 503
    assert response.headers["X-Load-Balancing-Endpoint-Weight"] == "0"
    assert json.loads(body)["localEndpoints"] == 0


def test_nor_does_one_whose_proxy_is_not_healthy(node: Node, port: int) -> None:
    node.serve((WEB, port, 2))
    node.is_healthy = False
    response, body = ask(port)
    assert response.status == 503
    assert json.loads(body)["serviceProxyHealthy"] is False
    assert response.headers["X-Load-Balancing-Endpoint-Weight"] == "2"
    node.is_healthy = True
    assert ask(port)[0].status == 200


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST", "M-SEARCH"])
@pytest.mark.parametrize("path", ["/", "/healthz?a=b", "*", "http://node:1/x"])
def test_any_method_and_any_path(node: Node, port: int, method: str, path: str) -> None:
    node.serve((WEB, port, 1))
    assert ask(port, method=method, path=path)[0].status == 200


def test_a_head_request_has_no_body(node: Node, port: int) -> None:
    node.serve((WEB, port, 1))
    head, _, body = say(port, b"HEAD / HTTP/1.1\r\nHost: node\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b""


def test_a_body_does_not_cost_the_answer(node: Node, port: int) -> None:
    node.serve((WEB, port, 1))
    for _ in range(20):
        assert ask(port, method="POST", body=bytes(10_000))[0].status == 200


def test_a_client_who_goes_on_after_the_answer_is_heard_out(node: Node, port: int) -> None:
    node.serve((WEB, port, 1))
    wait_until(lambda: is_open(port))
    with socket.create_connection((V4, port), timeout=DEADLINE_SECONDS) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: node\r\nContent-Length: 2000\r\n\r\n")
        assert received(sock).startswith(b"HTTP/1.1 200 OK\r\n")
        for _ in range(20):
            sock.sendall(bytes(100))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_a_request_that_comes_in_pieces(node: Node, port: int) -> None:
    node.serve((WEB, port, 1))
    wait_until(lambda: is_open(port))
    with socket.create_connection((V4, port), timeout=DEADLINE_SECONDS) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET / HTTP/1.0\r\n\r\n":
            sock.send(bytes([byte]))
        assert received(sock).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_client_that_half_closes_is_answered(node: Node, port: int) -> None:
    node.serve((WEB, port, 1))
    wait_until(lambda: is_open(port))
    with socket.create_connection((V4, port), timeout=DEADLINE_SECONDS) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert received(sock).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "request_", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\r\n\r\n", b"\x16\x03\r\n\r\n"]
)
def test_what_is_not_http_1_is_refused(node: Node, port: int, request_: bytes) -> None:
    node.serve((WEB, port, 1))
    assert say(port, request_).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_changed_count_takes_effect_on_the_open_port(node: Node, port: int) -> None:
    node.serve((WEB, port, 1))
    wait_until(lambda: is_open(port))
    with socket.create_connection((V4, port), timeout=DEADLINE_SECONDS) as waiting:
        waiting.sendall(b"GET / HTTP/1.0\r\n")
        node.serve((WEB, port, 0))
        assert count_at(port) == (503, "web", 0)
        waiting.sendall(b"\r\n")  # it is still connected, so the port was not opened again
        assert received(waiting).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


def test_the_checks_may_change_after_they_were_given(node: Node, port: int) -> None:
    node.serve((WEB, port, 1))
    assert count_at(port) == (200, "web", 1)
    for count in range(50):
        node.serve((WEB, port, count))
    assert count_at(port) == (200, "web", 49)


def test_ports_come_and_go(node: Node) -> None:
    first, second = free_ports(2)
    node.serve((WEB, first, 1))
    assert count_at(first) == (200, "web", 1)
    node.serve((WEB, second, 1), (DNS, first, 3))
    assert count_at(second) == (200, "web", 1)
    assert count_at(first) == (200, "dns", 3)
    node.serve((WEB, second, 1))
    wait_until(lambda: not is_open(first))
    assert count_at(second) == (200, "web", 1)
    node.serve()
    wait_until(lambda: not is_open(second))
    node.serve((WEB, first, 1))
    assert count_at(first) == (200, "web", 1)


def test_a_port_that_went_says_nothing_to_those_who_were_there(node: Node, port: int) -> None:
    node.serve((WEB, port, 1))
    wait_until(lambda: is_open(port))
    with socket.create_connection((V4, port), timeout=DEADLINE_SECONDS) as late:
        late.sendall(b"GET / HTTP/1.0\r\n")
        node.serve()
        late.sendall(b"\r\n")
        assert received(late) == b""


def test_both_families_have_the_port_to_themselves(node: Node, port: int) -> None:
    node.addresses = ("0.0.0.0", "::")
    node.serve((WEB, port, 1))
    assert count_at(port, V4) == count_at(port, V6) == (200, "web", 1)
    node.addresses = ("::",)
    node.serve((WEB, port, 1))
    wait_until(lambda: not is_open(port, V4))
    assert count_at(port, V6) == (200, "web", 1)


def test_the_port_moves_with_the_addresses(node: Node, port: int, caplog: pytest.LogCaptureFixture) -> None:
    node.addresses = ("0.0.0.0",)
    node.serve((WEB, port, 1))
    assert count_at(port) == (200, "web", 1)
    node.addresses = ("127.0.0.2",)
    node.serve((WEB, port, 1))
    assert count_at(port, "127.0.0.2") == (200, "web", 1)
    assert not is_open(port)
    assert not caplog.records


def test_a_port_that_is_taken_is_named_once_and_opened_when_it_is_free(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    taken, free = free_ports(2)
    with socket.create_server((V4, taken)):
        node.serve((WEB, taken, 1), (DNS, free, 1))
        assert count_at(free) == (200, "dns", 1)  # the others do not suffer
        for count in range(2, 5):
            node.serve((WEB, taken, count), (DNS, free, count))
            assert count_at(free) == (200, "dns", count)
        assert caplog.messages == [
            "Health checks not served: service=default/web "
            f"address={V4}:{taken} reason=Address already in use"
        ]
    wait_until(lambda: f"Health checks mended: {V4}:{taken}" in caplog.messages)  # without another `serve`
    assert count_at(taken) == (200, "web", 4)
    assert len(caplog.records) == 2
    assert node.events.said == ["FailedToStartServiceHealthcheck of Service default/web"]


def test_a_port_that_was_never_opened_can_go(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    taken, free = free_ports(2)
    with socket.create_server((V4, taken)):
        node.serve((WEB, taken, 1))
        wait_until(lambda: caplog.records)
        node.serve((WEB, free, 1))
        assert count_at(free) == (200, "web", 1)
    assert not is_open(taken)
    wait_until(lambda: caplog.messages[1:] == [f"Health checks mended: {V4}:{taken}"])


def test_an_address_that_the_node_does_not_have(
    node: Node, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    node.addresses = ("203.0.113.1", V4)
    node.serve((WEB, port, 1))
    assert count_at(port) == (200, "web", 1)
    wait_until(lambda: caplog.records)
    assert "203.0.113.1" in caplog.text


def test_of_two_services_with_one_port_the_first_by_name_has_it(
    node: Node, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    node.serve((WEB, port, 1), (DNS, port, 2))
    assert count_at(port) == (200, "dns", 2)
    wait_until(lambda: caplog.records)
    node.serve((WEB, port, 1), (DNS, port, 3))
    assert count_at(port) == (200, "dns", 3)
    assert caplog.messages == [
        f"Health checks not served: service=default/web port={port} reason=the port belongs to default/dns"
    ]
    node.serve((WEB, port, 1))
    assert count_at(port) == (200, "web", 1)


def test_a_slow_client_is_given_up_however_busy_it_looks(port: int) -> None:
    with serving(conversation_seconds=0.3) as node:
        node.serve((WEB, port, 1))
        wait_until(lambda: is_open(port))
        began = time.monotonic()
        with socket.create_connection((V4, port), timeout=DEADLINE_SECONDS) as slow:
            slow.settimeout(0.02)
            slow.sendall(b"GET / HTTP/1.1\r\n")
            wait_until(lambda: is_over_after(slow, b"X-A: b\r\n"))
        assert time.monotonic() - began > 0.29  # uvloop counts in whole milliseconds


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.0\r\n\r\n"])
def test_a_client_that_stays_is_sent_away(port: int, sent: bytes) -> None:
    with serving(conversation_seconds=2.0) as node:
        node.serve((WEB, port, 1))
        wait_until(lambda: is_open(port))
        [before] = descriptors_at_rest(os.getpid())
        with socket.create_connection((V4, port), timeout=DEADLINE_SECONDS) as idle:
            idle.sendall(sent)
            wait_until(lambda: open_descriptors() == before + 1)  # ours; theirs is gone
            assert received(idle).startswith(b"HTTP/1.1 200") is bool(sent)


def test_a_request_without_an_end_is_given_up(node: Node, port: int) -> None:
    node.serve((WEB, port, 1))
    assert say(port, b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 2047) == b""


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_many_idle_clients_do_not_keep_a_check_out(port: int, loop_factory: LoopFactory) -> None:
    with serving(loop_factory, max_conversations=5) as node, ExitStack() as stack:
        node.serve((WEB, port, 1))
        wait_until(lambda: is_open(port))
        before = open_descriptors()
        with node.stalled():  # so that they are there all at once
            idle = [
                stack.enter_context(socket.create_connection((V4, port), timeout=DEADLINE_SECONDS))
                for _ in range(50)
            ]
        assert count_at(port) == (200, "web", 1)
        assert received(idle[0]) == b""  # the oldest went
        wait_until(lambda: open_descriptors() <= before + len(idle) + 5)


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_closing_leaves_nothing_behind(port: int, loop_factory: LoopFactory) -> None:
    before = open_descriptors()
    with ExitStack() as clients, serving(loop_factory) as node:
        node.serve()
        of_the_loop = open_sockets()
        node.addresses = (V4, V6)
        node.serve((WEB, port, 1))
        assert count_at(port, V6) == (200, "web", 1)
        requests = (b"", b"GET /", b"GET / HTTP/1.0\r\n\r\n")
        for request in requests:
            client = socket.create_connection((V4, port), timeout=DEADLINE_SECONDS)
            clients.enter_context(client)
            client.sendall(request)
        node.close()
        assert not is_open(port)
        wait_until(lambda: open_sockets() == of_the_loop + len(requests))
    assert open_descriptors() == before


def test_closing_while_ports_are_opened_leaves_nothing_behind() -> None:
    before = open_descriptors()
    ports = free_ports(20)
    for _ in range(10):
        with serving(asyncio.new_event_loop) as node:
            node.serve(*((ServiceName("default", str(port)), port, 1) for port in ports))
    assert not any(is_open(port) for port in ports)
    assert open_descriptors() == before


def test_closing_what_never_served() -> None:
    with serving():
        pass


def test_a_failure_of_ours_is_raised_to_whoever_runs_it() -> None:
    async def run() -> None:
        def nowhere() -> Sequence[str]:
            raise ValueError("a bug")

        ports = HealthCheckNodePorts(asyncio.get_running_loop(), is_healthy=lambda: True, addresses=nowhere)
        ports.serve({})
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await ports.run()
        finally:
            await ports.close()

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(run())
