"""The node's interfaces change while the agent runs, and its rules come to fit."""

from __future__ import annotations

from pathlib import Path

from tests.support.clients import expect_everybody
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.node_network import PodWiring

EVERYBODY = ("web-1", "web-2", "web-3")


def test_the_first_interface_without_an_address(tmp_path: Path) -> None:
    with ServiceNode(tmp_path) as node:
        node.agent.start()
        service = node.serve("greet", "name")
        expect_everybody(node.client, service["greet"], service["name"], EVERYBODY)
        node.network.wiring = PodWiring.UNNUMBERED
        pod = node.network.add_pod("unnumbered")
        wait_until(
            lambda: (
                not [rule for rule in node.rules_of(service) if "CONTAINER" in rule and "DNAT" not in rule]
            )
        )
        for where in (pod, node.client, node.node):
            expect_everybody(where, service["greet"], service["name"], EVERYBODY)
