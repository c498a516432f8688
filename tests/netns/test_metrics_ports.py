"""The ports of health checks and metrics when somebody else has them, and while an agent leaves."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.support.agent import USERSPACE_PROXY
from tests.support.clients import connect, greeting, who_greets
from tests.support.http_answers import get, scrape, total
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

HEALTHZ = 10256


def status(node: ServiceNode) -> int | None:
    found = get(node.node, HEALTHZ, "/healthz")
    return None if found is None else found.status


def test_a_port_that_is_taken_is_named_and_had_once_it_is_free(
    tmp_path: Path,
) -> None:
    with ServiceNode(tmp_path, endpoints=1, is_observed=True) as node:
        somebody = node.node.call(lambda: socket.create_server(("0.0.0.0", HEALTHZ)))
        with somebody:
            node.agent.start()
            wait_until(lambda: node.agent.lines_with("ERROR", "Healthz", f"0.0.0.0:{HEALTHZ}"))
            service = node.serve("greet")
            assert who_greets(node.client, service["greet"]) == ["web-1"]
        wait_until(lambda: get(node.node, HEALTHZ, "/healthz") is not None, 30)
        assert len(node.agent.lines_with("ERROR", "Healthz")) == 1


def test_while_it_drains_no_new_connections_are_to_come(tmp_path: Path) -> None:
    with ServiceNode(tmp_path, endpoints=1, is_observed=True) as node:
        node.agent.start()
        service = node.serve("greet")
        with connect(node.client, service["greet"]) as client:
            assert greeting(client) == "web-1"
            draining = node.node.popen(*USERSPACE_PROXY, "drain")
            try:
                wait_until(lambda: status(node) == 503)
                samples = scrape(node.node)
                assert total(samples, "userspace_proxy_connections_active", service=service.name) == 1
            finally:
                client.close()
                draining.wait(30)


def test_the_next_agent_answers_at_once_and_knows_what_went_on(tmp_path: Path) -> None:
    with ServiceNode(tmp_path, endpoints=1, is_observed=True) as node:
        node.agent.start()
        service = node.serve("greet")
        assert len(who_greets(node.client, service["greet"], 3)) == 3
        assert node.agent.stop() == 0
        assert status(node) is None
        node.agent.start()
        assert status(node) == 200
        assert total(scrape(node.node), "userspace_proxy_connections_total", service=service.name) == 3
