"""The servers that other tests believe."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator

import pytest

from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.pods import start_server
from userspace_proxy.demo.server import dns_answer

PORTS = {"http": 80, "greet": 81, "digest": 82, "reset": 83, "udp": 84, "echo-udp": 85, "dns": 53}


@pytest.fixture(scope="module")
def pod() -> Iterator[Namespace]:
    with Namespace("pod", "127.0.0.1") as namespace:
        start_server(namespace, *(f"--{kind}={port}" for kind, port in PORTS.items()), name="web-1")
        yield namespace


def connect(pod: Namespace, kind: str) -> socket.socket:
    return pod.call(lambda: socket.create_connection(("127.0.0.1", PORTS[kind]), timeout=20))


def exchange(pod: Namespace, kind: str, datagram: bytes) -> bytes:
    with pod.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.settimeout(20)
        client.connect(("127.0.0.1", PORTS[kind]))
        client.send(datagram)
        return client.recv(65507)


def received_to_the_end(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        return stream.read()


def test_http_says_the_name_as_often_as_it_is_asked(pod: Namespace) -> None:
    answer = pod.run("curl", "-sS", "http://127.0.0.1/", "http://127.0.0.1/").stdout
    assert answer == "web-1\nweb-1\n"


def test_http_says_who_asked(pod: Namespace) -> None:
    assert (
        pod.run("curl", "-sS", "--local-port", "4711", "http://127.0.0.1/client").stdout == "127.0.0.1 4711\n"
    )


def test_http_closes_when_asked_to(pod: Namespace) -> None:
    with connect(pod, "http") as client:
        client.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert received_to_the_end(client).endswith(b"\r\n\r\nweb-1\n")


def test_greeting_then_echo_until_the_client_half_closes(pod: Namespace) -> None:
    with connect(pod, "greet") as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert received_to_the_end(client) == b"web-1\nhello"


def test_digest_of_an_upload_that_ends_with_a_half_close(pod: Namespace) -> None:
    upload = bytes(1_000_000)
    with connect(pod, "digest") as client:
        client.sendall(upload)
        client.shutdown(socket.SHUT_WR)
        assert received_to_the_end(client).decode() == hashlib.sha256(upload).hexdigest()


def test_reset(pod: Namespace) -> None:
    with connect(pod, "reset") as client:
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_udp_says_the_name(pod: Namespace) -> None:
    assert exchange(pod, "udp", b"?") == b"web-1\n"


def test_udp_echoes_large_datagrams(pod: Namespace) -> None:
    assert exchange(pod, "echo-udp", b"x" * 60000) == b"x" * 60000


def test_dns_answers_dig(pod: Namespace) -> None:
    question = ("dig", "@127.0.0.1", "+short", "+tries=1", "+timeout=20", "who.example")
    assert pod.run(*question, "TXT").stdout == '"web-1"\n'
    assert pod.run(*question, "A").stdout == "127.0.0.1\n"
    assert pod.run(*question, "MX").stdout == ""


def test_dns_ignores_what_is_no_query(pod: Namespace) -> None:
    for datagram in (b"", b"x" * 16, b"\0" * 12, b"\0\0\x80\0\0\1" + b"\0" * 11):
        assert dns_answer(datagram, "web-1", "10.0.0.1") is None


def test_a_server_that_cannot_start_is_noticed(pod: Namespace, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        start_server(pod, "--http=80")
    assert "address already in use" in capfd.readouterr().err
