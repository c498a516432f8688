"""Clients who come at a steady rate, whatever happens to those before them."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.support.clients import Address, sockets
from userspace_proxy.demo.namespaces import Namespace

CLIENT_PATIENCE_SECONDS = 20.0
_BATCH = 50


@dataclass(frozen=True, slots=True)
class Visit:
    """When a client came (monotonic), how many seconds it took, who greeted it, and what went wrong."""

    began: float
    seconds: float
    greeted_by: str
    failure: str = ""


@dataclass(slots=True)
class SteadyLoad:
    """Connections from inside `where` to `address`, which greets, `rate` a second until `stop` is set."""

    where: Namespace
    address: Address
    rate: float
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    visits: list[Visit] = field(default_factory=list)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as clients:
            due = time.monotonic()
            while not self.stop.is_set():
                for sock in await asyncio.to_thread(sockets, self.where, _BATCH):
                    due += 1 / self.rate
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    clients.create_task(self._visit(sock))

    async def _visit(self, sock: socket.socket) -> None:
        began = time.monotonic()
        greeted_by = failure = ""
        try:
            async with asyncio.timeout(CLIENT_PATIENCE_SECONDS):
                greeted_by = await self._greeting(sock)
        except (OSError, TimeoutError) as error:
            failure = repr(error)
        finally:
            sock.close()
        self.visits.append(Visit(began, time.monotonic() - began, greeted_by, failure))

    async def _greeting(self, sock: socket.socket) -> str:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        await loop.sock_connect(sock, self.address)
        line = await loop.sock_recv(sock, 100)
        if not line.endswith(b"\n"):
            raise ConnectionError(f"the connection ended after {line!r}")
        return line.decode().strip()


def quantile(values: Iterable[float], part: float) -> float:
    """The least value that `part` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]
