"""sessionAffinity: ClientIP, with its timeout."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.clients import greeting, sockets, udp_clients, who_answers, who_greets
from tests.support.loopback import at_once
from tests.support.service_node import ServedService, ServiceNode
from tests.support.waiting import wait_until

SHORT_SECONDS = 2
LONG_SECONDS = 600


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node")) as node:
        node.agent.start()
        yield node


def test_it_holds_for_40_connections_at_once(node: ServiceNode) -> None:
    service = node.serve("greet", affinity_seconds=LONG_SECONDS)
    clients = sockets(node.client, 40)

    def connect(number: int) -> str:
        with clients[number] as client:
            client.connect(service["greet"])
            return greeting(client)

    assert len(set(at_once(40, connect))) == 1


def test_clients_are_told_apart(node: ServiceNode) -> None:
    service = node.serve("greet", affinity_seconds=LONG_SECONDS)
    homes = [
        who_greets(where, service["greet"], 5) for where in (node.client, node.network.outside, node.node)
    ]
    assert [len(set(home)) for home in homes] == [1, 1, 1]
    assert len({home[0] for home in homes}) == 3


def test_it_holds_for_udp_flows(node: ServiceNode) -> None:
    service = node.serve("name", affinity_seconds=LONG_SECONDS)
    with ExitStack() as stack:
        clients = [stack.enter_context(client) for client in udp_clients(node.client, service["name"], 40)]
        assert len(set(who_answers(clients))) == 1


def test_it_expires_after_its_timeout(node: ServiceNode) -> None:
    service = node.serve("greet", affinity_seconds=SHORT_SECONDS)
    assert is_forgotten_after(node, service, 1.5 * SHORT_SECONDS)


def test_every_connection_refreshes_it(node: ServiceNode) -> None:
    service = node.serve("greet", affinity_seconds=2 * SHORT_SECONDS)
    began = time.monotonic()
    names = set()
    while time.monotonic() - began < 3 * SHORT_SECONDS:
        names.update(who_greets(node.client, service["greet"]))
        time.sleep(0.1)
    assert len(names) == 1


def test_it_moves_for_good_when_its_endpoint_refuses(node: ServiceNode) -> None:
    service = node.serve("greet", affinity_seconds=LONG_SECONDS)
    [home] = who_greets(node.client, service["greet"])
    pod = node.network.pods[home]
    for pid in pod.pids():
        os.kill(pid, signal.SIGKILL)
    # A process is gone before the kernel has closed its sockets.
    wait_until(lambda: not pod.run("ss", "-Htuln").stdout)
    try:
        names = who_greets(node.client, service["greet"], 20)
    finally:
        node.start_servers(pod)
    assert len(set(names)) == 1
    assert names[0] != home
    assert who_greets(node.client, service["greet"], 20) == names


def test_it_moves_when_its_endpoint_leaves_the_service(node: ServiceNode) -> None:
    service = node.serve("greet", affinity_seconds=LONG_SECONDS)
    [home] = who_greets(node.client, service["greet"])
    others = [pod.address for pod in node.endpoints if pod.name != home]
    node.set_endpoints(service, others)
    wait_until(lambda: who_greets(node.client, service["greet"]) != [home])
    assert len(set(who_greets(node.client, service["greet"], 20))) == 1


def test_a_shorter_timeout_takes_effect(node: ServiceNode) -> None:
    service = node.serve("greet", affinity_seconds=LONG_SECONDS)
    assert not is_forgotten_after(node, service, 1.5 * SHORT_SECONDS)
    node.apply(dataclasses.replace(service, affinity_seconds=SHORT_SECONDS))
    wait_until(lambda: is_forgotten_after(node, service, 1.5 * SHORT_SECONDS))


def test_a_longer_timeout_takes_effect(node: ServiceNode) -> None:
    service = node.serve("greet", affinity_seconds=SHORT_SECONDS)
    assert is_forgotten_after(node, service, 1.5 * SHORT_SECONDS)
    node.apply(dataclasses.replace(service, affinity_seconds=LONG_SECONDS))
    wait_until(lambda: not is_forgotten_after(node, service, 1.5 * SHORT_SECONDS))


def test_taken_away_it_is_over(node: ServiceNode) -> None:
    service = node.serve("greet", affinity_seconds=LONG_SECONDS)
    assert len(set(who_greets(node.client, service["greet"], 6))) == 1
    node.apply(dataclasses.replace(service, affinity_seconds=None))
    wait_until(lambda: len(set(who_greets(node.client, service["greet"], 3))) == 3)


def is_forgotten_after(node: ServiceNode, service: ServedService, seconds: float) -> bool:
    """Whether the client is sent elsewhere after so long without a connection; and before, it is not."""
    [first, again] = who_greets(node.client, service["greet"], 2)
    assert first == again
    time.sleep(seconds)  # the passing of time is what is tried here
    return who_greets(node.client, service["greet"]) != [first]
