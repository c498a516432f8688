"""Each half of a connection ends when its sender ends it, and a reset arrives as a reset."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest

from tests.support.clients import connect, greeting, received_to_the_end, sockets
from tests.support.loopback import at_once, reset
from tests.support.service_node import ENDPOINT_PORTS, ServedService, ServiceNode
from userspace_proxy.demo.namespaces import Namespace

UPLOADS = 48
AT_ONCE = 8
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node"), endpoints=1) as node:
        node.agent.start()
        yield node


@pytest.fixture(scope="module")
def pod(node: ServiceNode) -> Namespace:
    """An endpoint whose server each test brings along."""
    return node.network.add_pod("endpoint")


@pytest.fixture(scope="module")
def service(node: ServiceNode, pod: Namespace) -> ServedService:
    return node.serve("greet", endpoints=[pod.address])


@contextmanager
def server(pod: Namespace, converse: Callable[[socket.socket], None]) -> Iterator[None]:
    """Hold one conversation as the endpoint; what goes wrong in it is the test's failure."""
    failures: list[BaseException] = []
    address = (pod.address, ENDPOINT_PORTS["greet"])
    with pod.call(lambda: socket.create_server(address)) as listening:
        listening.settimeout(20)

        def serve() -> None:
            try:
                connection, _ = listening.accept()
                connection.settimeout(20)
                with connection:
                    converse(connection)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join()
    if failures:
        raise failures[0]


def test_uploads_that_end_with_a_half_close_are_answered(node: ServiceNode) -> None:
    service = node.serve("digest")
    clients = sockets(node.client, UPLOADS)

    def upload(number: int) -> None:
        data = Random(number).randbytes(MEGABYTE)
        with clients[number] as client:
            client.connect(service["digest"])
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert received_to_the_end(client).decode() == hashlib.sha256(data).hexdigest()

    for first in range(0, UPLOADS, AT_ONCE):
        at_once(AT_ONCE, lambda number, first=first: upload(first + number))  # type: ignore[misc]


def test_a_server_that_half_closes_first_can_still_be_sent_to(
    node: ServiceNode, pod: Namespace, service: ServedService
) -> None:
    upload = Random(1).randbytes(MEGABYTE)
    received = []

    def say_all_and_listen(connection: socket.socket) -> None:
        connection.sendall(b"all that I have to say\n")
        connection.shutdown(socket.SHUT_WR)
        received.append(received_to_the_end(connection))

    with server(pod, say_all_and_listen), connect(node.client, service["greet"]) as client:
        assert received_to_the_end(client) == b"all that I have to say\n"
        client.sendall(upload)
        client.shutdown(socket.SHUT_WR)
    assert received == [upload]


def test_a_server_s_reset_is_the_client_s(node: ServiceNode) -> None:
    service = node.serve("reset")
    with connect(node.client, service["reset"]) as client:
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_client_s_reset_is_the_server_s(node: ServiceNode, pod: Namespace, service: ServedService) -> None:
    def expect_reset(connection: socket.socket) -> None:
        connection.sendall(b"hello\n")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)

    with server(pod, expect_reset):
        client = connect(node.client, service["greet"])
        assert greeting(client) == "hello"
        reset(client)


def test_a_clean_close_is_no_reset(node: ServiceNode, pod: Namespace, service: ServedService) -> None:
    ends = []
    with (
        server(pod, lambda connection: ends.append(connection.recv(1))),
        connect(node.client, service["greet"]) as client,
    ):
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert ends == [b""]
