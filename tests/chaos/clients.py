"""The checkers: clients of many kinds, who come at a steady rate and remember what they met."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from tests.chaos.ledger import Conversation, Ledger, WrongAnswerError
from tests.chaos.world import ADDRESS_V6
from tests.support.clients import Address, family_of, sockets
from tests.support.service_node import PORTS, UDP, ServedService, ServiceNode

TCP_PATIENCE_SECONDS = 40.0
"""Longer than an attempt to connect may last (30 s)."""
UDP_PATIENCE_SECONDS = 60.0
"""A flow that had answers is given half a minute at a silent endpoint, and two may be silent in turn."""
REPEAT_SECONDS = 1.0
_BATCH = 25


class Client:
    """One client with its socket, which is not connected yet."""

    def __init__(
        self,
        sock: socket.socket,
        target: Address,
        conversation: Conversation,
        endpoints: Collection[str],
        random: Random,
        is_over: asyncio.Event,
    ) -> None:
        self.random = random
        self.is_over = is_over
        self._sock = sock
        self._writer: asyncio.StreamWriter | None = None
        self._target = target
        self._conversation = conversation
        self._endpoints = endpoints
        self._asked_at: float | None = conversation.began_at

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(TCP_PATIENCE_SECONDS):
            await asyncio.get_running_loop().sock_connect(self._sock, self._target)
        reader, self._writer = await asyncio.open_connection(sock=self._sock)
        return reader, self._writer

    def close(self) -> None:
        """Close what is open; what was written goes out."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._sock.close()

    async def answer(self, answer: Awaitable[bytes]) -> bytes:
        """Wait for it, and note how long that took."""
        async with asyncio.timeout(TCP_PATIENCE_SECONDS):
            data = await answer
        if not data:
            raise ConnectionError("the connection ended before the answer")
        self.heard()
        return data

    async def line(self, reader: asyncio.StreamReader) -> bytes:
        """The next line, whole."""
        line = await self.answer(reader.readline())
        if not line.endswith(b"\n"):
            raise ConnectionError(f"the connection ended after {line!r}")
        return line

    def ask(self) -> None:
        self._asked_at = time.monotonic()

    def heard(self) -> None:
        """Something came. What came first after a question is its answer."""
        now = time.monotonic()
        self._conversation.hear(now)
        if self._asked_at is not None:
            self._conversation.waits.append(now - self._asked_at)
            self._asked_at = None

    def meet(self, line: bytes) -> None:
        name = line.decode(errors="replace").strip()
        self.expect(name in self._endpoints, f"nobody is called {line!r}")
        self._conversation.endpoint = name

    def expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            raise WrongAnswerError(otherwise)

    async def pause(self, seconds: float) -> None:
        """As long, or until all is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.is_over.wait()

    async def ask_datagram(self, question: bytes, is_answer: Callable[[bytes], bool]) -> bytes:
        """Ask, and repeat it, until an answer comes; late answers to earlier questions are passed over."""
        loop = asyncio.get_running_loop()
        self.ask()
        async with asyncio.timeout(UDP_PATIENCE_SECONDS):
            while True:
                self._sock.send(question)
                with suppress(TimeoutError):
                    async with asyncio.timeout(REPEAT_SECONDS):
                        while not is_answer(answer := await loop.sock_recv(self._sock, 2048)):
                            pass
                        self.heard()
                        return answer

    def connect_datagrams(self) -> None:
        self._sock.connect(self._target)


async def short(client: Client) -> None:
    """HTTP with `Connection: close`: the server closes first."""
    reader, writer = await client.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
    await client.answer(reader.readuntil(b"\r\n\r\n"))
    client.meet(await client.line(reader))
    client.expect(await reader.read() == b"", "the answer has another end")


async def client_first(client: Client) -> None:
    """Is greeted, and closes."""
    reader, _ = await client.connect()
    client.meet(await client.line(reader))


async def keep_alive(client: Client) -> None:
    """HTTP requests over one connection, with pauses."""
    reader, writer = await client.connect()
    for _ in range(client.random.randrange(2, 40)):
        client.ask()
        writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
        await client.answer(reader.readuntil(b"\r\n\r\n"))
        client.meet(await client.line(reader))
        await client.pause(client.random.uniform(0.05, 0.5))
        if client.is_over.is_set():
            break


async def upload(client: Client) -> None:
    """Sends a piece of data, half-closes, and has all of it back before the end."""
    reader, writer = await client.connect()
    client.meet(await client.line(reader))
    data = client.random.randbytes(client.random.randrange(1, 1 << 19))

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    sending = asyncio.ensure_future(send())
    try:
        digest, received = hashlib.sha256(), 0
        async with asyncio.timeout(TCP_PATIENCE_SECONDS):
            while chunk := await reader.read(1 << 16):
                digest.update(chunk)
                received += len(chunk)
                client.heard()
        if received < len(data):
            raise ConnectionError(f"the connection ended after {received} of {len(data)} bytes")
        client.expect(digest.digest() == hashlib.sha256(data).digest(), "other bytes came back")
    finally:
        sending.cancel()
        with suppress(OSError, asyncio.CancelledError):
            await sending


async def echo(client: Client) -> None:
    """A connection that stays, and talks all the time."""
    reader, writer = await client.connect()
    client.meet(await client.line(reader))
    ends_at = time.monotonic() + client.random.uniform(5, 60)
    number = 0
    while not client.is_over.is_set() and time.monotonic() < ends_at:
        number += 1
        said = b"%d\n" % number
        client.ask()
        writer.write(said)
        answer = await client.line(reader)
        client.expect(answer == said, f"{answer!r} came for {said!r}")
        await client.pause(0.1)


async def query(client: Client) -> None:
    """One question over UDP, as a resolver asks it."""
    client.connect_datagrams()
    client.meet(await client.ask_datagram(b"?", lambda _answer: True))


async def steady(client: Client) -> None:
    """A UDP flow that stays."""
    client.connect_datagrams()
    ends_at = time.monotonic() + client.random.uniform(5, 40)
    number = 0
    while not client.is_over.is_set() and time.monotonic() < ends_at:
        number += 1
        question = b"%d" % number
        await client.ask_datagram(question, question.__eq__)
        await client.pause(0.2)


@dataclass(frozen=True, slots=True)
class Kind:
    """Clients of a kind: the port of the Service that they use, how many come beside others, what they do."""

    port: str
    weight: int
    converse: Callable[[Client], Awaitable[None]]


KINDS = {
    "short, server closes first": Kind("http", 25, short),
    "short, client closes first": Kind("greet", 25, client_first),
    "keep-alive": Kind("http", 4, keep_alive),
    "half-closing upload": Kind("greet", 6, upload),
    "long-lived echo": Kind("greet", 1, echo),
    "UDP query": Kind("name", 20, query),
    "steady UDP flow": Kind("echo", 1, steady),
}


class Clients:
    """They come from inside the client pod, `rate` a second, until `is_over` is set."""

    def __init__(
        self, node: ServiceNode, service: ServedService, ledger: Ledger, rate: float, seed: int
    ) -> None:
        self.is_over = asyncio.Event()
        self._node = node
        self._service = service
        self._ledger = ledger
        self._rate = rate
        self._random = Random(seed)
        self._endpoints = frozenset(pod.name for pod in node.endpoints)
        self._stock: defaultdict[tuple[str, socket.SocketKind], list[socket.socket]] = defaultdict(list)

    async def run(self) -> None:
        """Returns when the last of them has left."""
        names, weights = list(KINDS), [kind.weight for kind in KINDS.values()]
        due = time.monotonic()
        try:
            async with asyncio.TaskGroup() as clients:
                while not self.is_over.is_set():
                    [name] = self._random.choices(names, weights)
                    [address] = self._random.choices([self._service.cluster_ip, ADDRESS_V6], [3, 1])
                    sock = await self._socket(address, KINDS[name].port)
                    clients.create_task(self._visit(name, address, sock, Random(self._random.random())))
                    due = max(due + self._random.expovariate(self._rate), time.monotonic() - 1)
                    await asyncio.sleep(due - time.monotonic())
        finally:
            for stock in self._stock.values():
                for sock in stock:
                    sock.close()

    async def _socket(self, address: str, port: str) -> socket.socket:
        kind = socket.SOCK_DGRAM if port in UDP else socket.SOCK_STREAM
        stock = self._stock[address, kind]
        if not stock:
            family = family_of((address, 0))
            stock += await asyncio.to_thread(sockets, self._node.client, _BATCH, kind, family=family)
        sock = stock.pop()
        sock.setblocking(False)
        return sock

    async def _visit(self, name: str, address: str, sock: socket.socket, random: Random) -> None:
        kind, now = KINDS[name], time.monotonic()
        conversation = Conversation(name, kind.port, now, now)
        self._ledger.begin(conversation)
        target = (address, PORTS[kind.port])
        client = Client(sock, target, conversation, self._endpoints, random, self.is_over)
        try:
            await kind.converse(client)
        except (OSError, EOFError, WrongAnswerError) as failure:
            conversation.failure = failure
        finally:
            client.close()
        conversation.ended_at = time.monotonic()
        self._ledger.end(conversation)
