"""An agent asks its workers what goes on there: in portions, one listing after the other, whoever dies."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
import uvloop

from tests.dataplane.test_worker import WEB, key_of, listen, service_port
from tests.support.loopback import DEADLINE_SECONDS, connect, echo, server
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import ConnectionQuery
from userspace_proxy.dataplane.live_reading import Askable, list_connections, read_states
from userspace_proxy.dataplane.messages import Configure, ListConnections, Start, WorkerLimits
from userspace_proxy.dataplane.worker_link import WorkerLink
from userspace_proxy.dataplane.worker_process import WorkerProcess

ALL = ConnectionQuery()
MANY = 1 << 20
CLIENTS = 100


@pytest.fixture
def pod() -> Iterator[Endpoint]:
    with server(echo) as endpoint:
        yield endpoint


class Workers:
    """Two workers of this loop's own: the first serves, the second has nothing to do."""

    def __init__(self, links: list[WorkerLink], port: int) -> None:
        self.links = links
        self.port = port

    async def hold(self, stack: ExitStack, count: int) -> list[socket.socket]:
        """Clients that the first worker has connected."""
        clients = [stack.enter_context(await asyncio.to_thread(connect, self.port)) for _ in range(count)]
        async with asyncio.timeout(DEADLINE_SECONDS):
            while sum(each.active for each in (await self.links[0].counters()).values()) < count:
                await asyncio.sleep(0.01)
        return clients


def with_workers(
    tmp_path: Path, pod: Endpoint, scenario: Callable[[Workers, ExitStack], Awaitable[None]]
) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            links = [stack.enter_context(_worker(loop, tmp_path / str(number))) for number in range(2)]
            listening = stack.enter_context(listen())
            limits = WorkerLimits(dials_any_address=True)
            for link in links:
                await link.request(
                    partial(Start, limits=limits, seed=1, orphan_seconds=0, build="1", pool_size=2)
                )
            config = service_port((key_of(listening), "Cluster", [pod]))
            configure = partial(
                Configure, service_ports=(config,), removed=(), new_listeners=(key_of(listening),)
            )
            await links[0].request(configure, [listening.fileno()])
            await scenario(Workers(links, listening.getsockname()[1]), stack)

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        uvloop.run(run())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@contextmanager
def _worker(loop: asyncio.AbstractEventLoop, control_file: Path) -> Iterator[WorkerLink]:
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(control_file))
        control.listen()
        ours, theirs = socket.socketpair()
        process = WorkerProcess(loop, theirs, control, started_by=os.getuid(), pid_namespace=1)
        link = WorkerLink(loop, ours, pid=0, control_file=control_file)
        try:
            yield link
        finally:
            process.close()
            link.leave()


def test_all_are_listed_the_oldest_first_and_those_beyond_the_limit_counted(
    tmp_path: Path, pod: Endpoint
) -> None:
    async def scenario(workers: Workers, stack: ExitStack) -> None:
        clients = [client.getsockname() for client in await workers.hold(stack, CLIENTS)]
        found = await list_connections(Askable(workers.links), ALL, MANY)
        assert [each.connection.client for each in found.connections] == clients
        assert (found.left_out, found.not_asked) == (0, ())
        found = await list_connections(Askable(workers.links), ALL, 70)
        assert [each.connection.client for each in found.connections] == clients[:70]
        assert found.left_out == CLIENTS - 70

    with_workers(tmp_path, pod, scenario)


def test_listings_at_once_have_all_of_it_each(tmp_path: Path, pod: Endpoint) -> None:
    async def scenario(workers: Workers, stack: ExitStack) -> None:
        await workers.hold(stack, CLIENTS)
        askable = Askable(workers.links)
        both = await asyncio.gather(*(list_connections(askable, ALL, MANY) for _ in range(2)))
        assert [len(found.connections) for found in both] == [CLIENTS, CLIENTS]

    with_workers(tmp_path, pod, scenario)


def test_a_listing_that_nobody_ends_is_in_nobodys_way(tmp_path: Path, pod: Endpoint) -> None:
    async def scenario(workers: Workers, stack: ExitStack) -> None:
        await workers.hold(stack, CLIENTS)
        await workers.links[0].request(partial(ListConnections, query=ALL, most=MANY))
        found = await list_connections(Askable(workers.links), ALL, MANY)
        assert len(found.connections) == CLIENTS

    with_workers(tmp_path, pod, scenario)


def test_how_service_ports_are_is_said_by_those_that_serve_them(tmp_path: Path, pod: Endpoint) -> None:
    async def scenario(workers: Workers, stack: ExitStack) -> None:
        names = [*(f"default/{number} TCP IPv4" for number in range(300)), WEB]
        read = await read_states(Askable(workers.links), names, None)
        assert list(read.service_ports) == [WEB]
        (state,) = read.service_ports[WEB].values()
        assert state.classes[0].next == ((pod.address, pod.port),)

    with_workers(tmp_path, pod, scenario)


def test_who_dies_meanwhile_is_left_out_and_who_may_not_understand_is_named(
    tmp_path: Path, pod: Endpoint
) -> None:
    async def scenario(workers: Workers, stack: ExitStack) -> None:
        await workers.hold(stack, 1)
        serving, other = workers.links
        found = await list_connections(Askable([serving], [other]), ALL, MANY)
        assert (len(found.connections), found.not_asked) == (1, (0,))
        asked = asyncio.ensure_future(read_states(Askable([serving, other]), [WEB], None))
        other.leave()
        assert list((await asked).service_ports) == [WEB]
        assert len((await list_connections(Askable([serving, other]), ALL, MANY)).connections) == 1

    with_workers(tmp_path, pod, scenario)
