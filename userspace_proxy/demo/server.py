"""Servers that say who they are, for the demo's endpoint pods and for tests.

`python -m userspace_proxy.demo.server --name web-1 --http 8080 --dns 53` prints `ready` once it listens on
all of its ports and serves until it is killed. The kinds of servers are the flags:

--http      HTTP/1.1 with keep-alive: `/` answers the name, `/client` the client's address and port.
--greet     TCP: sends the name in a line, then echoes until the client is done, then closes.
--digest    TCP: reads until the client half-closes, answers the SHA-256 in hexadecimal, closes.
--reset     TCP: waits for the first byte and resets the connection.
--udp       UDP: answers the name.
--echo-udp  UDP: answers what it was sent.
--dns       UDP: answers every A question with the address it was asked at, every TXT question with the name.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

Serve: TypeAlias = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_DNS_HEADER: Final = struct.Struct("!HHHHHH")
_TYPE_A: Final = 1
_TYPE_TXT: Final = 16
_CLASS_IN: Final = 1


async def serve_http(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests without bodies, one after the other, until the client closes or asks to."""
    while True:
        request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        _method, path, _version = request.split("\r\n", 1)[0].split(" ")
        if path == "/client":
            host, port = writer.get_extra_info("peername")[:2]
            body = f"{host} {port}\n"
        else:
            body = f"{name}\n"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        if "connection: close" in request.lower():
            return


async def serve_greeting(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say the name, then send everything back."""
    writer.write(f"{name}\n".encode())
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def serve_digest(_name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Digest what comes until the client half-closes, and answer then."""
    digest = hashlib.sha256()
    while data := await reader.read(65536):
        digest.update(data)
    writer.write(digest.hexdigest().encode())
    await writer.drain()


async def serve_reset(_name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reset the connection as soon as the client has said something; SO_LINGER in socket(7)."""
    await reader.read(1)
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def answer_datagrams(server: socket.socket, answer: Callable[[bytes], bytes | None]) -> None:
    """Answer the datagrams that wait at `server` with what `answer(datagram)` returns; None stays silent."""
    with contextlib.suppress(BlockingIOError):
        while True:
            datagram, client = server.recvfrom(65535)
            reply = answer(datagram)
            if reply is not None:
                server.sendto(reply, client)


def dns_answer(query: bytes, name: str, address: str) -> bytes | None:
    """The answer to a DNS query of one question: `address` for A, `name` for TXT, else none; RFC 1035.

    None for what is no query.
    """
    if len(query) < _DNS_HEADER.size + 5:
        return None
    identifier, flags, questions, *_rest = _DNS_HEADER.unpack_from(query)
    end = query.find(b"\0", _DNS_HEADER.size) + 5
    if flags & 0x8000 or questions != 1 or end < _DNS_HEADER.size + 5 or end > len(query):
        return None
    question = query[_DNS_HEADER.size : end]
    kind = int.from_bytes(question[-4:-2], "big")
    if kind == _TYPE_A:
        data = socket.inet_aton(address)
    elif kind == _TYPE_TXT:
        data = bytes([len(name)]) + name.encode()
    else:
        data = b""
    # The answer's name points at the question's, right behind the header (section 4.1.4); TTL 0: ask again.
    record = struct.pack("!HHHIH", 0xC000 | _DNS_HEADER.size, kind, _CLASS_IN, 0, len(data)) + data
    response_flags = 0x8400 | flags & 0x0100  # a response, authoritative; recursion desired as it was asked
    header = _DNS_HEADER.pack(identifier, response_flags, 1, 1 if data else 0, 0, 0)
    return header + question + (record if data else b"")


async def serve(arguments: argparse.Namespace) -> None:
    """Open every port that `arguments` names, say so, and serve until cancelled."""
    name: str = arguments.name
    streams: list[tuple[list[int], Serve]] = [
        (arguments.http, serve_http),
        (arguments.greet, serve_greeting),
        (arguments.digest, serve_digest),
        (arguments.reset, serve_reset),
    ]
    datagrams: list[tuple[list[int], Callable[[bytes], bytes | None]]] = [
        (arguments.udp, lambda _datagram: f"{name}\n".encode()),
        (arguments.echo_udp, lambda datagram: datagram),
        (arguments.dns, lambda datagram: dns_answer(datagram, name, arguments.address)),
    ]
    addresses: list[str] = arguments.bind or ["0.0.0.0"]
    for ports, serve_stream in streams:
        for port in ports:
            await asyncio.start_server(_closing(name, serve_stream), addresses, port, backlog=4096)
    loop = asyncio.get_running_loop()
    for ports, answer in datagrams:
        for address, port in itertools.product(addresses, ports):
            server = _datagram_socket(address, port)
            loop.add_reader(server, answer_datagrams, server, answer)
    print("ready", flush=True)
    await asyncio.Event().wait()


def _datagram_socket(address: str, port: int) -> socket.socket:
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    if server.family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.setblocking(False)
    server.bind((address, port))
    return server


def _closing(
    name: str, serve_stream: Serve
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve_stream(name, reader, writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, ConnectionError):
            pass  # the client left, or does not speak our protocol
        finally:
            writer.close()

    return connected


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m userspace_proxy.demo.server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", required=True, help="what the server calls itself")
    parser.add_argument("--bind", action="append", help="an address to listen on (default: 0.0.0.0)")
    parser.add_argument("--address", default="127.0.0.1", help="the address that --dns answers with")
    for flag in ("http", "greet", "digest", "reset", "udp", "echo-udp", "dns"):
        parser.add_argument(f"--{flag}", type=int, action="append", default=[], metavar="PORT")
    try:
        asyncio.run(serve(parser.parse_args()))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
