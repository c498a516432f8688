"""Where DNAT captures instead of REDIRECT: pods on host veths without an address, and --bind-address."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients import expect_everybody, expect_refusal
from tests.support.service_node import ServiceNode
from userspace_proxy.demo.node_network import NODE_NETWORK, PodWiring

SECOND_ADDRESS = str(NODE_NETWORK[11])
EVERYBODY = ("web-1", "web-2", "web-3")
CASES = {
    "unnumbered nft": (PodWiring.UNNUMBERED, ("--iptables-backend", "nft")),
    "unnumbered python-iptables": (PodWiring.UNNUMBERED, ("--iptables-backend", "python-iptables")),
    "bind address": (PodWiring.BRIDGE, ("--bind-address", SECOND_ADDRESS)),
}
"""How pods hang on the node (Calico's way has no address on the host's end), and the agent's flags."""


@pytest.fixture(scope="module", params=CASES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    wiring, flags = CASES[request.param]
    folder = tmp_path_factory.mktemp("node")
    with ServiceNode(folder, *flags, wiring=wiring, second_node_address=True) as node:
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


@pytest.mark.parametrize("node", ["bind address"], indirect=True)
def test_nothing_listens_on_other_addresses(node: ServiceNode) -> None:
    node.serve("greet", "name")
    listening = [line.split()[4] for line in node.node.run("ss", "-Htuln").stdout.splitlines()]
    assert listening
    assert {address.rpartition(":")[0] for address in listening} == {SECOND_ADDRESS}
