"""A relay seen from both of its ends. What is in between shows only in the descriptors that it holds."""

from __future__ import annotations

import gc
import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from tests.conftest import ISOLATION_REFUSAL
from tests.support.loopback import (
    DEADLINE_SECONDS,
    Conversation,
    TcpProxy,
    answer_digest,
    at_once,
    digest,
    echo,
    endpoint_of,
    open_descriptors,
    receive_all,
    reset,
    say_port,
    server,
    tcp_proxy,
    wait_until,
)
from userspace_proxy.dataplane import tcp_half_relay
from userspace_proxy.dataplane.splice import PIPE_BYTES, PipePool

MEGABYTE = 1_000_000

TCP_RMEM = Path("/proc/sys/net/ipv4/tcp_rmem")
"""Of this process' own network namespace: see tests/conftest.py."""


def some_bytes(seed: int, size: int) -> bytes:
    return Random(seed).randbytes(size)


@pytest.fixture(params=["spliced", "copied", "in small shares"])
def pipes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PipePool:
    """The ways that bulk can take."""
    if request.param == "in small shares":
        monkeypatch.setattr(tcp_half_relay, "SHARE_BYTES", tcp_half_relay.BUFFER_BYTES)
    return PipePool(max_lent=0 if request.param == "copied" else 128)


def test_48_uploads_at_once_whose_clients_half_close_first(pipes: PipePool) -> None:
    with server(answer_digest) as endpoint, tcp_proxy(endpoint, pipes=pipes) as proxy:

        def upload(number: int) -> None:
            data = some_bytes(number, MEGABYTE)
            with proxy.connect() as client:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                assert receive_all(client) == digest(data)

        at_once(48, upload)
        proxy.wait_until_idle()
        assert proxy.counters.bytes_in == 48 * MEGABYTE
        assert proxy.counters.bytes_out == 48 * len(digest(b""))
        assert (proxy.counters.opened, proxy.counters.failed, proxy.counters.active) == (48, 0, 0)


def test_an_endpoint_that_half_closes_first_can_still_be_sent_to(pipes: PipePool) -> None:
    received: queue.Queue[bytes] = queue.Queue()

    def greet_and_listen(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        received.put(receive_all(sock))

    data = some_bytes(1, MEGABYTE)
    with server(greet_and_listen) as endpoint, tcp_proxy(endpoint, pipes=pipes) as proxy:
        with proxy.connect() as client:
            assert receive_all(client) == b"hello"
            client.sendall(data)
        assert digest(received.get(timeout=DEADLINE_SECONDS)) == digest(data)
        proxy.wait_until_idle()


def test_bulk_both_ways_at_once(pipes: PipePool) -> None:
    data = some_bytes(2, 20 * MEGABYTE)
    with server(echo) as endpoint, tcp_proxy(endpoint, pipes=pipes) as proxy, proxy.connect() as client:

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert digest(receive_all(client)) == digest(data)
        sender.join()
        proxy.wait_until_idle()
        assert proxy.counters.bytes_in == proxy.counters.bytes_out == len(data)


def test_small_messages_go_back_and_forth() -> None:
    with server(echo) as endpoint, tcp_proxy(endpoint) as proxy, proxy.connect() as client:
        for number in range(500):
            message = some_bytes(number, number % 50 + 1)
            client.sendall(message)
            assert client.recv(100, socket.MSG_WAITALL if len(message) == 100 else 0) == message


def test_a_connection_that_carries_no_bulk_now_holds_two_descriptors() -> None:
    with server(echo) as endpoint, tcp_proxy(endpoint, pipes=PipePool(max_idle=0)) as proxy:
        before = open_descriptors()
        with proxy.connect() as client:
            wait_until(lambda: proxy.counters.active == 1)
            # The client's and the endpoint's, as soon as that accepts, are the test's.
            wait_until(lambda: open_descriptors() - 2 - before == 2)
            in_between = before + 2
            data = some_bytes(3, 8 * MEGABYTE)
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            received = 0
            while received < len(data):
                received += len(client.recv(1 << 18))
            sender.join()
            client.sendall(b"small again")
            assert client.recv(100) == b"small again"
            wait_until(lambda: open_descriptors() - 2 == in_between)
            assert proxy.pipes.lent == 0


def test_a_connection_that_rests_after_bulk_keeps_no_pipe_from_others() -> None:
    data = some_bytes(4, 4 * MEGABYTE)
    received: queue.Queue[int] = queue.Queue()

    def swallow(sock: socket.socket) -> None:
        left = len(data)
        while left:
            left -= len(sock.recv(left))
        received.put(left)
        sock.recv(1)  # the connection rests

    with server(swallow) as endpoint, tcp_proxy(endpoint) as proxy, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(proxy.connect()).sendall(data)
            received.get(timeout=DEADLINE_SECONDS)
        wait_until(lambda: proxy.pipes.lent == 0)


@pytest.mark.parametrize("size", [3, 4 * MEGABYTE])
def test_what_comes_around_urgent_data_passes(size: int, pipes: PipePool) -> None:
    """The urgent byte itself is left out, as it is for everybody who does not ask for it; tcp(7)."""
    received: queue.Queue[bytes] = queue.Queue()

    def collect(sock: socket.socket) -> None:
        received.put(receive_exactly(sock, 2 * size))

    data = some_bytes(5, size)
    with server(collect) as endpoint, tcp_proxy(endpoint, pipes=pipes) as proxy, proxy.connect() as client:
        client.sendall(data)
        client.send(b"!", socket.MSG_OOB)
        client.sendall(data)
        assert digest(received.get(timeout=DEADLINE_SECONDS)) == digest(data + data)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (chunk := sock.recv(size - len(received))):
        received += chunk
    return bytes(received)


def collect_ending(endings: queue.Queue[str]) -> Conversation:
    """An endpoint that reads to the end and says how it ended."""

    def converse(sock: socket.socket) -> None:
        try:
            receive_all(sock)
            endings.put("end of stream")
        except ConnectionResetError:
            endings.put("reset")

    return converse


@pytest.mark.parametrize(("leave", "ending"), [(reset, "reset"), (socket.socket.close, "end of stream")])
def test_how_the_client_ends_is_how_it_ends_for_the_endpoint(leave: Conversation, ending: str) -> None:
    endings: queue.Queue[str] = queue.Queue()
    with server(collect_ending(endings)) as endpoint, tcp_proxy(endpoint) as proxy:
        client = proxy.connect()
        client.sendall(b"x")
        wait_until(lambda: proxy.counters.bytes_in == 1)
        leave(client)
        assert endings.get(timeout=DEADLINE_SECONDS) == ending
        proxy.wait_until_idle()


def test_an_endpoints_reset_arrives_as_a_reset_after_the_bytes_before_it() -> None:
    with open_sides() as (proxy, client, endpoint):

        def answer_and_reset() -> None:
            endpoint.sendall(b"413 too large")
            reset(endpoint)

        proxy.call(answer_and_reset)  # in the loop's thread: the relay hears of both at once
        assert client.recv(100) == b"413 too large"
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        proxy.wait_until_idle()


@contextmanager
def open_sides() -> Iterator[tuple[TcpProxy, socket.socket, socket.socket]]:
    """A proxy, and both ends of one connection through it in the test's own hands."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        tcp_proxy(endpoint_of(listening)) as proxy,
        proxy.connect() as client,
        listening.accept()[0] as endpoint,
    ):
        wait_until(lambda: proxy.counters.active == 1)
        yield proxy, client, endpoint


def test_an_endpoints_reset_does_not_wait_for_a_client_that_does_not_read() -> None:
    with open_sides() as (proxy, _, endpoint):
        endpoint.setblocking(False)

        def is_full() -> bool:
            with suppress(BlockingIOError):
                endpoint.send(bytes(1 << 20))
                return False
            return True

        wait_until(lambda: all(is_full() for _ in range(20)))
        reset(endpoint)
        proxy.wait_until_idle()


def test_a_reset_passes_a_half_that_is_closed() -> None:
    ready = threading.Event()

    def half_close_and_reset(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        ready.wait(DEADLINE_SECONDS)
        reset(sock)

    with server(half_close_and_reset) as endpoint, tcp_proxy(endpoint) as proxy, proxy.connect() as client:
        assert client.recv(1) == b""
        ready.set()

        def send_fails() -> bool:
            try:
                client.send(b"x")
            except (ConnectionResetError, BrokenPipeError):
                return True
            return False

        wait_until(send_fails)
        proxy.wait_until_idle()


def test_a_reset_passes_a_half_that_is_blocked() -> None:
    """The client does not read, so the response waits in the relay; its reset must reach the endpoint."""
    endings: queue.Queue[str] = queue.Queue()

    def send_until_it_ends(sock: socket.socket) -> None:
        try:
            while True:
                sock.sendall(bytes(1 << 16))
        except (ConnectionResetError, BrokenPipeError):
            endings.put("reset")

    with server(send_until_it_ends) as endpoint, tcp_proxy(endpoint) as proxy:
        client = proxy.connect()
        wait_until_stalled(proxy)
        reset(client)
        assert endings.get(timeout=DEADLINE_SECONDS) == "reset"
        proxy.wait_until_idle()
        assert proxy.pipes.lent == 0


def test_nobody_gets_what_was_left_in_a_pipe_by_another() -> None:
    data = some_bytes(6, 4 * MEGABYTE)
    first = threading.Lock()

    def send(sock: socket.socket) -> None:
        while first.acquire(blocking=False):
            with suppress(OSError):
                sock.sendall(bytes(100 * MEGABYTE))
        sock.sendall(data)

    with server(send) as endpoint, tcp_proxy(endpoint) as proxy:
        leaver = proxy.connect()
        wait_until_stalled(proxy)
        reset(leaver)
        proxy.wait_until_idle()
        with proxy.connect() as client:
            assert digest(receive_all(client)) == digest(data)


def test_a_sink_that_takes_little_at_a_time_gets_everything(pipes: PipePool) -> None:
    data = some_bytes(5, MEGABYTE)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # inherited by what is accepted
    with (
        server(lambda sock: sock.sendall(data)) as endpoint,
        tcp_proxy(endpoint, pipes=pipes, listening=listening) as proxy,
        proxy.connect() as client,
    ):
        assert digest(receive_all(client)) == digest(data)


def wait_until_stalled(proxy: TcpProxy) -> None:
    """Bytes have come through, and for a while none did."""
    seen: list[int] = []

    def is_stalled() -> bool:
        seen.append(proxy.counters.bytes_out)
        return seen[-1] > 0 and len(seen) > 50 and seen[-50] == seen[-1]

    wait_until(is_stalled)


@pytest.fixture
def small_receive_buffers(pytestconfig: pytest.Config) -> Iterator[int]:
    """The most bytes that a socket made here holds for its reader. Kernels from 6.16 on allow 32 MiB."""
    if refusal := pytestconfig.stash[ISOLATION_REFUSAL]:
        pytest.skip(refusal)
    before = TCP_RMEM.read_text()
    TCP_RMEM.write_text(f"4096 131072 {6 * MEGABYTE}")
    yield 6 * MEGABYTE
    TCP_RMEM.write_text(before)


def test_a_slow_reader_slows_its_peer_down_and_loses_nothing(
    pipes: PipePool, small_receive_buffers: int
) -> None:
    data = some_bytes(4, 40 * MEGABYTE)
    taken = 0

    def send(sock: socket.socket) -> None:
        nonlocal taken
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        view = memoryview(data)
        while taken < len(data):
            taken += sock.send(view[taken : taken + (1 << 16)])

    with server(send) as endpoint, tcp_proxy(endpoint, pipes=pipes) as proxy, proxy.connect() as client:
        wait_until_stalled(proxy)
        kept_back = taken - proxy.counters.bytes_out
        assert kept_back < PIPE_BYTES + small_receive_buffers + MEGABYTE
        assert taken < len(data)
        assert digest(receive_all(client)) == digest(data)
        assert proxy.counters.bytes_out == len(data)


def test_nothing_is_left_open_afterwards() -> None:
    with server(echo) as endpoint, tcp_proxy(endpoint) as proxy:

        def converse(number: int) -> None:
            with proxy.connect() as client:
                client.sendall(bytes(number * 50_000))
                if number % 3 == 0:
                    reset(client)
                elif number % 3 == 1:
                    client.shutdown(socket.SHUT_WR)
                    receive_all(client)

        at_once(16, converse)
        proxy.wait_until_idle()
        settled = open_descriptors()
        for _ in range(3):
            at_once(16, converse)
        proxy.wait_until_idle()
        assert proxy.pipes.lent == 0
        wait_until(lambda: open_descriptors() <= settled + 2 * 16)  # idle pipes
        proxy.call(proxy.pipes.close)
        wait_until(lambda: open_descriptors() <= settled)


@pytest.mark.parametrize("seed", range(3))
def test_any_sizes_and_any_order_of_half_closes(seed: int, pipes: PipePool) -> None:
    """100 connections, 8 at a time; a header tells the endpoint what to send, and when to end its half."""
    received: dict[int, bytes] = {}

    def converse(sock: socket.socket) -> None:
        number, size, speaks_first = (int(word) for word in sock.recv(24, socket.MSG_WAITALL).split())

        def speak() -> None:
            sock.sendall(some_bytes(-number, size))
            sock.shutdown(socket.SHUT_WR)

        speaker = threading.Thread(target=speak)
        if speaks_first:
            speaker.start()
        received[number] = digest(receive_all(sock))
        if not speaks_first:
            speaker.start()
        speaker.join()

    def call(number: int, chance: Random) -> None:
        sent, size = (chance.choice((0, 1, 1000, 65536, 65537, chance.randrange(3_000_000))) for _ in "12")
        request = some_bytes(number, sent)
        header = f"{number:7} {size:13} {chance.randrange(2)}\n".encode()
        with proxy.connect() as client, ThreadPoolExecutor(1) as thread:

            def send() -> None:
                client.sendall(header)
                for part in split(request, chance):
                    client.sendall(part)
                client.shutdown(socket.SHUT_WR)

            sending = thread.submit(send)
            response = receive_all(client)
            sending.result(DEADLINE_SECONDS)
        assert digest(response) == digest(some_bytes(-number, size))
        wait_until(lambda: number in received)
        assert received[number] == digest(request)

    with server(converse) as endpoint, tcp_proxy(endpoint, pipes=pipes) as proxy:
        with ThreadPoolExecutor(8) as clients:
            calls = [clients.submit(call, number, Random(seed * 1000 + number)) for number in range(1, 101)]
            for future in calls:
                future.result()
        proxy.wait_until_idle()
        assert proxy.counters.opened == 100
        assert proxy.pipes.lent == 0


def split(data: bytes, chance: Random) -> Iterator[bytes]:
    while data:
        cut = chance.choice((1, 100, 70_000, len(data)))
        yield data[:cut]
        data = data[cut:]


def test_connections_end_with_the_relays() -> None:
    with server(echo) as endpoint, tcp_proxy(endpoint) as proxy, proxy.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        proxy.call(proxy.relays.close)
        with pytest.raises(ConnectionResetError), suppress(BrokenPipeError):
            client.recv(1)
        assert proxy.counters.active == 0


def test_what_has_ended_leaves_nothing_for_the_garbage_collector() -> None:
    with server(say_port) as endpoint, tcp_proxy(endpoint) as proxy:

        def collect_after_connections() -> int:
            for _ in range(10):
                with proxy.connect() as client:
                    receive_all(client)
            proxy.wait_until_idle()
            return sum(1 for thing in proxy.call(gc.get_objects) if type(thing).__name__ == "HalfRelay")

        gc.collect()
        gc.disable()
        try:
            assert collect_after_connections() == 0
        finally:
            gc.enable()
