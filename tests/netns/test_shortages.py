"""What a node runs out of: the agent and its workers go on, say so, and recover by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clients import connect, greeting, who_greets
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

SOURCE_PORTS = 10
ON_A_SMALL_DISK = """
mkdir -p "$0" && mount -t tmpfs -o size=64k,nr_inodes=$1 none "$0" && shift && exec "$@"
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path, "--workers", "1") as node:
        yield node


def test_without_a_source_port_to_one_endpoint_another_one_is_used(node: ServiceNode) -> None:
    node.agent.start()
    node.node.sysctl("net.ipv4.ip_local_port_range", f"40000 {40000 + SOURCE_PORTS - 1}")
    one, two = node.endpoint_addresses[:2]
    crowded = node.serve("greet", endpoints=[one])
    service = node.serve("greet", endpoints=[one, two])
    with ExitStack() as stack:
        # connect(2) leaves odd ports to bind(2) as long as there are others, and takes them in the end.
        for _ in range(SOURCE_PORTS):
            greeting(stack.enter_context(connect(node.client, crowded["greet"])))
        assert set(who_greets(node.client, service["greet"], 8)) == {"web-2"}
        assert node.agent.lines_with("Out of source ports", one)
        assert not node.agent.lines_with("left out", one)
    wait_until(lambda: "web-1" in who_greets(node.client, service["greet"], 2))


def test_who_finds_no_source_port_at_all_waits_for_one(node: ServiceNode) -> None:
    node.agent.start()
    node.node.sysctl("net.ipv4.ip_local_port_range", f"40000 {40000 + SOURCE_PORTS - 1}")
    service = node.serve("greet", endpoints=node.endpoint_addresses[:1])
    with ExitStack() as stack:
        held = [stack.enter_context(connect(node.client, service["greet"])) for _ in range(SOURCE_PORTS)]
        for client in held:
            greeting(client)
        waiting = stack.enter_context(connect(node.client, service["greet"]))
        wait_until(lambda: node.agent.lines_with("Out of source ports"))
        held.pop().close()
        assert greeting(waiting) == "web-1"


@pytest.mark.parametrize("limit", [560, 600, 1024])
def test_more_listeners_than_a_small_limit_allows(node: ServiceNode, limit: int) -> None:
    """The agent needs 512 beside them; what does not fit is refused until there is room."""
    first = node.serve("greet")
    del first
