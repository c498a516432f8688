"""Requests that a pod sends to a Service for the page's sake, so that there is something to see.

The sockets are made in the pod's network namespace, so that to the agents they are a pod's like any other; no
process is started for them. They are bounded: in their rate, in how many are under way, and in how long one
may take.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from userspace_proxy.demo.api_resources import JsonObject
from userspace_proxy.demo.sandbox import Sandbox

CLIENT: Final = "default/client"
MOST_PER_SECOND: Final = 50
_MOST_UNDER_WAY: Final = 100
_SECONDS: Final = 0.1
_REQUEST_SECONDS: Final = 5.0
_ANSWER_BYTES: Final = 65536
_SEEN: Final = 100


@dataclass(frozen=True, slots=True)
class Aim:
    """A Service, as `namespace/name`, and where it is."""

    service: str
    address: str
    port: int


@dataclass(slots=True)
class Load:
    """`place` finds the client's namespaces, or None while there is no such pod."""

    place: Callable[[], Sandbox | None]
    aim: Aim | None = None
    per_second: int = 0
    answered: int = 0
    failed: int = 0
    problem: str = ""
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=_SEEN))
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    def send(self, aim: Aim | None, per_second: int) -> None:
        """From now on so many requests a second; 0 ends it."""
        self.aim = aim
        self.per_second = max(0, min(per_second, MOST_PER_SECOND)) if aim is not None else 0
        self.answered = self.failed = 0
        self.problem = ""
        self._took.clear()

    def state(self) -> JsonObject:
        """What the page shows of it."""
        took = sorted(self._took)
        return {
            "client": CLIENT,
            "service": self.aim.service if self.aim else "",
            "perSecond": self.per_second,
            "answered": self.answered,
            "failed": self.failed,
            "medianMilliseconds": round(took[len(took) // 2] * 1000, 1) if took else None,
            "problem": self.problem,
        }

    async def run(self) -> None:
        """Send what is asked for, until cancelled; with that it is forgotten."""
        due = 0.0
        try:
            while True:
                await asyncio.sleep(_SECONDS)
                due = min(due + self.per_second * _SECONDS, self.per_second)
                count = min(math.floor(due), _MOST_UNDER_WAY - len(self._under_way))
                if self.aim is None or count <= 0:
                    continue
                due -= count
                await self._send(self.aim, count)
        finally:
            self.send(None, 0)
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _send(self, aim: Aim, count: int) -> None:
        place = self.place()
        if place is None:
            self.problem = f"there is no pod {CLIENT} to send from"
            return
        try:
            sockets = await asyncio.to_thread(place.call, lambda: _sockets(aim.address, count))
        except OSError as error:
            self.problem = f"the pod {CLIENT} cannot send: {error.strerror}"
            return
        self.problem = ""
        for each in sockets:
            task = asyncio.create_task(self._request(each, aim))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _request(self, connection: socket.socket, aim: Aim) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        is_answered = False
        with connection:
            try:
                async with asyncio.timeout(_REQUEST_SECONDS):
                    await loop.sock_connect(connection, (aim.address, aim.port))
                    host = aim.service.rpartition("/")[2]
                    asked = f"GET /name HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
                    await loop.sock_sendall(connection, asked.encode())
                    is_answered = bool(await loop.sock_recv(connection, _ANSWER_BYTES))
            except (OSError, TimeoutError):
                pass
        if aim != self.aim:
            return  # of an earlier aim
        if is_answered:
            self.answered += 1
            self._took.append(loop.time() - began)
        else:
            self.failed += 1


def aim_at(service: JsonObject) -> Aim | None:
    """Where requests to a Service go: its first clusterIP and TCP port; None if it has none."""
    spec, metadata = service["spec"], service["metadata"]
    address = spec.get("clusterIP") or "None"
    ports = [port["port"] for port in spec.get("ports") or () if port.get("protocol", "TCP") == "TCP"]
    if address == "None" or not ports:
        return None
    return Aim(f"{metadata['namespace']}/{metadata['name']}", address, ports[0])


def _sockets(address: str, count: int) -> list[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = [socket.socket(family, socket.SOCK_STREAM) for _ in range(count)]
    for each in made:
        each.setblocking(False)
    return made
