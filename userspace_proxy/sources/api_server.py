"""A Kubernetes API server as a source: Services, EndpointSlices and the node's own Node."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from userspace_proxy.core.cluster_state import ObjectId
from userspace_proxy.core.event_series import EventWrite
from userspace_proxy.core.objects import Kind
from userspace_proxy.core.request_rate import RequestRate
from userspace_proxy.sources import Followed, Sink
from userspace_proxy.sources.api_connection import ApiServer, Connection
from userspace_proxy.sources.contact import Contact, RequestFailedError
from userspace_proxy.sources.event_writer import write_event
from userspace_proxy.sources.in_cluster import own_service
from userspace_proxy.sources.list_watch import ORIGIN, SILENCE_SECONDS, ListWatch, Watched

_NOT_ANOTHER_PROXYS = {"labelSelector": "!service.kubernetes.io/service-proxy-name"}


class ApiServerSource:
    """Follows the API server that `kubeconfig` names, or (None) the one whose cluster this runs in.

    `master` is its URL if that is said apart. `qps` and `burst` are those of `RequestRate`.
    """

    def __init__(
        self,
        kubeconfig: Path | None,
        node_name: str,
        *,
        master: str | None = None,
        qps: float = -1.0,
        burst: int = 10,
        chance: random.Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._server = ApiServer(kubeconfig, master)
        self._connection: Connection | None = None
        self._contact = Contact()
        self._qps = qps
        self._burst = burst
        self._node_name = node_name
        self._chance = chance or random.Random()
        self._sleep = sleep
        self._silence_seconds = silence_seconds

    def origin_of(self, key: ObjectId) -> str:
        """Where an observed object came from."""
        return ORIGIN

    def state(self) -> Followed:
        """Its URL, and which kinds it does not tell about."""
        where = "" if self._connection is None else f" {self._connection.url}"
        return Followed(f"API server{where}", self._contact.since, dict(self._contact.failures))

    async def check(self) -> None:
        """Raise `SourceError` if the configuration cannot be used. Nothing is sent."""
        async with Connection.open(self._server):
            pass

    async def renew(self) -> None:
        """Read the kubeconfig again. Raises `SourceError`; then all stays as it was."""
        if self._connection is not None:
            await self._connection.renew()

    async def write_event(self, write: EventWrite) -> None:
        """Write it where the objects come from. Raises `RequestFailedError`; before `run` always."""
        if self._connection is None:
            raise RequestFailedError("it is not spoken to yet")
        await write_event(self._connection, write)

    async def run(self, sink: Sink) -> None:
        """Feed `sink` for ever, each kind by itself. A server that is down is waited for.

        Raises `SourceError` if the configuration cannot be used.
        """
        contact = self._contact
        contact.explanation = own_service(os.environ) if self._server.is_of_the_pod else None
        rate = RequestRate(self._qps, self._burst, asyncio.get_running_loop().time())
        async with Connection.open(self._server, rate) as connection, asyncio.TaskGroup() as group:
            self._connection = connection
            for watched in (
                Watched(Kind.SERVICE, "/api/v1/services", _NOT_ANOTHER_PROXYS),
                Watched(Kind.ENDPOINT_SLICE, "/apis/discovery.k8s.io/v1/endpointslices", _NOT_ANOTHER_PROXYS),
                Watched(
                    Kind.NODE,
                    "/api/v1/nodes",
                    {"fieldSelector": f"metadata.name={self._node_name}"},
                    is_dispensable=True,
                ),
            ):
                list_watch = ListWatch(
                    watched,
                    connection,
                    sink,
                    contact,
                    chance=self._chance,
                    sleep=self._sleep,
                    clock=asyncio.get_running_loop().time,
                    silence_seconds=self._silence_seconds,
                )
                group.create_task(list_watch.run())
