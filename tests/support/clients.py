"""Clients in network namespaces. A socket stays in the namespace where it was made, whoever uses it."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from typing import TypeAlias

import pytest

from userspace_proxy.demo.namespaces import Namespace

Address: TypeAlias = tuple[str, int]

PATIENCE_SECONDS = 20.0
REFUSAL_SECONDS = 5.0
SILENCE_SECONDS = 0.4
REFUSED = "refused"
SILENT = "silent"
RESET = "reset"


def family_of(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def sockets(
    where: Namespace,
    count: int,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    *,
    source: str = "",
    family: socket.AddressFamily = socket.AF_INET,
) -> list[socket.socket]:
    """Unconnected sockets inside `where`, bound to the address `source` if one is given."""

    def make() -> list[socket.socket]:
        made = []
        for _ in range(count):
            sock = socket.socket(family, kind)
            made.append(sock)
            sock.settimeout(PATIENCE_SECONDS)
            if source:
                sock.bind((source, 0))
        return made

    return where.call(make)


def connect(where: Namespace, address: Address, *, source: str = "") -> socket.socket:
    """A TCP connection from inside `where`."""
    [sock] = sockets(where, 1, source=source, family=family_of(address))
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def received_to_the_end(sock: socket.socket) -> bytes:
    chunks = []
    while chunk := sock.recv(1 << 18):
        chunks.append(chunk)
    return b"".join(chunks)


def greeting(sock: socket.socket) -> str:
    """The name that a greeting server says first."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = sock.recv(100)
        if not chunk:
            raise ConnectionError(f"the connection ended after {line!r}")
        line += chunk
    return line.decode().strip()


def who_greets(where: Namespace, address: Address, count: int = 1, *, source: str = "") -> list[str]:
    """Who answers `count` connections, one after the other."""
    names = []
    for sock in sockets(where, count, source=source, family=family_of(address)):
        with sock:
            sock.connect(address)
            names.append(greeting(sock))
    return names


def udp_client(where: Namespace, address: Address, *, source: str = "") -> socket.socket:
    """A UDP socket that takes answers from `address` alone."""
    return udp_clients(where, address, 1, source=source)[0]


def udp_clients(where: Namespace, address: Address, count: int, *, source: str = "") -> list[socket.socket]:
    made = sockets(where, count, socket.SOCK_DGRAM, source=source, family=family_of(address))
    for sock in made:
        sock.connect(address)
    return made


def ask(client: socket.socket, datagram: bytes = b"?") -> bytes:
    """What comes back for a datagram."""
    client.send(datagram)
    return client.recv(65535)


def who_answers(clients: Iterable[socket.socket]) -> list[str]:
    """The name that each UDP client gets for an answer."""
    return [ask(client).decode().strip() for client in clients]


def expect_everybody(where: Namespace, tcp: Address, udp: Address, names: Collection[str]) -> None:
    """Whoever is in `names` answers inside `where`, over TCP and UDP, and flows stay."""
    assert sorted(who_greets(where, tcp, len(names))) == sorted(names)
    with ExitStack() as stack:
        clients = [stack.enter_context(client) for client in udp_clients(where, udp, len(names))]
        answered = who_answers(clients)
        assert sorted(answered) == sorted(names)
        assert who_answers(clients) == answered


def expect_refusal(where: Namespace, tcp: Address, udp: Address) -> None:
    """A reset, and an ICMP port unreachable, well before any time-out."""
    with sockets(where, 1, family=family_of(tcp))[0] as client:
        client.settimeout(REFUSAL_SECONDS)
        with pytest.raises(ConnectionRefusedError):
            client.connect(tcp)
    with udp_client(where, udp) as client:
        client.settimeout(REFUSAL_SECONDS)
        with pytest.raises(ConnectionRefusedError):
            ask(client)


def outcome(
    where: Namespace, protocol: str, address: Address, *, patience_seconds: float = SILENCE_SECONDS
) -> str:
    """What one new client meets: the name of who answers, or REFUSED, RESET or SILENT."""
    kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
    with sockets(where, 1, kind, family=family_of(address))[0] as client:
        client.settimeout(patience_seconds)
        try:
            client.connect(address)
            return who_answers([client])[0] if kind == socket.SOCK_DGRAM else greeting(client)
        except ConnectionRefusedError:
            return REFUSED
        except TimeoutError:
            return SILENT
        except ConnectionResetError:
            return RESET


def outcomes(where: Namespace, protocol: str, address: Address, count: int = 3) -> set[str]:
    """What `count` new clients, who are patient, meet one after the other."""
    return {outcome(where, protocol, address, patience_seconds=PATIENCE_SECONDS) for _ in range(count)}
