"""What `tests.chaos` looks for in the end is found, where it is left on purpose."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.chaos import leaks
from tests.chaos.leaks import SPARE_DESCRIPTORS, holdings, what_is_left
from tests.chaos.ledger import Ledger
from tests.chaos.run import FLAGS
from tests.chaos.world import World
from tests.support.clients import connect, greeting
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

UNUSED_PORT = 45679


@contextmanager
def a_process(world: World) -> Iterator[None]:
    process = world.node.node.popen("sleep", "600")
    wait_until(lambda: process.pid in world.node.node.pids())
    yield
    process.kill()
    process.wait()


@contextmanager
def connections(world: World) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(SPARE_DESCRIPTORS):
            greeting(stack.enter_context(connect(world.node.client, world.service["greet"])))
        yield


@contextmanager
def a_control_socket(world: World) -> Iterator[None]:
    left = world.node.state_folder / "worker-0.sock"
    left.touch()
    yield
    left.unlink()


@contextmanager
def a_listener(world: World) -> Iterator[None]:
    with world.node.node.call(lambda: socket.create_server(("127.0.0.1", 8999))):
        yield


@contextmanager
def other_rules(world: World) -> Iterator[None]:
    world.agent.signal(signal.SIGSTOP)
    try:
        for tool in world.iptables:
            world.node.node.run(tool, "-t", "filter", "-F")
        yield
    finally:
        world.agent.signal(signal.SIGCONT)


@contextmanager
def an_entry_without_nat(world: World) -> Iterator[None]:
    entry = ("-p", "udp", "-s", world.node.client.address, "-d", world.service.cluster_ip)
    ports = ("--sport", str(UNUSED_PORT), "--dport", "83")
    world.node.node.run("conntrack", "-I", *entry, *ports, "-t", "600")
    yield
    world.node.node.run("conntrack", "-D", *entry, *ports)


@contextmanager
def an_endpoint_removed(world: World) -> Iterator[None]:
    pod = world.pods[0]
    world.set_entry(pod, None)
    yield
    world.set_entry(pod, world.node.endpoint_on(pod.namespace))


LEFT: dict[Callable[[World], AbstractContextManager[None]], tuple[str, ...]] = {
    a_process: ("processes",),
    connections: ("connections and flows", "descriptors"),
    a_control_socket: ("control sockets",),
    a_listener: ("listening",),
    other_rules: ("rules are not",),
    an_entry_without_nat: ("leads astray",),
    an_endpoint_removed: ("endpoints web-1 are not used",),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("node")
    with ServiceNode(folder, *FLAGS, ipv6=True, endpoints=0) as node:
        yield World(node, folder, Ledger())


@pytest.mark.parametrize("leave", LEFT)
def test_what_is_left_is_told(
    world: World, leave: Callable[[World], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = holdings(world)
    assert what_is_left(world, before) == []
    with leave(world), monkeypatch.context() as patch:
        patch.setattr(leaks, "SETTLE_SECONDS", 0.0)

        def are_told() -> bool:
            told = " ".join(what_is_left(world, before))
            return all(sentence in told for sentence in LEFT[leave])

        wait_until(are_told)
