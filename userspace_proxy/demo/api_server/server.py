"""The API server as a whole: a database, a store over it, and HTTPS on the sockets it is given."""

from __future__ import annotations

import random
import socket
import ssl
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from aiohttp import web

from userspace_proxy.demo.api_server.allocation import Ranges
from userspace_proxy.demo.api_server.database import Database
from userspace_proxy.demo.api_server.kinds import NAMESPACES
from userspace_proxy.demo.api_server.lifecycle import LASTING_NAMESPACES
from userspace_proxy.demo.api_server.limits import Limits
from userspace_proxy.demo.api_server.objects import Key
from userspace_proxy.demo.api_server.pod_logs import PodLogs
from userspace_proxy.demo.api_server.routes import Routes
from userspace_proxy.demo.api_server.store import Store
from userspace_proxy.demo.api_server.writer import Manner, Writer

_NAMESPACES: Final = (*LASTING_NAMESPACES, "kube-node-lease")
_LIMITS: Final = Limits()
_CLOSE_SECONDS: Final = 1.0


def _now() -> datetime:
    return datetime.now(UTC)


class ApiServer:
    """Serves a cluster's objects from `start` to `close`, inside the caller's loop.

    `sockets` listen already, and are the server's from now on; they may be of several network namespaces.
    `token` is what every request has to bring. The first of `service_cidrs` is the family of Services that
    do not say; with two of them the cluster is dual-stack.
    """

    def __init__(
        self,
        *,
        database: Path,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext,
        token: str,
        service_cidrs: Sequence[str] = ("10.96.0.0/16", "fd00:10:96::/112"),
        node_ports: range = range(30000, 32768),
        pod_logs: PodLogs | None = None,
        limits: Limits = _LIMITS,
        now: Callable[[], datetime] = _now,
        chance: random.Random | None = None,
    ) -> None:
        self._path = database
        self._sockets = tuple(sockets)
        self._tls = tls
        self._token = token
        self._ranges = Ranges.parse(service_cidrs, node_ports)
        self._pod_logs = pod_logs
        self._limits = limits
        self._now = now
        self._chance = chance or random.Random()
        self._closing = AsyncExitStack()

    async def start(self) -> None:
        """Answer requests. Raises StartupError if the database cannot be used; then nothing is left."""
        async with AsyncExitStack() as stack:
            for listening in self._sockets:
                stack.callback(listening.close)
            database = await Database.open(self._path)
            stack.push_async_callback(database.close)
            store = await Store.open(database, self._limits.history)
            writer = Writer(
                store,
                self._ranges,
                most_events=self._limits.events,
                now=self._now,
                new_uid=lambda: str(uuid.uuid4()),
                chance=self._chance,
            )
            for name in _NAMESPACES:
                if store.get(NAMESPACES, Key("", name)) is None:
                    await writer.create(NAMESPACES, "", {"metadata": {"name": name}}, Manner())
            stack.push_async_callback(store.finish)
            routes = Routes(
                store,
                writer,
                token=self._token,
                pod_logs=self._pod_logs,
                limits=self._limits,
                now=self._now,
            )
            application = web.Application(client_max_size=self._limits.body_bytes)
            application.router.add_route("*", "/{path:.*}", routes.answer)
            runner = web.AppRunner(
                application, access_log=None, handler_cancellation=True, shutdown_timeout=_CLOSE_SECONDS
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            stack.callback(store.end_watches)
            for listening in self._sockets:
                await web.SockSite(runner, listening, ssl_context=self._tls).start()
            self._closing = stack.pop_all()

    async def close(self) -> None:
        """End watches and logs, finish writes, close the sockets and the database. Safe to repeat."""
        await self._closing.aclose()
