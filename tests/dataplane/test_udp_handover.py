"""UDP listeners and their flows go from one agent's workers to the next one's: never none, never two.

With real worker processes, over loopback.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec

from tests.dataplane.test_succession import Agent, Endpoint, ask, client_of, echo_server, in_a_loop
from tests.support.traffic import carried
from userspace_proxy.core.proxy_plan import ListenerName
from userspace_proxy.core.service_port import (
    IPFamily,
    Protocol,
    ProxyPort,
    ServiceName,
    ServicePortName,
    TrafficPolicy,
)
from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.dataplane.messages import (
    MAX_DESCRIPTORS_PER_MESSAGE,
    Counters,
    ListenerConfig,
    ReadCounters,
    ServicePortConfig,
)
from userspace_proxy.dataplane.orphans import Orphan, find_orphans, sort_out
from userspace_proxy.dataplane.succession import GaveUp, GiveUp
from userspace_proxy.dataplane.worker_link import WorkerLink

MORE_THAN_A_MESSAGE = MAX_DESCRIPTORS_PER_MESSAGE + 1
CLUSTER, LOCAL = TrafficPolicy.CLUSTER, TrafficPolicy.LOCAL


def config_of(
    agent: Agent,
    *endpoints: Endpoint,
    service: str = "dns",
    policies: Sequence[TrafficPolicy] = (CLUSTER,),
    affinity: int | None = None,
) -> ServicePortConfig:
    """A UDP Service port with a listener for each of `policies`, which are opened unless they are."""
    name = ServicePortName(ServiceName("default", service), "", Protocol.UDP, IPFamily.IPV4)
    listeners = []
    for policy in policies:
        listener = ListenerName(name, policy)
        is_open = listener in agent.sockets
        port = agent.sockets.port_of(listener) if is_open else agent.sockets.open(listener, None)
        listeners.append(ListenerConfig(policy.value, port, endpoints))
    return ServicePortConfig(name.key, str(name), "UDP", "IPv4", affinity, 30.0, 120.0, tuple(listeners))


def client_at(listener: ListenerConfig) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(10)
    client.connect(("127.0.0.1", listener.proxy_port))
    return client


async def only_orphan(directory: Path) -> Orphan:
    """The only worker there is, as an agent finds it that starts none, and so holds no lock on the folder."""
    [orphan] = await find_orphans(asyncio.get_running_loop(), ControlSockets(directory))
    return orphan


async def begin_to_take_over(directory: Path, *keys: str, is_complete: bool = False) -> WorkerLink:
    """Say hello to the only worker there is, and have it give up as much of these as one message carries."""
    orphan = await only_orphan(directory)
    answer, descriptors = await orphan.link.fetch(partial(GiveUp, service_ports=keys))
    orphan.close()
    for descriptor in descriptors:
        os.close(descriptor)
    assert isinstance(answer, GaveUp)
    assert answer.flows
    assert answer.is_complete is is_complete
    return orphan.link


def test_an_agent_that_dies_while_it_takes_over_leaves_the_listeners_read(tmp_path: Path) -> None:
    """By the worker that has them still, be it without an agent, be it adopted. Affine clients stay so."""

    async def scenario(directory: Path) -> None:
        with ExitStack() as stack:
            servers = [stack.enter_context(echo_server(Protocol.UDP, name)) for name in "ab"]
            endpoints = [address for address, _ in servers]
            async with Agent(directory) as first:
                config = config_of(first, *endpoints, affinity=600)
                await first.pool.configure([config])
                clients = [stack.enter_context(client_of(config)) for _ in range(MORE_THAN_A_MESSAGE)]
                [home] = {await ask(client) for client in clients}
                pids = first.pool.pids
            dies = await begin_to_take_over(directory, config.key)
            dies.leave()
            assert {await ask(client) for client in clients} == {home}
            async with Agent(directory) as second:
                assert second.pool.pids == pids
                assert {await ask(client) for client in clients} == {home}
            async with Agent(directory, build="3") as third:
                assert config_of(third, *endpoints, affinity=600) == config
                await third.pool.configure([config])
                await third.pool.retire()
                assert await ask(stack.enter_context(client_of(config))) == home

    in_a_loop(scenario, tmp_path)


def test_an_agent_that_adopts_from_one_that_was_taking_over_has_the_listeners_read(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with ExitStack() as stack:
            endpoint, _ = stack.enter_context(echo_server(Protocol.UDP, "here"))
            async with Agent(directory) as first:
                config = config_of(first, endpoint)
                await first.pool.configure([config])
                clients = [stack.enter_context(client_of(config)) for _ in range(MORE_THAN_A_MESSAGE)]
                for client in clients:
                    assert await ask(client) == "here"
            stopped_half_way = await begin_to_take_over(directory, config.key)
            async with Agent(directory):  # the worker leaves the other one for this
                for client in clients:
                    assert await ask(client) == "here"
                stopped_half_way.leave()

    in_a_loop(scenario, tmp_path)


def test_a_listener_that_an_agent_took_with_it_is_opened_again_on_its_port(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with ExitStack() as stack:
            endpoint, _ = stack.enter_context(echo_server(Protocol.UDP, "here"))
            async with Agent(directory) as first:
                config, other = config_of(first, endpoint), config_of(first, endpoint, service="other")
                await first.pool.configure([config, other])
                client = stack.enter_context(client_of(config))
                assert await ask(client) == "here"
                pids = first.pool.pids
            dies = await begin_to_take_over(directory, config.key, is_complete=True)
            dies.leave()
            async with Agent(directory) as second:
                listener = ListenerName(ServicePortName.from_key(config.key), CLUSTER)
                assert listener not in second.sockets
                second.sockets.open(listener, ProxyPort(config.listeners[0].proxy_port))
                assert config_of(second, endpoint) == config
                await second.pool.configure([config])
                assert second.pool.pids == pids
                assert await ask(client) == "here"

    in_a_loop(scenario, tmp_path)


def test_what_was_given_up_already_is_not_offered_to_the_next_agent(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with ExitStack() as stack:
            endpoint, _ = stack.enter_context(echo_server(Protocol.UDP, "here"))
            async with Agent(directory) as first:
                given = config_of(first, endpoint, service="a")
                kept = config_of(first, endpoint, service="b")
                await first.pool.configure([given, kept])
                for _ in range(MAX_DESCRIPTORS_PER_MESSAGE):
                    assert await ask(stack.enter_context(client_of(kept))) == "here"
                assert await ask(stack.enter_context(client_of(given))) == "here"
            dies = await begin_to_take_over(directory, given.key, kept.key)
            dies.leave()
            orphan = await only_orphan(directory)
            assert [held.key for held in orphan.service_ports] == [kept.key]
            orphan.close()
            orphan.link.leave()
            async with Agent(directory) as second:
                assert len(second.inheritance.adopted) == 1
                assert await ask(stack.enter_context(client_of(kept))) == "here"

    in_a_loop(scenario, tmp_path)


def test_a_listener_is_read_by_the_next_worker_once_the_one_before_has_stopped(tmp_path: Path) -> None:
    """One that is frozen cannot have stopped: until it goes on, the next one is not told to serve."""

    async def scenario(directory: Path) -> None:
        with ExitStack() as stack:
            endpoint, heard = stack.enter_context(echo_server(Protocol.UDP, "here"))
            async with Agent(directory) as first:
                config = config_of(first, endpoint)
                await first.pool.configure([config])
                old_client, new_client = (stack.enter_context(client_of(config)) for _ in range(2))
                assert await ask(old_client) == "here"
                [pid] = first.pool.pids
            async with Agent(directory, build="2") as second:
                new = second.pool._seats[0].process
                assert new is not None
                os.kill(pid, signal.SIGSTOP)
                try:
                    configuring = asyncio.create_task(second.pool.configure([config]))
                    for client in (old_client, new_client):
                        client.sendall(b"waits in the listener's queue")
                    for _ in range(20):  # it answers in turn, so it would have obeyed by then
                        answer = await new.request(ReadCounters)
                        assert isinstance(answer, Counters)
                        assert not answer.service_ports
                    assert len(heard) == 1
                finally:
                    os.kill(pid, signal.SIGCONT)
                await configuring
                for client in (old_client, new_client):
                    assert await asyncio.to_thread(client.recv, 100) == b"here"
                assert [heard.count(address) for address in dict.fromkeys(heard)] == [2, 1]
                await second.pool.retire()

    in_a_loop(scenario, tmp_path)


def test_a_listener_has_one_reader_though_another_of_its_service_port_does_not_fit(tmp_path: Path) -> None:
    async def scenario(directory: Path) -> None:
        with ExitStack() as stack:
            endpoint, heard = stack.enter_context(echo_server(Protocol.UDP, "here"))
            async with Agent(directory) as first:
                config = config_of(first, endpoint, policies=(CLUSTER, LOCAL))
                await first.pool.configure([config])
                fits, does_not = config.listeners
                before = stack.enter_context(client_at(fits))
                assert await ask(before) == "here"
                assert await ask(stack.enter_context(client_at(does_not))) == "here"
            second = Agent(directory)
            accept = second.sockets.accept
            inheritance = sort_out(
                await second.find_orphans(),
                build="1",
                pool_size=1,
                accept=lambda name, sock: name.policy is CLUSTER and accept(name, sock),
            )
            assert not inheritance.adopted
            await second.pool.start(inheritance.adopted, inheritance.outgoing)
            wanted = config_of(second, endpoint, policies=(CLUSTER, LOCAL))
            ports = {listener.proxy_port for listener in config.listeners}
            assert [listener.proxy_port in ports for listener in wanted.listeners] == [True, False]
            await second.pool.configure([wanted])
            # The worker before is not told to drain yet; were it to read, some of these would go through it.
            for client in [before, *(stack.enter_context(client_at(fits)) for _ in range(20))]:
                assert await ask(client) == "here"
            assert len(set(heard)) == 22  # the first client's flow came over with its socket
            counters = await carried(second.pool)
            assert counters[config.key].opened == 21
            await second.pool.retire()
            await second.__aexit__()

    in_a_loop(scenario, tmp_path)


def test_flows_expire_and_leave_in_the_order_in_which_they_were_used(tmp_path: Path) -> None:
    """Those of two listeners, one after the other, were the other way round."""

    async def scenario(directory: Path) -> None:
        with ExitStack() as stack:
            endpoint, _ = stack.enter_context(echo_server(Protocol.UDP, "here"))
            async with Agent(directory) as first:
                config = config_of(first, endpoint, policies=(CLUSTER, LOCAL))
                await first.pool.configure([config])
                one, other = config.listeners
                idle, used_last = stack.enter_context(client_at(other)), stack.enter_context(client_at(one))
                for client in (used_last, idle, used_last):
                    assert await ask(client) == "here"
                    await asyncio.sleep(0.01)  # the clock of flows counts milliseconds
            async with Agent(directory, build="2") as second:
                config = config_of(second, endpoint, policies=(CLUSTER, LOCAL))
                await second.pool.configure([msgspec.structs.replace(config, max_connections=2)])
                await second.pool.retire()
                assert await ask(stack.enter_context(client_at(one))) == "here"  # the idle one left for it
                assert await ask(used_last) == "here"
                counters = (await carried(second.pool))[config.key]
                assert (counters.opened, counters.evicted) == (3, 1)

    in_a_loop(scenario, tmp_path)
