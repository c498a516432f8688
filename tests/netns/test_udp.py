"""Datagrams of every size, answers from the right address, and flows that end when they are idle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random

import pytest

from tests.support.clients import ask, udp_client, udp_clients, who_answers
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import NODE_NETWORK, POD_NETWORK

LARGEST = 65507
UDP_TIMEOUT_SECONDS = 3


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    folder = tmp_path_factory.mktemp("node")
    with ServiceNode(folder, "--udp-timeout", f"{UDP_TIMEOUT_SECONDS}s", second_node_address=True) as node:
        node.agent.start()
        yield node


@pytest.fixture(params=["pod", "node", "outside"])
def where(request: pytest.FixtureRequest, node: ServiceNode) -> Namespace:
    return {"pod": node.client, "node": node.node, "outside": node.network.outside}[request.param]


@pytest.mark.parametrize("size", [0, 1, 1472, 8000, 60000, LARGEST])
def test_datagrams_come_back_whole(node: ServiceNode, where: Namespace, size: int) -> None:
    service = node.serve("echo", name=f"echo-{where.name}-{size}")
    datagram = Random(size).randbytes(size)
    with udp_client(where, service["echo"]) as client:
        assert ask(client, datagram) == datagram


@pytest.mark.parametrize("source", [str(NODE_NETWORK[10]), str(NODE_NETWORK[11]), str(POD_NETWORK[1])])
def test_the_node_gets_its_answers_from_where_it_asked_whichever_address_it_asks_from(
    node: ServiceNode, source: str
) -> None:
    # A connected socket takes datagrams from the address it is connected to alone; udp(7).
    service = node.serve("name")
    with udp_client(node.node, service["name"], source=source) as client:
        assert who_answers([client] * 3) == who_answers([client]) * 3


def test_a_flow_that_is_used_stays_and_one_that_is_idle_ends(node: ServiceNode) -> None:
    service = node.serve("name")
    with ExitStack() as stack:
        used, idle = (stack.enter_context(one) for one in udp_clients(node.client, service["name"], 2))
        [home, first] = who_answers([used, idle])
        began = time.monotonic()
        while time.monotonic() - began < 2 * UDP_TIMEOUT_SECONDS:
            assert who_answers([used]) == [home]
            time.sleep(UDP_TIMEOUT_SECONDS / 10)
        # The idle client's next datagram is a new flow, and it is the third endpoint's turn.
        assert who_answers([idle])[0] not in (home, first)


def test_idle_flows_give_their_sockets_back(node: ServiceNode) -> None:
    service = node.serve("name")
    wait_until(lambda: flows(node) == 0)
    with ExitStack() as stack:
        clients = [stack.enter_context(client) for client in udp_clients(node.client, service["name"], 50)]
        who_answers(clients)
        assert flows(node) == 50
        wait_until(lambda: flows(node) == 0)


def flows(node: ServiceNode) -> int:
    """Sockets of the node that are connected to an endpoint."""
    return len(node.node.run("ss", "-Hun", "state", "established").stdout.splitlines())
