"""UDP clients that keep their port through a time in which nobody saw to conntrack.

What such a client sent meanwhile went past the rules, or to where they led before. conntrack remembers that
for as long as the client goes on.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.clients import ask, udp_client
from tests.support.service_node import ServedService, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.node_network import NODE_NETWORK

SECOND_ADDRESS = str(NODE_NETWORK[11])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path, second_node_address=True) as node:
        yield node


def is_answered(client: socket.socket) -> bool:
    """Whether an answer comes to one more datagram of a client that never changes its port."""
    client.settimeout(0.2)
    with suppress(OSError):
        return ask(client).startswith(b"web-")
    return False


def test_clients_who_came_while_rules_were_gone_are_served(node: ServiceNode) -> None:
    node.agent.start()
    service = node.serve("name")
    node.agent.signal(signal.SIGSTOP)
    try:
        for tool in ("iptables-nft", "iptables-legacy"):
            node.node.run(tool, "-t", "nat", "-F", check=False)
        with udp_client(node.client, service["name"]) as client:
            assert not is_answered(client)
            node.agent.signal(signal.SIGCONT)
            wait_until(lambda: is_answered(client))
    finally:
        node.agent.signal(signal.SIGCONT)


def test_clients_are_served_if_the_agent_dies_between_the_rules_and_their_conntrack_entries(
    node: ServiceNode, tmp_path: Path
) -> None:
    armed = tmp_path / "armed"
    step = "agent.stale_conntrack:StaleConntrack.forget:1:before"
    node.agent.start(program=(sys.executable, "-m", "tests.support.dying_agent", str(armed), step))
    service = ServedService("new", "10.96.4.4", ("name",))
    with udp_client(node.client, service["name"]) as client:
        assert not is_answered(client)
        armed.touch()
        node.set_endpoints(service, node.endpoint_addresses)
        node.apply(service)
        wait_until(lambda: not node.agent.is_running)
        node.agent.start()
        wait_until(lambda: is_answered(client))


def test_clients_are_served_if_the_next_agent_listens_at_another_address(node: ServiceNode) -> None:
    node.agent.start()
    service = node.serve("name")
    with udp_client(node.client, service["name"]) as client:
        assert is_answered(client)
        node.agent.kill_everything()  # else the workers keep the port, and the rules lead to another
        node.agent.flags = (*node.agent.flags, "--bind-address", SECOND_ADDRESS)
        node.agent.start()
        wait_until(lambda: is_answered(client))
