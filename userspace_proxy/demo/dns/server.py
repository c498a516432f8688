"""DNS over UDP and TCP, on sockets that somebody else has made: they may be in any network namespace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeAlias

from userspace_proxy.demo.dns.answer import reply_to
from userspace_proxy.demo.dns.records import Records

MAX_CONNECTIONS = 128
MAX_WAITING_BYTES = 256 * 1024
IDLE_SECONDS = 10.0
"""RFC 7766 wants a connection kept for further questions, for seconds."""

_Address: TypeAlias = Any
CurrentRecords: TypeAlias = Callable[[], Records | None]


@asynccontextmanager
async def serving(
    records: CurrentRecords, udp: Sequence[socket.socket], tcp: Sequence[socket.socket]
) -> AsyncIterator[None]:
    """Answer on bound UDP sockets and listening TCP sockets, which are the server's from now on.

    Each of them has one address: a reply leaves from the one that was asked.
    """
    loop = asyncio.get_running_loop()
    connections = _Connections(records)
    async with AsyncExitStack() as stack:
        for each in (*udp, *tcp):
            stack.callback(each.close)
            each.setblocking(False)
        for bound in udp:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(records), sock=bound)
            stack.callback(transport.close)
        for listening in tcp:
            server = await asyncio.start_server(connections.serve, sock=listening)
            stack.callback(server.close)
        stack.push_async_callback(connections.close)
        yield


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, records: CurrentRecords) -> None:
        self._records = records

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none of asyncio's by its class, only by what it can do.
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: _Address) -> None:
        if self._transport.get_write_buffer_size() > MAX_WAITING_BYTES:
            return  # Who asks on while nothing can be sent has to ask again.
        reply = reply_to(data, self._records(), over_tcp=False)
        if reply is not None:
            self._transport.sendto(reply, addr)


class _Connections:
    """Those over TCP, each with its task."""

    def __init__(self, records: CurrentRecords) -> None:
        self._records = records
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Question after question, in order, until the client has no more or takes too long."""
        with suppress(TimeoutError, asyncio.IncompleteReadError, OSError):
            try:
                while True:
                    async with asyncio.timeout(IDLE_SECONDS):
                        length = int.from_bytes(await reader.readexactly(2))
                        request = await reader.readexactly(length)
                    reply = reply_to(request, self._records(), over_tcp=True)
                    if reply is None:
                        return
                    writer.write(len(reply).to_bytes(2) + reply)
                    async with asyncio.timeout(IDLE_SECONDS):
                        await writer.drain()
            finally:
                writer.close()
