"""--bind-address: listeners on one of the node's addresses alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients import expect_everybody, expect_refusal
from tests.support.service_node import ServiceNode
from userspace_proxy.demo.node_network import NODE_NETWORK

SECOND_ADDRESS = str(NODE_NETWORK[11])
EVERYBODY = ("web-1", "web-2", "web-3")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    flags = ("--bind-address", SECOND_ADDRESS)
    with ServiceNode(tmp_path_factory.mktemp("node"), *flags, second_node_address=True) as node:
        node.agent.start()
        yield node


def test_everybody_is_served(node: ServiceNode) -> None:
    service = node.serve("greet", "name")
    for where in (node.client, node.node, node.network.outside):
        expect_everybody(where, service["greet"], service["name"], EVERYBODY)


def test_everybody_is_refused_without_endpoints(node: ServiceNode) -> None:
    service = node.serve("greet", "name", endpoints=[])
    for where in (node.client, node.node, node.network.outside):
        expect_refusal(where, service["greet"], service["name"])


def test_nothing_listens_on_other_addresses(node: ServiceNode) -> None:
    node.serve("greet", "name")
    listening = [line.split()[4] for line in node.node.run("ss", "-Htuln").stdout.splitlines()]
    assert listening
    assert {address.rpartition(":")[0] for address in listening} == {SECOND_ADDRESS}
