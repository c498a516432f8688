"""TCP clients whose first SYN met no rule: the kernel leads its repetitions past the rule that comes later.

Such a client is served by a repetition all the same, and so is who comes next from the same port.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support import objects
from tests.support.clients import Address, family_of, greeting
from tests.support.service_node import PORTS, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.node_network import SERVICE_NETWORK, SERVICE_NETWORK_V6

SOURCE_PORT = 45678
REPEATED_SECONDS = 40.0
"""A SYN is repeated after 1, 3, 7, 15 and 31 s; which of these finds the rules is the machine's to say."""
ADDRESSES = {
    "IPv4": (str(SERVICE_NETWORK[77]), PORTS["greet"]),
    "IPv6": (str(SERVICE_NETWORK_V6[77]), PORTS["greet"]),
}
TOOLS = {"IPv4": "iptables", "IPv6": "ip6tables"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path, ipv6=True, endpoints=1) as node:
        node.agent.start()
        yield node


def serve(node: ServiceNode) -> None:
    """Write a Service of both families."""
    node.apply_endpoints("dual", node.endpoint_on(node.endpoints[0]), port_names=["greet"])
    addresses = [address for address, _ in ADDRESSES.values()]
    node.objects.apply(objects.service("dual", at=addresses, ports=[f"greet:{PORTS['greet']}"]))


def is_served(node: ServiceNode) -> bool:
    return all(any('"default/dual:greet"' in rule for rule in node.rules(family=f)) for f in ADDRESSES)


def flush(node: ServiceNode) -> None:
    for tool in TOOLS.values():
        for variant in ("nft", "legacy"):
            node.node.run(f"{tool}-{variant}", "-t", "nat", "-F", check=False)


@contextmanager
def no_service_yet(node: ServiceNode) -> Iterator[None]:
    yield
    serve(node)


@contextmanager
def rules_flushed(node: ServiceNode) -> Iterator[None]:
    serve(node)
    wait_until(lambda: is_served(node), REPEATED_SECONDS)
    node.agent.signal(signal.SIGSTOP)  # else the repair might be there first
    try:
        flush(node)
        yield
    finally:
        node.agent.signal(signal.SIGCONT)


@contextmanager
def rules_flushed_while_no_agent_runs(node: ServiceNode) -> Iterator[None]:
    serve(node)
    wait_until(lambda: is_served(node), REPEATED_SECONDS)
    assert node.agent.stop() == 0
    flush(node)
    yield
    node.agent.start()


def client_from(node: ServiceNode, address: Address) -> socket.socket:
    """A client that uses the one port, and does not wait to be connected."""

    def connect() -> socket.socket:
        client = socket.socket(family_of(address), socket.SOCK_STREAM)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(("", SOURCE_PORT))
        client.setblocking(False)
        client.connect_ex(address)
        return client

    return node.client.call(connect)


def has_passed(node: ServiceNode, family: str) -> bool:
    """Whether a SYN of the client has passed the rules."""
    entries = node.node.run("conntrack", "-L", "-f", family.lower(), "-p", "tcp").stdout
    return any(f"sport={SOURCE_PORT} " in line and "[UNREPLIED]" in line for line in entries.splitlines())


@pytest.mark.parametrize("situation", [no_service_yet, rules_flushed, rules_flushed_while_no_agent_runs])
@pytest.mark.parametrize("leaves", [False, True], ids=["who came is served", "who comes next is served"])
def test_a_syn_that_met_no_rule_is_not_followed(
    node: ServiceNode, situation: Callable[[ServiceNode], AbstractContextManager[None]], leaves: bool
) -> None:
    clients = {}
    with situation(node):
        for family, address in ADDRESSES.items():
            clients[family] = client_from(node, address)
            wait_until(lambda family=family: has_passed(node, family))  # type: ignore[misc]
            if leaves:
                clients[family].close()
    wait_until(lambda: is_served(node), REPEATED_SECONDS)
    for family, address in ADDRESSES.items():
        client = clients[family]
        if leaves:
            wait_until(lambda family=family: not has_passed(node, family))  # type: ignore[misc]
            client = client_from(node, address)
        with client:
            client.settimeout(REPEATED_SECONDS)
            assert greeting(client) == "web-1"
