"""A limit is that number, however many workers there are and whatever addresses a client takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import objects
from tests.support.clients import Address, family_of, greeting, sockets
from tests.support.loopback import reset
from tests.support.service_node import PORTS, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace

IPV4, IPV6 = "10.96.0.9", "fd00:10:96::9"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServiceNode]:
    """Of two workers, which has both families."""
    with ServiceNode(tmp_path, ipv6=True) as node:
        node.agent.start()
        yield node


def serve(node: ServiceNode, **annotations: str) -> None:
    """A Service with one port, in both families; returns when its rules stand."""
    node.apply_endpoints("web", *map(node.endpoint_on, node.endpoints))
    node.objects.apply(
        objects.service(
            "web",
            at=[IPV4, IPV6],
            ports=[f"greet:{PORTS['greet']}/TCP"],
            annotations={
                f"userspace-proxy.io/{name.replace('_', '-')}": text for name, text in annotations.items()
            },
        )
    )
    for family in ("IPv4", "IPv6"):
        wait_for_rules(node, family)


def wait_for_rules(node: ServiceNode, family: str) -> None:
    wait_until(lambda: sum('"default/web:greet"' in rule for rule in node.rules(family=family)) == 2, 20)


def how_many_are_served(where: Sequence[tuple[Namespace, str]], address: Address, tries: int) -> int:
    """Of `tries` connections that stay from each of `where` (a pod and a source), taken in turn."""
    served = 0
    with ExitStack() as stack:
        for _ in range(tries):
            for pod, source in where:
                [client] = sockets(pod, 1, source=source, family=family_of(address))
                stack.callback(reset, client)
                try:
                    client.connect(address)
                    served += bool(greeting(client))
                except ConnectionError:
                    pass
    return served


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_client"])
def test_a_limit_holds_for_all_workers_together(node: ServiceNode, limit: str) -> None:
    serve(node, workers="2", **{limit: "4"})
    address = (IPV4, PORTS["greet"])
    wait_until(lambda: how_many_are_served([(node.client, "")], address, 40) == 4, 20)
    assert node.agent.lines_with("Service default/web", "a limit of connections needs one worker")


def test_addresses_of_one_64_are_one_client_and_pods_are_not(node: ServiceNode) -> None:
    serve(node, max_connections_per_client="2")
    address = (IPV6, PORTS["greet"])
    pods = [(node.client, ""), (node.endpoints[0], "")]

    outside = node.network.outside
    sources = [f"2001:db8:0:7::{number}" for number in range(1, 9)]
    outside.ip(*(f"addr add {source}/128 dev eth0 nodad" for source in sources))
    node.node.ip(f"route add 2001:db8:0:7::/64 via {outside.address_v6}")
    assert how_many_are_served([(outside, source) for source in sources], address, 1) == 2

    assert how_many_are_served(pods, address, 3) == 2  # nobody has said yet that these are pods
    node.apply_node(pod_cidrs=["10.244.1.0/24", "fd00:10:244:1::/64"])
    wait_until(lambda: how_many_are_served(pods, address, 3) == 4, 20)
    wait_until(lambda: how_many_are_served([(outside, source) for source in sources], address, 1) == 2, 20)
