"""An API server that is down, at the start or later: what is known is served, and it is said once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_servers import running_api_server
from tests.support.clients import who_greets
from tests.support.cluster_objects import ApiServerObjects
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

DOWN = "API server cannot be followed"
BACK_SECONDS = 30.0  # back-off included


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ApiServerObjects]:
    with running_api_server("fake", tmp_path) as server:
        yield ApiServerObjects(server)


def test_down_at_the_start_it_is_waited_for(cluster: ApiServerObjects, tmp_path: Path) -> None:
    with ServiceNode(tmp_path, cluster=cluster) as node:
        node.agent.start(until=DOWN)
        with cluster.reachable_inside(node.node):
            wait_until(lambda: node.agent.lines_with("Serving:"), BACK_SECONDS)
            service = node.serve("greet")
            assert len(set(who_greets(node.client, service["greet"], 3))) == 3
        assert len(node.agent.lines_with(DOWN)) <= 2  # once for the start, once for the end just now


def test_down_later_what_is_known_is_served_and_what_changed_meanwhile_follows(
    cluster: ApiServerObjects, tmp_path: Path
) -> None:
    with ServiceNode(tmp_path, cluster=cluster) as node:
        with cluster.reachable_inside(node.node):
            node.agent.start()
            service = node.serve("greet")
        wait_until(lambda: node.agent.lines_with(DOWN))
        assert len(set(who_greets(node.client, service["greet"], 3))) == 3
        node.set_endpoints(service, [node.endpoints[0].address])
        assert len(set(who_greets(node.client, service["greet"], 3))) == 3
        assert node.agent.is_running
        with cluster.reachable_inside(node.node):
            wait_until(lambda: set(who_greets(node.client, service["greet"], 3)) == {"web-1"}, BACK_SECONDS)
            assert len(node.agent.lines_with(DOWN)) == 1


def test_killed_while_it_is_down_the_rules_stand_until_it_is_back(
    cluster: ApiServerObjects, tmp_path: Path
) -> None:
    """Nothing is known then, so nothing may be taken away."""
    with ServiceNode(tmp_path, cluster=cluster) as node:
        with cluster.reachable_inside(node.node):
            node.agent.start()
            service = node.serve("greet", "name")
        rules = node.rules()
        node.agent.kill_everything()
        node.agent.start(until=DOWN)
        assert node.rules() == rules
        with cluster.reachable_inside(node.node):
            wait_until(lambda: node.agent.lines_with("Serving:"), BACK_SECONDS)
            assert len(set(who_greets(node.client, service["greet"], 3))) == 3
            assert node.rules() == rules
