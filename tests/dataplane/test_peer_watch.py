"""What the watch asks of the kernel, and when. Peers that really vanish are in tests/netns."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.loopback import DEADLINE_SECONDS, TcpProxy, echo, server, tcp_proxy, wait_until
from userspace_proxy.dataplane import peer_watch
from userspace_proxy.dataplane.peer_watch import TcpTimeouts
from userspace_proxy.dataplane.tcp_options import read_silence


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    with server(echo) as endpoint, tcp_proxy(endpoint) as running:
        yield running


def options_of(proxy: TcpProxy) -> list[tuple[int, ...]]:
    """Of both sides of the only connection: keepalive, its three numbers, the user timeout."""

    def read(sock: socket.SocketType) -> tuple[int, ...]:
        tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        return (
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            *(sock.getsockopt(socket.IPPROTO_TCP, option) for option in tcp),
        )

    def both() -> list[tuple[int, ...]]:
        [relay] = proxy.relays._relays
        return [read(sock) for sock in relay.sockets]

    return proxy.call(both)


def watch(proxy: TcpProxy, *, peer: float = 0.0, user: float = 0.0) -> None:
    proxy.call(proxy.relays.watch.set, TcpTimeouts(peer, user))


def test_both_sides_are_kept_alive_once_a_connection_has_lived_for_a_while(proxy: TcpProxy) -> None:
    watch(proxy, peer=2, user=30)
    with proxy.connect() as client:
        exchange(client)
        assert [options[0] for options in options_of(proxy)] == [0, 0]
        wait_until(lambda: options_of(proxy) == [(1, 1, 1, 1, 30_000)] * 2)
        exchange(client)


def test_other_timeouts_hold_for_connections_that_are_there(proxy: TcpProxy) -> None:
    watch(proxy, peer=2)
    with proxy.connect() as client:
        exchange(client)
        wait_until(lambda: options_of(proxy)[0][0])
        watch(proxy, user=3)
        wait_until(lambda: [(options[0], options[4]) for options in options_of(proxy)] == [(0, 3000)] * 2)
        exchange(client)


def test_without_timeouts_nothing_is_asked_of_the_kernel(
    proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_watch, "_LOOKS", 1e6)
    with proxy.connect() as client:
        exchange(client)
        assert proxy.relays.watch._timer is None


def test_connections_with_a_peer_that_is_gone_are_reset_and_the_others_go_on(
    proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_watch, "_PORTION", 2)
    gone: set[int] = set()

    def read(sock: socket.SocketType) -> tuple[int, int, float]:
        is_gone = sock.family == socket.AF_INET and sock.getpeername()[1] in gone
        return (3, 0, 100.0) if is_gone else read_silence(sock)

    monkeypatch.setattr(peer_watch, "read_silence", read)
    watch(proxy, peer=2)
    with ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(7)]
        for client in clients:
            exchange(client)
        gone.update(client.getsockname()[1] for client in clients[::2])
        wait_until(lambda: proxy.counters.active == 3)
        for client in clients[::2]:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        for client in clients[1::2]:
            exchange(client)


def test_the_watch_rests_while_there_is_nobody_to_watch(proxy: TcpProxy) -> None:
    watch(proxy, peer=2)
    for _ in range(2):
        with proxy.connect() as client:
            exchange(client)
            assert proxy.relays.watch.is_running
        wait_until(lambda: not proxy.relays.watch.is_running)


def exchange(client: socket.socket) -> None:
    client.settimeout(DEADLINE_SECONDS)
    client.sendall(b"?")
    assert client.recv(1) == b"?"
