"""How clients come to an endpoint that answers, among some that do not."""

from __future__ import annotations

import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.loopback import (
    TcpProxy,
    answer_digest,
    at_once,
    digest,
    echo,
    endpoint_of,
    is_reset,
    open_descriptors,
    receive_all,
    refusing,
    reset,
    say_port,
    server,
    serving,
    silent,
    tcp_proxy,
    wait_until,
)
from tests.support.waiting import may_take_less_than
from userspace_proxy.core import connect_attempts
from userspace_proxy.core.ejection import FAILURES_TO_EJECT
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.service_port import Port, TrafficPolicy


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect_attempts, "WAITS_SECONDS", (0.01, 0.01, 0.01, 0.01))


def ask(proxy: TcpProxy) -> str:
    with proxy.connect() as client:
        return receive_all(client).decode()


def test_300_connections_and_one_endpoint_of_three_refuses() -> None:
    with (
        server(say_port) as one,
        server(say_port) as two,
        refusing() as dead,
        tcp_proxy(one, two, dead) as proxy,
    ):
        answers = Counter(ask(proxy) for _ in range(300))
        assert answers.keys() == {str(one.port), str(two.port)}
        assert min(answers.values()) >= 145, "those that are left take turns"
        assert proxy.counters.failed == 0
        assert FAILURES_TO_EJECT <= proxy.counters.retried < 20, "later only a probe now and then meets it"


def test_nine_of_ten_endpoints_refuse() -> None:
    def attempt() -> float:
        with ExitStack() as stack:
            dead = [stack.enter_context(refusing()) for _ in range(9)]
            alive = stack.enter_context(server(say_port))
            proxy = stack.enter_context(tcp_proxy(*dead, alive))
            started = time.monotonic()
            answers = {answer for _ in range(5) for answer in at_once(20, lambda _: ask(proxy))}
            assert answers == {str(alive.port)}
            assert proxy.counters.failed == 0
            return time.monotonic() - started

    assert may_take_less_than(2.0, attempt)


def test_one_endpoint_of_four_is_silent_and_32_clients_come_at_once() -> None:
    def attempt() -> float:
        with ExitStack() as stack:
            alive = [stack.enter_context(server(say_port)) for _ in range(3)]
            swallowing = stack.enter_context(silent())
            proxy = stack.enter_context(tcp_proxy(*alive, swallowing))

            def timed(_: int) -> float:
                started = time.monotonic()
                assert int(ask(proxy)) in {endpoint.port for endpoint in alive}
                return time.monotonic() - started

            slowest = max(second for _ in range(3) for second in at_once(32, timed))
            assert proxy.counters.failed == 0
            if slowest < 1:
                assert 8 <= proxy.counters.retried <= 12, "who came before anybody knew, and probes"
            proxy.wait_until_idle()
            return slowest

    assert may_take_less_than(1.0, attempt), "it costs its 250 ms, and that only those who met it"


def test_an_endpoint_that_refuses_for_a_moment_is_waited_for() -> None:
    with ExitStack() as stack:
        restarting = stack.enter_context(socket.socket())
        restarting.bind(("127.0.0.1", 0))
        proxy = stack.enter_context(tcp_proxy(endpoint_of(restarting)))
        client = stack.enter_context(proxy.connect())
        wait_until(lambda: proxy.counters.retried == 1)
        restarting.listen()
        with serving(restarting, say_port) as alive:
            assert receive_all(client).decode() == str(alive.port)


@pytest.mark.usefixtures("short_waits")
def test_when_every_endpoint_refuses_to_the_end_the_client_is_reset() -> None:
    with refusing() as one, refusing() as two, tcp_proxy(one, two) as proxy:
        assert is_reset(proxy.port)
        assert proxy.counters.failed == 1
        assert proxy.counters.retried == 9
        assert proxy.counters.opened == 0
        proxy.wait_until_idle()


def test_without_endpoints_the_client_is_reset_at_once() -> None:
    with tcp_proxy() as proxy:
        assert is_reset(proxy.port)
        assert proxy.counters.failed == 1


def test_no_route_to_an_endpoint_counts_as_its_failure() -> None:
    unreachable = Endpoint("255.255.255.255", Port(80))  # connect(2) itself fails
    with server(say_port) as alive, tcp_proxy(unreachable, alive) as proxy:
        assert {ask(proxy) for _ in range(10)} == {str(alive.port)}
        assert proxy.counters.failed == 0


def test_what_a_client_sends_and_its_half_close_wait_for_the_endpoint() -> None:
    data = bytes(range(256)) * 400
    with silent() as swallowing, tcp_proxy(swallowing) as proxy, proxy.connect() as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: proxy.counters.retried == 1)
        with server(answer_digest) as alive:
            proxy.call(proxy.balancer.set_endpoints, TrafficPolicy.CLUSTER, [alive])
            assert receive_all(client) == digest(data)
            proxy.wait_until_idle()


def say_packets(sock: socket.socket) -> None:
    """Answer the first byte with how many packets had come by then; tcpi_segs_in in linux/tcp.h."""
    sock.recv(1)
    (packets,) = struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144), 140)
    sock.sendall(str(packets).encode())


@contextmanager
def client_that_has_spoken(proxy: TcpProxy) -> Iterator[socket.socket]:
    """It has sent a byte before the worker, whose loop we use for that, has a look at it."""

    def speak() -> socket.socket:
        client = proxy.connect()
        client.sendall(b"?")
        return client

    with proxy.call(speak) as client:
        yield client


def test_what_a_client_has_said_completes_the_handshake_with_the_endpoint() -> None:
    with (
        server(say_packets) as endpoint,
        tcp_proxy(endpoint) as proxy,
        client_that_has_spoken(proxy) as client,
    ):
        assert receive_all(client) == b"2", "no packet but SYN and request"


def fastest_of_ten(work: Callable[[], object]) -> float:
    """Seconds. What a busy machine does to one it does not do to all."""

    def timed() -> float:
        began = time.monotonic()
        work()
        return time.monotonic() - began

    return min(timed() for _ in range(10))


def test_an_endpoint_that_speaks_first_hears_of_its_client_at_once() -> None:
    with server(say_port) as endpoint, tcp_proxy(endpoint) as proxy:
        assert fastest_of_ten(lambda: ask(proxy)) < 0.15, "without our acknowledgement it would take 0.2 s"


def answer_in_two_pieces(sock: socket.socket) -> None:
    """With Nagle's algorithm on, so that the second waits until the first has been acknowledged."""
    sock.recv(1)
    sock.sendall(b"one ")
    sock.sendall(b"two")
    sock.recv(1)


def test_the_first_answer_of_an_endpoint_is_acknowledged_at_once() -> None:
    with server(answer_in_two_pieces) as endpoint, tcp_proxy(endpoint) as proxy:

        def ask_for_both() -> None:
            with client_that_has_spoken(proxy) as client:
                assert (client.recv(4), client.recv(3)) == (b"one ", b"two")

        assert fastest_of_ten(ask_for_both) < 0.03, "a delayed acknowledgement takes 0.04 s"


def test_a_client_that_resets_while_it_waits_leaves_nothing_behind() -> None:
    with silent() as swallowing, tcp_proxy(swallowing) as proxy:
        before = open_descriptors()
        client = proxy.connect()
        wait_until(lambda: proxy.counters.retried == 1)
        reset(client)
        proxy.wait_until_idle()
        assert open_descriptors() == before
        assert proxy.counters.failed == 0


def test_attempts_that_did_not_win_are_closed() -> None:
    with silent() as swallowing, server(echo) as alive, tcp_proxy(swallowing) as proxy:
        before = open_descriptors()
        with proxy.connect() as client:
            wait_until(lambda: len(proxy.connects) == 1)
            proxy.call(proxy.balancer.set_endpoints, TrafficPolicy.CLUSTER, [alive])
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            assert open_descriptors() == before + 4  # two ours, two the test's


def test_a_client_with_affinity_stays_and_moves_when_its_endpoint_dies() -> None:
    with ExitStack() as stack:
        alive = [stack.enter_context(server(say_port)) for _ in range(3)]
        proxy = stack.enter_context(tcp_proxy(*alive, affinity_seconds=100))
        (first,) = set(at_once(40, lambda _: ask(proxy)))
        with refusing() as dead:
            others = [endpoint for endpoint in alive if str(endpoint.port) != first]
            proxy.call(proxy.balancer.settle, "127.0.0.1", dead, proxy.connects.now())
            proxy.call(proxy.balancer.set_endpoints, TrafficPolicy.CLUSTER, [dead, *others])
            (second,) = set(at_once(40, lambda _: ask(proxy)))
            assert second in {str(endpoint.port) for endpoint in others}


@contextmanager
def descriptor_limit(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_client_for_whom_there_is_no_descriptor_is_served_when_there_is_one() -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # nobody accepts meanwhile
        proxy = stack.enter_context(tcp_proxy(endpoint_of(listening)))
        clients = [stack.enter_context(socket.socket()) for _ in range(2)]
        # One descriptor more is enough to accept the first client, and none is left for its endpoint.
        with descriptor_limit(_lowest_free_descriptor() + 1):
            clients[0].connect(("127.0.0.1", proxy.port))
            wait_until(lambda: proxy.connects.is_short_of_descriptors)
            clients[1].connect(("127.0.0.1", proxy.port))
            wait_until(lambda: proxy.listener.pauses)
            assert proxy.counters.opened == 0
        wait_until(lambda: proxy.counters.opened == 2)
        assert proxy.counters.failed == 0
        assert proxy.counters.retried == 0


def _lowest_free_descriptor() -> int:
    with socket.socket() as probe:
        return probe.fileno()


def test_clients_who_still_wait_are_reset_when_the_worker_ends() -> None:
    with silent() as swallowing, tcp_proxy(swallowing) as proxy, proxy.connect() as client:
        wait_until(lambda: len(proxy.connects) == 1)
        proxy.call(proxy.connects.close)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
