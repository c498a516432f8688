from __future__ import annotations

import errno
import os
import socket
import threading
from collections import deque
from contextlib import ExitStack

import pytest

from tests.support.loopback import (
    DEADLINE_SECONDS,
    connect,
    echo,
    open_descriptors,
    receive_all,
    say_port,
    server,
    tcp_proxy,
    wait_until,
)
from userspace_proxy.dataplane.poller import Socket
from userspace_proxy.dataplane.tcp_connect import TcpRoute


class Failing(socket.socket):
    """A listening socket whose next accepts fail with `errors`."""

    def __init__(self, *errors: int) -> None:
        super().__init__()
        self.errors = deque(errors)
        self.bind(("127.0.0.1", 0))
        self.listen()

    def _accept(self) -> tuple[int, tuple[str, int]]:
        if self.errors:
            error = self.errors.popleft()
            raise OSError(error, os.strerror(error))
        accepted: tuple[int, tuple[str, int]] = super()._accept()  # type: ignore[misc]
        return accepted


def test_a_client_who_left_while_it_waited_does_not_hold_up_the_next() -> None:
    listening = Failing(errno.ECONNABORTED, errno.EPROTO)
    with server(say_port) as endpoint, tcp_proxy(endpoint, listening=listening) as proxy:
        with proxy.connect() as client:
            assert receive_all(client)
        assert proxy.listener.pauses == 0


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL])
def test_want_of_resources_pauses_and_the_client_is_served_afterwards(error: int) -> None:
    listening = Failing(*[error] * 3)
    with server(say_port) as endpoint, tcp_proxy(endpoint, listening=listening) as proxy:
        with proxy.connect() as client:
            assert receive_all(client)
        assert proxy.listener.pauses == 3


def test_closing_during_a_pause() -> None:
    listening = Failing(*[errno.EMFILE] * 1000)
    with server(say_port) as endpoint, tcp_proxy(endpoint, listening=listening) as proxy, proxy.connect():
        wait_until(lambda: proxy.listener.pauses > 1)
        proxy.call(proxy.close_listener)
        passed = threading.Event()
        proxy.call(proxy.loop.call_later, 0.1, passed.set)  # beyond the end of the pause
        assert passed.wait(DEADLINE_SECONDS)


def test_more_clients_than_a_burst_are_all_accepted() -> None:
    with server(echo) as endpoint, tcp_proxy(endpoint) as proxy:
        clients: list[socket.socket] = []
        proxy.call(lambda: clients.extend(proxy.connect() for _ in range(200)))
        for client in clients:
            client.sendall(b"x")
        for client in clients:
            assert client.recv(1) == b"x"
            client.close()


def test_those_who_wait_in_the_backlog_are_served_before_it_closes() -> None:
    with server(say_port) as endpoint, tcp_proxy(endpoint) as proxy:
        clients: list[socket.socket] = []

        def close_in_front_of_them() -> None:
            clients.extend(proxy.connect() for _ in range(100))
            proxy.listener.serve_waiting()
            proxy.close_listener()

        proxy.call(close_in_front_of_them)
        for client in clients:
            assert receive_all(client) == str(endpoint.port).encode()
            client.close()


def test_who_comes_while_others_are_served_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(say_port) as endpoint, tcp_proxy(endpoint) as proxy, ExitStack() as stack:
        start = proxy.connects.start

        def one_more(client: Socket, address: str, route: TcpRoute) -> None:
            if proxy.admission.admitted < 100:
                stack.enter_context(proxy.connect())
            start(client, address, route)

        def close_in_front_of_them() -> int:
            for _ in range(10):
                stack.enter_context(proxy.connect())
            proxy.listener.serve_waiting()
            proxy.close_listener()
            return proxy.admission.admitted

        monkeypatch.setattr(proxy.connects, "start", one_more)
        assert proxy.call(close_in_front_of_them) == 10


def test_a_closed_listener_leaves_the_clients_to_whoever_holds_a_duplicate() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with listening.dup() as duplicate, server(say_port) as endpoint:
        with tcp_proxy(endpoint, listening=listening) as proxy:
            before = open_descriptors()
            proxy.call(proxy.close_listener)
            assert open_descriptors() == before - 1
            client = connect(port)
            # Had the epoll kept what was closed here, it would report the client for ever.
            assert proxy.call(proxy.poller._epoll.poll, 0) == []
        with client, duplicate.accept()[0] as accepted:
            accepted.sendall(b"successor")
            assert client.recv(100) == b"successor"
