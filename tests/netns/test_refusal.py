"""Who is refused hears so, also where bridged packets pass iptables, as Kubernetes' nodes have it.

There (br_netfilter) what `-j REJECT --reject-with tcp-reset` answers leaves by the bridge at once, past NAT:
the client would get a reset from an address that it knows nothing of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import REFUSAL_SECONDS, connect, expect_refusal, sockets, who_greets
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

BRIDGED_PACKETS_PASS_IPTABLES = "net.bridge.bridge-nf-call-iptables"


@pytest.fixture(scope="module", params=["0", "1"], ids=["bridges-alone", "br-netfilter"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    if not Path("/proc/sys", *BRIDGED_PACKETS_PASS_IPTABLES.split(".")).exists() and request.param == "1":
        pytest.skip("the kernel module br_netfilter is not loaded")
    with ServiceNode(tmp_path_factory.mktemp("node")) as node:
        if Path("/proc/sys", *BRIDGED_PACKETS_PASS_IPTABLES.split(".")).exists():
            node.node.sysctl(BRIDGED_PACKETS_PASS_IPTABLES, request.param)
        node.agent.start()
        yield node


def test_everybody_is_refused_at_once(node: ServiceNode) -> None:
    service = node.serve("greet", "name", endpoints=[])
    for where in (node.client, node.node, node.network.outside):
        expect_refusal(where, service["greet"], service["name"])


def test_a_hundred_clients_are_refused_as_fast_as_one(node: ServiceNode) -> None:
    """A port unreachable for each would not do: the kernel sends a client six, then one a second; icmp(7)."""
    service = node.serve("greet", endpoints=[])
    for client in sockets(node.client, 100):
        with client:
            client.settimeout(REFUSAL_SECONDS)
            with pytest.raises(ConnectionRefusedError):
                client.connect(service["greet"])


def test_refusing_and_serving_take_turns(node: ServiceNode) -> None:
    service = node.serve("greet", "name")
    with connect(node.client, service["greet"]) as lasting:
        for _ in range(2):
            node.set_endpoints(service, [])
            wait_until(lambda: is_refused(node, service["greet"]))
            expect_refusal(node.client, service["greet"], service["name"])
            node.set_endpoints(service, node.endpoint_addresses)
            wait_until(lambda: not is_refused(node, service["greet"]))
            assert len(set(who_greets(node.client, service["greet"], 3))) == 3
        lasting.sendall(b"x")
        assert lasting.recv(100)


def is_refused(node: ServiceNode, address: tuple[str, int]) -> bool:
    with sockets(node.client, 1)[0] as client:
        client.settimeout(REFUSAL_SECONDS)
        try:
            client.connect(address)
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            return False  # the worker knows already, and the rules do not yet
        return False
