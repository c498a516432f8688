"""Host veths without addresses, which is how Calico wires pods: REDIRECT would find no address there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients import expect_everybody, expect_refusal
from tests.support.service_node import ServiceNode
from userspace_proxy.demo.node_network import PodWiring

EVERYBODY = ("web-1", "web-2", "web-3")


@pytest.fixture(scope="module", params=["nft", "python-iptables"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    folder = tmp_path_factory.mktemp(request.param)
    flags = ("--iptables-backend", request.param)
    with ServiceNode(folder, *flags, wiring=PodWiring.UNNUMBERED) as node:
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
