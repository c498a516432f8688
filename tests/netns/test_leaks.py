"""After much work of every kind, everything that was taken has been given back."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.clients import connect, greeting, received_to_the_end, sockets, udp_clients, who_answers
from tests.support.kernel_state import descriptors, threads
from tests.support.loopback import reset
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

ROUNDS = 2
LOOKS = 20
SETTLE_SECONDS = 30.0
MAX_AGENT_THREADS = 2 + min(32, (os.cpu_count() or 1) + 4)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    flags = ("--udp-timeout", "500ms")
    with ServiceNode(tmp_path_factory.mktemp("node"), *flags) as node:
        node.agent.start()
        yield node


@dataclass(frozen=True)
class Holdings:
    """What the agent and its workers hold, and what stands in the kernel for them."""

    processes: list[int]
    descriptors: list[int]
    worker_threads: list[int]
    rules: list[str]
    listening: list[str]
    namespaces: list[str]


def holdings(node: ServiceNode) -> Holdings:
    processes = [node.agent.pid, *node.agent.worker_pids]
    return Holdings(
        processes=sorted(node.node.pids()),
        descriptors=[descriptors(pid) for pid in processes],
        worker_threads=[threads(pid) for pid in node.agent.worker_pids],
        rules=node.rules(),
        listening=node.node.run("ss", "-Htuln").stdout.splitlines(),
        namespaces=sorted(path.name for path in Path("/run/netns").iterdir()),
    )


def holdings_at_rest(node: ServiceNode) -> Holdings:
    """The least of several looks: one alone may meet a descriptor open for a moment, in mid-commit."""
    looks = []
    for _ in range(LOOKS):
        looks.append(holdings(node))
        time.sleep(0.1)
    return min(looks, key=lambda look: sum(look.descriptors))


def test_everything_is_given_back(node: ServiceNode) -> None:
    work(node)  # what is taken once and kept: pooled pipes, threads
    wait_until(lambda: flows_and_connections(node) == 0)
    before = holdings_at_rest(node)
    for _ in range(ROUNDS):
        work(node)
    wait_until(lambda: flows_and_connections(node) == 0)
    settled = time.monotonic() + SETTLE_SECONDS
    while (after := holdings(node)) != before and time.monotonic() < settled:
        time.sleep(0.1)
    assert after == before
    # asyncio's pool for what blocks starts its threads as they are needed, up to a number.
    assert threads(node.agent.pid) <= MAX_AGENT_THREADS


def flows_and_connections(node: ServiceNode) -> int:
    return len(node.node.run("ss", "-Htun", "state", "connected", "exclude", "time-wait").stdout.splitlines())


def work(node: ServiceNode) -> None:
    """Connections that end in every way, flows, refusals, changes; all of it is over at the end."""
    refusing = "10.244.1.1"
    service = node.serve("greet", "digest", "reset", "name", endpoints=[*node.endpoint_addresses, refusing])
    for client in sockets(node.client, 50):
        with client:
            client.connect(service["greet"])
            greeting(client)
    for _ in range(10):
        aborted = connect(node.client, service["greet"])
        reset(aborted)
        with connect(node.client, service["reset"]) as client, pytest.raises(ConnectionResetError):
            client.sendall(b"x")
            client.recv(1)
        with connect(node.client, service["digest"]) as client:
            client.sendall(bytes(1 << 20))
            client.shutdown(socket.SHUT_WR)
            assert len(received_to_the_end(client)) == 64
    clients = udp_clients(node.client, service["name"], 50)
    who_answers(clients)
    for client in clients:
        client.close()
    node.set_endpoints(service, [])
    node.wait_for_rules(service, is_refused=True)
    node.remove(service)
