"""`connections` and `top`: what goes on in the workers, as the admin socket says it."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

from userspace_proxy.admin.protocol import AdminError, ErrorCode
from userspace_proxy.admin.server import Method
from userspace_proxy.agent.live_traffic import LiveTraffic
from userspace_proxy.core.answers.connections import (
    ConnectionAnswer,
    ConnectionsAnswer,
    ConnectionsQuestion,
    describe_connection,
)
from userspace_proxy.core.answers.top import TopFrame, TopQuestion, top_frame
from userspace_proxy.core.endpoint import parse_endpoint
from userspace_proxy.core.live_traffic import ConnectionQuery
from userspace_proxy.core.proxy_plan import ProxyPlan
from userspace_proxy.core.service_port import EVERY_LOCAL_ADDRESS, ServicePortName
from userspace_proxy.core.traffic_counters import EndpointKey
from userspace_proxy.dataplane.live_reading import WorkerConnection
from userspace_proxy.dataplane.worker_pool import WorkerPool

Named = Callable[[str], Sequence[ServicePortName]]
"""The Service ports that people mean by a text. Raises `AdminError` if there are none."""

_AT_ONCE: Final = 250
_MOST: Final = 1 << 30
_LEAST_INTERVAL_SECONDS: Final = 0.2
_MOST_INTERVAL_SECONDS: Final = 30.0


class LiveAnswers:
    """`named` says whom a text means among what `plan` serves."""

    def __init__(self, live: LiveTraffic, workers: WorkerPool, plan: ProxyPlan, named: Named) -> None:
        self._live = live
        self._workers = workers
        self._plan = plan
        self._named = named

    def methods(self) -> dict[str, Method]:
        return {
            "connections": Method(self._connections, ConnectionsQuestion),
            "top": Method(self._top, TopQuestion),
        }

    async def _connections(self, asked: ConnectionsQuestion) -> AsyncGenerator[ConnectionsAnswer, None]:
        if asked.limit < 0:
            raise AdminError(ErrorCode.BAD_REQUEST, f"{asked.limit} connections cannot be listed")
        found = await self._live.connections(self._query(asked), min(asked.limit or _MOST, _MOST))
        for first in range(0, len(found.connections), _AT_ONCE):
            yield ConnectionsAnswer(
                connections=tuple(map(self._describe, found.connections[first : first + _AT_ONCE]))
            )
        yield ConnectionsAnswer(left_out=found.left_out, workers_not_asked=found.not_asked)

    def _describe(self, each: WorkerConnection) -> ConnectionAnswer:
        return describe_connection(each.connection, each.worker, self._only_frontend(each))

    def _query(self, asked: ConnectionsQuestion) -> ConnectionQuery:
        address, port = "", 0
        if asked.endpoint:
            address, given = parsed_endpoint(asked.endpoint)
            port = given or 0
        return ConnectionQuery(
            service=asked.service,
            service_ports=self._keys(asked.service),
            client=_client(asked.client),
            endpoint_address=address,
            endpoint_port=port,
        )

    def _keys(self, service: str) -> frozenset[str]:
        """Nobody may be served by that name any more, and still have connections."""
        try:
            return frozenset(name.key for name in self._named(service)) if service else frozenset()
        except AdminError:
            return frozenset()

    def _only_frontend(self, each: WorkerConnection) -> EndpointKey | None:
        """Where clients of a Service port come, if there is but one place; else nobody knows."""
        planned = self._plan.service_ports.get(ServicePortName.from_key(each.connection.service_port))
        if planned is None or len(planned.exposures) != 1:
            return None
        frontend = planned.exposures[0].frontend
        if frontend.address in EVERY_LOCAL_ADDRESS.values():
            return None
        return frontend.address, frontend.port

    async def _top(self, asked: TopQuestion) -> AsyncGenerator[TopFrame, None]:
        interval = asked.interval_seconds
        if not _LEAST_INTERVAL_SECONDS <= interval <= _MOST_INTERVAL_SECONDS or asked.limit < 1:
            raise AdminError(
                ErrorCode.BAD_REQUEST,
                f"a frame may come every {_LEAST_INTERVAL_SECONDS:g} to {_MOST_INTERVAL_SECONDS:g} s, "
                "and has one Service port at least",
            )
        clock = asyncio.get_running_loop().time
        before, since = await self._workers.read_counters(), clock()
        due = since
        while True:
            due = max(due + interval, clock())
            await asyncio.sleep(due - clock())
            meant = {name.key for name in self._named(asked.service)} if asked.service else None
            reading, now = await self._workers.read_counters(), clock()
            # In a thread: where there are many Service ports it takes a while.
            yield await asyncio.to_thread(top_frame, before, reading, now - since, meant, asked.limit)
            before, since = reading, now


def parsed_endpoint(text: str) -> tuple[str, int | None]:
    """As `parse_endpoint`. Raises `AdminError`."""
    try:
        return parse_endpoint(text)
    except ValueError as error:
        raise AdminError(ErrorCode.BAD_REQUEST, str(error)) from None


def _client(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise AdminError(ErrorCode.BAD_REQUEST, f"{text!r} is no client's IP address") from None
