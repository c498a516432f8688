"""A pool's workers go on without it, and the next pool adopts them, or takes what they carry over."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random

import msgspec
import pytest
import uvloop

from tests.support.loopback import echo, serving
from tests.support.waiting import wait_until
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
from userspace_proxy.dataplane.orphans import Inheritance, end_orphans, find_orphans, sort_out
from userspace_proxy.dataplane.succession import Hello
from userspace_proxy.dataplane.worker_pool import WorkerPool
from userspace_proxy.dataplane.worker_process import WorkerProcess

Endpoint = tuple[str, int]


@contextmanager
def echo_server(kind: socket.SocketKind, name: str) -> Iterator[tuple[Endpoint, list[Endpoint]]]:
    """An endpoint that answers with its name; its address, and whom it has heard from."""
    with socket.socket(socket.AF_INET, kind) as server:
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

        if kind == socket.SOCK_STREAM:
            server.listen()
        thread = threading.Thread(target=accept if kind == socket.SOCK_STREAM else answer)
        thread.start()
        try:
            yield server.getsockname(), heard
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join()


class Agent:
    """What an agent has of its workers, and of those of the agent before it."""

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

    async def start(self) -> None:
        self.inheritance = sort_out(
            await find_orphans(asyncio.get_running_loop(), self.control_sockets),
            build=self._build,
            pool_size=self._size,
            accept=self.sockets.accept,
        )
        await self.pool.start(self.inheritance.adopted, self.inheritance.outgoing)

    async def leave(self) -> None:
        await self.pool.close()
        self.sockets.close_all()
        self.inheritance.close()

    def config(
        self, protocol: Protocol, *endpoints: Endpoint, affinity: int | None = None
    ) -> ServicePortConfig:
        name = ServicePortName(ServiceName("default", "web"), "", protocol, IPFamily.IPV4)
        listener = ListenerName(name, TrafficPolicy.CLUSTER)
        if listener not in self.sockets:
            self.sockets.open(listener, None)
        listening = ListenerConfig("Cluster", self.sockets.port_of(listener), endpoints)
        return ServicePortConfig(
            name.key, str(name), protocol.value, "IPv4", affinity, 30.0, 120.0, (listening,)
        )


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
    kind = socket.SOCK_STREAM if config.protocol == "TCP" else socket.SOCK_DGRAM
    client = socket.socket(socket.AF_INET, kind)
    client.settimeout(10)
    client.connect(("127.0.0.1", config.listeners[0].proxy_port))
    return client


async def ask(client: socket.socket) -> str:
    def ask() -> str:
        client.sendall(b"?")
        return client.recv(100).decode()

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize("protocol", Protocol)
def test_orphans_serve_and_a_like_agent_adopts_them(protocol: Protocol, tmp_path: Path) -> None:
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM

    async def scenario(directory: Path) -> None:
        with echo_server(kind, "here") as (endpoint, _):
            first = Agent(directory)
            await first.start()
            config = first.config(protocol, endpoint)
            await first.pool.configure([config])
            [pid] = first.pool.pids
            with client_of(config) as old:
                assert await ask(old) == "here"
                await first.leave()
                assert await ask(old) == "here"
                with client_of(config) as new:
                    assert await ask(new) == "here"
                second = Agent(directory)
                await second.start()
                assert second.pool.pids == (pid,)
                assert second.config(protocol, endpoint) == config  # on the same port
                await second.pool.configure([config])
                assert await ask(old) == "here"
                counters = await second.pool.counters()
                assert counters[config.key].opened == 2
                await second.pool.configure([], [config.key])
                await second.leave()

    in_a_loop(scenario, tmp_path)


@pytest.mark.parametrize("build", ["1", "2"])
def test_who_shares_a_service_port_goes_on_with_it(build: str, tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(socket.SOCK_STREAM, "here") as (endpoint, _):
            first = Agent(directory, size=2)
            await first.start()
            config = msgspec.structs.replace(first.config(Protocol.TCP, endpoint), workers=2)
            await first.pool.configure([config])
            pids = first.pool.pids
            await first.leave()
            second = Agent(directory, size=2, build=build)
            await second.start()
            is_adopted = build == "1"
            assert (set(second.pool.pids) == set(pids)) is is_adopted
            assert [len(seat) for seat in second.pool._seats] == [is_adopted, is_adopted]
            with client_of(config) as client:
                assert await ask(client) == "here"
            await second.pool.configure([config])
            await second.pool.retire()
            assert [len(seat) for seat in second.pool._seats] == [1, 1]
            with client_of(config) as client:
                assert await ask(client) == "here"
            await second.pool.configure([], [config.key])
            await second.leave()

    in_a_loop(scenario, tmp_path)


@pytest.mark.parametrize("protocol", Protocol)
def test_an_agent_of_another_build_replaces_them_and_nobody_notices(
    protocol: Protocol, tmp_path: Path
) -> None:
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM

    async def scenario(directory: Path) -> None:
        with echo_server(kind, "here") as (endpoint, heard):
            first = Agent(directory)
            await first.start()
            config = first.config(protocol, endpoint)
            await first.pool.configure([config])
            [pid] = first.pool.pids
            with client_of(config) as old:
                assert await ask(old) == "here"
                await first.leave()
                second = Agent(directory, build="2")
                await second.start()
                assert pid not in second.pool.pids
                await second.pool.configure([second.config(protocol, endpoint)])
                await second.pool.retire()
                assert await ask(old) == "here"
                assert len(set(heard)) == 1  # still from the same port
                with client_of(config) as new:
                    assert await ask(new) == "here"
                counters = await second.pool.counters()
                assert counters[config.key].opened == (1 if protocol is Protocol.TCP else 2)
            await asyncio.to_thread(wait_until, lambda: has_ended(pid))
            await second.pool.configure([], [config.key])
            await second.leave()

    in_a_loop(scenario, tmp_path)


def has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_a_drain_ends_in_time(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(socket.SOCK_STREAM, "here") as (endpoint, _):
            first = Agent(directory)
            await first.start()
            config = first.config(Protocol.TCP, endpoint)
            await first.pool.configure([config])
            [pid] = first.pool.pids
            with client_of(config) as old:
                assert await ask(old) == "here"
                await first.leave()
                second = Agent(directory, build="2", drain_seconds=0.5)
                await second.start()
                await second.pool.configure([second.config(Protocol.TCP, endpoint)])
                await second.pool.retire()
                assert await ask(old) == "here"
                await asyncio.to_thread(wait_until, lambda: has_ended(pid))
                with pytest.raises(ConnectionResetError):
                    await ask(old)
            await second.pool.configure([], [config.key])
            await second.leave()

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
            agent = Agent(directory)
            await agent.start()
            config = agent.config(Protocol.TCP, endpoint.getsockname())
            await agent.pool.configure([config])
            client = stack.enter_context(client_of(config))
            draining = asyncio.create_task(agent.pool.drain())
            await asyncio.wait([draining], timeout=0.5)
            assert not draining.done()
            stack.enter_context(serving(endpoint, echo))
            assert await ask(client) == "?"
            client.close()
            await draining
            await agent.leave()

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
            async with asyncio.timeout(10):
                assert b"introduction" in await loop.sock_recv(asker, 1000)

    try:
        uvloop.run(scenario())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_flows_of_a_class_that_is_gone_end(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(socket.SOCK_DGRAM, "here") as (endpoint, heard):
            first = Agent(directory)
            await first.start()
            config = first.config(Protocol.UDP, endpoint)
            await first.pool.configure([config])
            [pid] = first.pool.pids
            with client_of(config) as client:
                assert await ask(client) == "here"
            await first.leave()
            second = Agent(directory, build="2")
            await second.start()
            await second.pool.configure([msgspec.structs.replace(config, listeners=())])
            await second.pool.retire()
            await asyncio.to_thread(wait_until, lambda: has_ended(pid))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                again.bind(heard[0])  # the flow's port is free: nobody has its socket any more
            await second.pool.configure([], [config.key])
            await second.leave()

    in_a_loop(scenario, tmp_path)


def test_many_flows_and_clients_go_over_with_their_listener(tmp_path: Path) -> None:
    """More than one message carries."""
    count = 600

    async def scenario(directory: Path) -> None:
        with ExitStack() as stack:
            servers = [stack.enter_context(echo_server(socket.SOCK_DGRAM, name)) for name in "ab"]
            endpoints = [address for address, _ in servers]
            first = Agent(directory)
            await first.start()
            config = first.config(Protocol.UDP, *endpoints, affinity=600)
            await first.pool.configure([config])
            clients = [stack.enter_context(client_of(config)) for _ in range(count)]
            answers = [await ask(client) for client in clients]
            assert len(set(answers)) == 1  # one client, one endpoint
            heard = [len(set(heard)) for _, heard in servers]
            await first.leave()
            second = Agent(directory, build="2")
            await second.start()
            await second.pool.configure([second.config(Protocol.UDP, *endpoints, affinity=600)])
            await second.pool.retire()
            assert [await ask(client) for client in clients] == answers
            assert [len(set(heard)) for _, heard in servers] == heard
            late = stack.enter_context(client_of(config))
            assert await ask(late) == answers[0]
            await second.pool.configure([], [config.key])
            await second.leave()

    in_a_loop(scenario, tmp_path)


def test_a_flow_whose_endpoint_is_gone_by_then_moves(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with (
            echo_server(socket.SOCK_DGRAM, "old") as (old, _),
            echo_server(socket.SOCK_DGRAM, "new") as (new, _),
        ):
            first = Agent(directory)
            await first.start()
            config = first.config(Protocol.UDP, old)
            await first.pool.configure([config])
            with client_of(config) as client:
                assert await ask(client) == "old"
                await first.leave()
                second = Agent(directory, build="2")
                await second.start()
                await second.pool.configure([second.config(Protocol.UDP, new)])
                assert await ask(client) == "new"
                await second.pool.configure([], [config.key])
                await second.leave()

    in_a_loop(scenario, tmp_path)


def test_another_number_of_workers_replaces_all(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(socket.SOCK_STREAM, "here") as (endpoint, _):
            first = Agent(directory, size=2)
            await first.start()
            config = first.config(Protocol.TCP, endpoint)
            await first.pool.configure([config])
            before = set(first.pool.pids)
            await first.leave()
            second = Agent(directory, size=1)
            await second.start()
            assert not before & set(second.pool.pids)
            await second.pool.configure([second.config(Protocol.TCP, endpoint)])
            await second.pool.retire()
            with client_of(config) as client:
                assert await ask(client) == "here"
            await second.pool.configure([], [config.key])
            await second.leave()

    in_a_loop(scenario, tmp_path)


def test_a_state_in_messages_that_nobody_knows_costs_the_adoption_and_nothing_else(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(socket.SOCK_STREAM, "here") as (endpoint, _):
            first = Agent(directory)
            await first.start()
            config = first.config(Protocol.TCP, endpoint)
            await first.pool.configure([config])
            with client_of(config) as old:
                assert await ask(old) == "here"
                await first.leave()
                second = Agent(directory)
                orphans = await find_orphans(asyncio.get_running_loop(), second.control_sockets)
                for orphan in orphans:
                    orphan.service_ports = [
                        msgspec.structs.replace(held, state=b"\xc1") for held in orphan.service_ports
                    ]
                inheritance = sort_out(orphans, build="1", pool_size=1, accept=second.sockets.accept)
                assert not inheritance.adopted
                await second.pool.start(inheritance.adopted, inheritance.outgoing)
                await second.pool.configure([second.config(Protocol.TCP, endpoint)])
                await second.pool.retire()
                assert await ask(old) == "here"
            await second.pool.configure([], [config.key])
            await second.leave()

    in_a_loop(scenario, tmp_path)


def test_an_adopted_worker_is_no_orphan_any_more(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(socket.SOCK_STREAM, "here") as (endpoint, _):
            first = Agent(directory, orphan_seconds=0.5)
            await first.start()
            config = first.config(Protocol.TCP, endpoint)
            await first.pool.configure([config])
            [pid] = first.pool.pids
            await first.leave()
            second = Agent(directory, orphan_seconds=0.5)
            await second.start()
            await asyncio.sleep(1)  # in which an orphan would have ended
            assert second.pool.pids == (pid,)
            with client_of(config) as client:
                assert await ask(client) == "here"
            await second.leave()
            await asyncio.to_thread(wait_until, lambda: has_ended(pid))

    in_a_loop(scenario, tmp_path)


def test_who_speaks_another_language_is_left_and_the_worker_serves_on(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with echo_server(socket.SOCK_STREAM, "here") as (endpoint, _):
            agent = Agent(directory)
            await agent.start()
            config = agent.config(Protocol.TCP, endpoint)
            await agent.pool.configure([config])
            for sock, _ in ControlSockets(directory).connect():
                with sock:
                    sock.sendall(encode_frame(msgspec.msgpack.encode(["an order of version 99", 1])))
                    assert await asyncio.to_thread(sock.recv, 10) == b""
            with client_of(config) as client:
                assert await ask(client) == "here"
            assert agent.pool.replaced == 0
            await agent.pool.configure([], [config.key])
            await agent.leave()

    in_a_loop(scenario, tmp_path)
