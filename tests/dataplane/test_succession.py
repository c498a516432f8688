"""A pool's workers go on without it, and the next pool adopts them, or takes what they carry over."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import select
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Self

import msgspec
import pytest
import uvloop

from tests.support.loopback import echo, serving
from tests.support.traffic import carried
from userspace_proxy.core.port_claims import PortRange, ProxyPortClaims
from userspace_proxy.core.proxy_plan import ListenerName
from userspace_proxy.core.service_port import (
    IPFamily,
    Protocol,
    ServiceName,
    ServicePortName,
    TrafficPolicy,
)
from userspace_proxy.dataplane.channel import encode_frame
from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.dataplane.listening_sockets import ListeningSockets
from userspace_proxy.dataplane.messages import ListenerConfig, ServicePortConfig, WorkerLimits
from userspace_proxy.dataplane.orphans import Inheritance, Orphan, end_orphans, find_orphans, sort_out
from userspace_proxy.dataplane.succession import Hello
from userspace_proxy.dataplane.worker_pool import WorkerPool
from userspace_proxy.dataplane.worker_process import WorkerProcess

Endpoint = tuple[str, int]

ORPHAN_SECONDS = 3.0
"""Long enough for the next agent to come in time on a busy machine."""

KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}


@contextmanager
def echo_server(protocol: Protocol, name: str) -> Iterator[tuple[Endpoint, list[Endpoint]]]:
    """An endpoint that answers with its name; its address, and whom it has heard from."""
    with socket.socket(socket.AF_INET, KINDS[protocol]) as server:
        server.bind(("127.0.0.1", 0))
        heard: list[Endpoint] = []

        def answer() -> None:
            with suppress(OSError):
                while address := server.recvfrom(100)[1]:  # None once it is shut down
                    heard.append(address)
                    server.sendto(name.encode(), address)

        def converse(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while connection.recv(100):
                    connection.sendall(name.encode())

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, address = server.accept()
                    heard.append(address)
                    threading.Thread(target=converse, args=[connection]).start()

        if protocol is Protocol.TCP:
            server.listen()
        thread = threading.Thread(target=accept if protocol is Protocol.TCP else answer)
        thread.start()
        try:
            yield server.getsockname(), heard
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join()


class Agent:
    """What an agent has of its workers, and of those of the agent before it: `async with` it is there.

    Workers that serve something go on without it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        build: str = "1",
        size: int = 1,
        orphan_seconds: float = 30,
        drain_seconds: float = 30,
    ) -> None:
        self.sockets = ListeningSockets(
            ProxyPortClaims(PortRange(11000, 29999)), {IPFamily.IPV4: "127.0.0.1"}, Random()
        )
        self.control_sockets = ControlSockets(directory)
        self.control_sockets.prepare()
        self.inheritance = Inheritance()
        self._build = build
        self._size = size
        self.pool = WorkerPool(
            asyncio.get_running_loop(),
            size=size,
            limits=WorkerLimits(dials_any_address=True),
            random=Random(1),
            listener_of=self.sockets.socket_of,
            control_sockets=self.control_sockets,
            build=build,
            orphan_seconds=orphan_seconds,
            drain_seconds=drain_seconds,
        )

    async def __aenter__(self) -> Self:
        """Adopt or replace what is there, and start what is missing."""
        self.inheritance = sort_out(
            await self.find_orphans(),
            build=self._build,
            pool_size=self._size,
            accept=self.sockets.accept,
        )
        await self.pool.start(self.inheritance.adopted, self.inheritance.outgoing)
        return self

    async def find_orphans(self) -> list[Orphan]:
        return await find_orphans(asyncio.get_running_loop(), self.control_sockets)

    async def __aexit__(self, *_: object) -> None:
        await self.pool.close()
        self.sockets.close_all()
        self.inheritance.close()
        self.control_sockets.remove()

    async def serve(
        self, protocol: Protocol, *endpoints: Endpoint, affinity: int | None = None, workers: int = 1
    ) -> ServicePortConfig:
        """Have workers serve the Service port with these endpoints; returns what they were told."""
        name = ServicePortName(ServiceName("default", "web"), "", protocol, IPFamily.IPV4)
        listener = ListenerName(name, TrafficPolicy.CLUSTER)
        if listener not in self.sockets:
            self.sockets.open(listener, None)
        config = ServicePortConfig(
            name.key,
            str(name),
            protocol.value,
            "IPv4",
            affinity,
            udp_unanswered_seconds=30.0,
            udp_answered_seconds=120.0,
            listeners=(ListenerConfig("Cluster", self.sockets.port_of(listener), endpoints),),
            workers=workers,
        )
        await self.pool.configure([config])
        return config


def in_a_loop(scenario: Callable[[Path], Awaitable[None]], directory: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            await scenario(directory)

    try:
        uvloop.run(run())
    finally:
        end_orphans(ControlSockets(directory))
        with suppress(ChildProcessError):
            while os.waitpid(-1, 0):
                pass
        assert not list(directory.rglob("worker-*"))


def client_of(config: ServicePortConfig) -> socket.socket:
    client = socket.socket(socket.AF_INET, KINDS[Protocol(config.protocol)])
    client.settimeout(20)
    client.connect(("127.0.0.1", config.listeners[0].proxy_port))
    return client


async def ask(client: socket.socket) -> str:
    def ask() -> str:
        client.sendall(b"?")
        return client.recv(100).decode()

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize("protocol", Protocol)
def test_orphans_serve_and_a_like_agent_adopts_them(protocol: Protocol, tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with ExitStack() as stack:
            endpoint, _ = stack.enter_context(echo_server(protocol, "here"))
            async with Agent(directory) as first:
                config = await first.serve(protocol, endpoint)
                pids = first.pool.pids
                old = stack.enter_context(client_of(config))
                assert await ask(old) == "here"
            assert await ask(old) == "here"
            new = stack.enter_context(client_of(config))
            assert await ask(new) == "here"
            async with Agent(directory) as second:
                assert second.pool.pids == pids
                assert await second.serve(protocol, endpoint) == config  # on the same port
                assert await ask(old) == "here"
                counters = await carried(second.pool)
                assert counters[config.key].opened == 2

    in_a_loop(scenario, tmp_path)


def test_an_adopted_worker_logs_to_who_adopted_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(Protocol.TCP, "here") as (endpoint, _):
            async with Agent(directory) as first:
                await first.serve(Protocol.TCP, endpoint)
                [pid] = first.pool.pids
            async with Agent(directory) as second:
                assert second.pool.pids == (pid,)
                with caplog.at_level(logging.INFO):
                    await second.pool.drain()
            [record] = [record for record in caplog.records if "Worker drains" in record.getMessage()]
            assert f"pid={pid} connections=0" in record.getMessage()
            assert record.levelno == logging.INFO

    in_a_loop(scenario, tmp_path)


@pytest.mark.parametrize("build", ["1", "2"])
def test_who_shares_a_service_port_goes_on_with_it(build: str, tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(Protocol.TCP, "here") as (endpoint, _):
            async with Agent(directory, size=2) as first:
                config = await first.serve(Protocol.TCP, endpoint, workers=2)
                pids = first.pool.pids
            async with Agent(directory, size=2, build=build) as second:
                is_adopted = build == "1"
                assert (set(second.pool.pids) == set(pids)) is is_adopted
                assert [len(seat) for seat in second.pool._seats] == [is_adopted, is_adopted]
                with client_of(config) as client:
                    assert await ask(client) == "here"
                assert await second.serve(Protocol.TCP, endpoint, workers=2) == config
                await second.pool.retire()
                assert [len(seat) for seat in second.pool._seats] == [1, 1]
                with client_of(config) as client:
                    assert await ask(client) == "here"

    in_a_loop(scenario, tmp_path)


@pytest.mark.parametrize("protocol", Protocol)
def test_an_agent_of_another_build_replaces_them_and_nobody_notices(
    protocol: Protocol, tmp_path: Path
) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(protocol, "here") as (endpoint, heard):
            async with Agent(directory) as first:
                config = await first.serve(protocol, endpoint)
                [pid] = first.pool.pids
                old = client_of(config)
                assert await ask(old) == "here"
            async with Agent(directory, build="2") as second:
                assert pid not in second.pool.pids
                await second.serve(protocol, endpoint)
                await second.pool.retire()
                with old:
                    assert await ask(old) == "here"
                    assert len(set(heard)) == 1  # still from the same port
                    with client_of(config) as new:
                        assert await ask(new) == "here"
                    counters = await carried(second.pool)
                    assert counters[config.key].opened == (1 if protocol is Protocol.TCP else 2)
                await until_ended(pid)

    in_a_loop(scenario, tmp_path)


async def until_ended(pid: int) -> None:
    """All its threads, the last of which closes its sockets."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return  # it has been reaped, too
    try:
        ended, _, _ = await asyncio.to_thread(select.select, [pidfd], [], [], 30)
    finally:
        os.close(pidfd)
    assert ended


def test_a_drain_ends_in_time(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(Protocol.TCP, "here") as (endpoint, _):
            async with Agent(directory) as first:
                config = await first.serve(Protocol.TCP, endpoint)
                [pid] = first.pool.pids
                old = client_of(config)
                assert await ask(old) == "here"
            async with Agent(directory, build="2", drain_seconds=0.5) as second:
                await second.serve(Protocol.TCP, endpoint)
                with old:
                    assert await ask(old) == "here"
                    await second.pool.retire()
                    await until_ended(pid)
                    with pytest.raises(ConnectionResetError):
                        await ask(old)

    in_a_loop(scenario, tmp_path)


def test_a_drain_waits_for_who_is_on_the_way_to_an_endpoint(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with ExitStack() as stack:
            endpoint = stack.enter_context(socket.socket())
            endpoint.bind(("127.0.0.1", 0))
            endpoint.listen(0)
            for _ in range(3):  # its backlog is full, so it is silent
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(endpoint.getsockname())
            async with Agent(directory) as agent:
                config = await agent.serve(Protocol.TCP, endpoint.getsockname())
                client = stack.enter_context(client_of(config))
                draining = asyncio.create_task(agent.pool.drain())
                await asyncio.wait([draining], timeout=0.5)
                assert not draining.done()
                stack.enter_context(serving(endpoint, echo))
                assert await ask(client) == "?"
                client.close()
                await draining

    in_a_loop(scenario, tmp_path)


def test_a_worker_whose_clients_have_every_descriptor_is_found(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            control, asker = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
            agent, theirs = socket.socketpair()
            stack.enter_context(agent)
            control.bind(str(tmp_path / "control"))
            control.listen()
            process = WorkerProcess(loop, theirs, control, started_by=os.getuid(), pid_namespace=1)
            stack.callback(process.close)
            asker.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
            asker.connect(control.getsockname())
            await loop.sock_sendall(asker, encode_frame(msgspec.msgpack.encode(Hello(1))))
            async with asyncio.timeout(20):
                assert b"introduction" in await loop.sock_recv(asker, 1000)

    try:
        uvloop.run(scenario())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_flows_of_a_class_that_is_gone_end(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(Protocol.UDP, "here") as (endpoint, heard):
            async with Agent(directory) as first:
                config = await first.serve(Protocol.UDP, endpoint)
                [pid] = first.pool.pids
                with client_of(config) as client:
                    assert await ask(client) == "here"
            async with Agent(directory, build="2") as second:
                await second.pool.configure([msgspec.structs.replace(config, listeners=())])
                await second.pool.retire()
                await until_ended(pid)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                    again.bind(heard[0])  # the flow's port is free: nobody has its socket any more

    in_a_loop(scenario, tmp_path)


def test_many_flows_and_clients_go_over_with_their_listener(tmp_path: Path) -> None:
    """More than one message carries."""
    count = 600

    async def scenario(directory: Path) -> None:
        with ExitStack() as stack:
            servers = [stack.enter_context(echo_server(Protocol.UDP, name)) for name in "ab"]
            endpoints = [address for address, _ in servers]
            async with Agent(directory) as first:
                config = await first.serve(Protocol.UDP, *endpoints, affinity=600)
                clients = [stack.enter_context(client_of(config)) for _ in range(count)]
                answers = [await ask(client) for client in clients]
                assert len(set(answers)) == 1  # one client, one endpoint
                heard = [len(set(heard)) for _, heard in servers]
            async with Agent(directory, build="2") as second:
                await second.serve(Protocol.UDP, *endpoints, affinity=600)
                await second.pool.retire()
                assert [await ask(client) for client in clients] == answers
                assert [len(set(heard)) for _, heard in servers] == heard
                late = stack.enter_context(client_of(config))
                assert await ask(late) == answers[0]

    in_a_loop(scenario, tmp_path)


def test_a_flow_whose_endpoint_is_gone_by_then_moves(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with (
            echo_server(Protocol.UDP, "old") as (old, _),
            echo_server(Protocol.UDP, "new") as (new, _),
        ):
            async with Agent(directory) as first:
                client = client_of(await first.serve(Protocol.UDP, old))
                assert await ask(client) == "old"
            async with Agent(directory, build="2") as second:
                await second.serve(Protocol.UDP, new)
                with client:
                    assert await ask(client) == "new"

    in_a_loop(scenario, tmp_path)


def test_another_number_of_workers_replaces_all(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(Protocol.TCP, "here") as (endpoint, _):
            async with Agent(directory, size=2) as first:
                await first.serve(Protocol.TCP, endpoint)
                before = set(first.pool.pids)
            async with Agent(directory, size=1) as second:
                assert not before & set(second.pool.pids)
                config = await second.serve(Protocol.TCP, endpoint)
                await second.pool.retire()
                with client_of(config) as client:
                    assert await ask(client) == "here"

    in_a_loop(scenario, tmp_path)


class Estranged(Agent):
    """One that knows nothing of what its predecessor's workers were told."""

    async def find_orphans(self) -> list[Orphan]:
        orphans = await super().find_orphans()
        for orphan in orphans:
            orphan.service_ports = [
                msgspec.structs.replace(held, state=b"\xc1") for held in orphan.service_ports
            ]
        return orphans


def test_a_state_in_messages_that_nobody_knows_costs_the_adoption_and_nothing_else(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(Protocol.TCP, "here") as (endpoint, _):
            async with Agent(directory) as first:
                old = client_of(await first.serve(Protocol.TCP, endpoint))
                assert await ask(old) == "here"
            async with Estranged(directory) as second:
                assert not second.inheritance.adopted
                await second.serve(Protocol.TCP, endpoint)
                await second.pool.retire()
                with old:
                    assert await ask(old) == "here"

    in_a_loop(scenario, tmp_path)


def test_an_adopted_worker_is_no_orphan_any_more(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(Protocol.TCP, "here") as (endpoint, _):
            async with Agent(directory, orphan_seconds=ORPHAN_SECONDS) as first:
                config = await first.serve(Protocol.TCP, endpoint)
                [pid] = first.pool.pids
            async with Agent(directory, orphan_seconds=ORPHAN_SECONDS) as second:
                await asyncio.sleep(1.2 * ORPHAN_SECONDS)  # in which an orphan would have ended
                assert second.pool.pids == (pid,)
                with client_of(config) as client:
                    assert await ask(client) == "here"
            await until_ended(pid)

    in_a_loop(scenario, tmp_path)


def test_who_speaks_another_language_is_left_and_the_worker_serves_on(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(Protocol.TCP, "here") as (endpoint, _):
            async with Agent(directory) as agent:
                config = await agent.serve(Protocol.TCP, endpoint)
                for sock, _ in ControlSockets(directory).connect():
                    with sock:
                        sock.sendall(encode_frame(msgspec.msgpack.encode(["an order of version 99", 1])))
                        assert await asyncio.to_thread(sock.recv, 10) == b""
                with client_of(config) as client:
                    assert await ask(client) == "here"
                assert agent.pool.replaced == 0

    in_a_loop(scenario, tmp_path)


def test_a_worker_that_ends_by_itself_while_it_is_told_to_leaves_no_file(tmp_path: Path) -> None:
    control_sockets = ControlSockets(tmp_path)
    control_sockets.prepare()
    worker, file = ControlSockets(tmp_path).bind()
    with ThreadPoolExecutor(1) as thread:
        with worker:
            worker.listen()
            ending = thread.submit(end_orphans, control_sockets)
            select.select([worker], [], [], 10)
        ending.result()
    assert not file.exists()
    control_sockets.remove()


class Bereaved(Agent):
    """Its workers die just after they were found."""

    async def find_orphans(self) -> list[Orphan]:
        orphans = await super().find_orphans()
        for orphan in orphans:
            os.kill(orphan.link.pid, signal.SIGKILL)
        return orphans


def test_an_adopted_worker_that_dies_before_it_is_told_anything_is_replaced(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(Protocol.TCP, "here") as (endpoint, _):
            async with Agent(directory) as first:
                config = await first.serve(Protocol.TCP, endpoint)
            async with Bereaved(directory) as second:
                assert len(second.inheritance.adopted) == 1
                with client_of(config) as client:
                    assert await ask(client) == "here"  # its heir knows what it served
                assert second.pool.replaced == 1

    in_a_loop(scenario, tmp_path)
