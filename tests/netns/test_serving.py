"""The main job, by every way of writing rules: a clusterIP answers, in turn, to pods and to the node."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.clients import (
    PATIENCE_SECONDS,
    ask,
    connect,
    expect_refusal,
    sockets,
    udp_clients,
    who_answers,
    who_greets,
)
from tests.support.service_node import PROXY_PORTS, ServiceNode
from tests.support.setups import WITH_API_SERVERS, WITH_MANIFESTS, serving_node
from userspace_proxy.demo.namespaces import Namespace


@pytest.fixture(scope="module", params=[*WITH_MANIFESTS, *WITH_API_SERVERS])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with serving_node(request.param, tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture(params=["pod", "node"])
def where(request: pytest.FixtureRequest, node: ServiceNode) -> Namespace:
    """Where clients are."""
    return node.client if request.param == "pod" else node.node


def test_connections_go_to_the_endpoints_strictly_in_turn(node: ServiceNode, where: Namespace) -> None:
    names = who_greets(where, node.serve("greet")["greet"], 90)
    assert sorted(names[:3]) == ["web-1", "web-2", "web-3"]
    assert names == names[:3] * 30


def test_udp_flows_spread_evenly_and_stay(node: ServiceNode, where: Namespace) -> None:
    service = node.serve("name")
    with ExitStack() as stack:
        clients = [stack.enter_context(client) for client in udp_clients(where, service["name"], 90)]
        names = who_answers(clients)
        assert Counter(names) == {"web-1": 30, "web-2": 30, "web-3": 30}
        assert who_answers(reversed(clients)) == names[::-1]


def test_without_endpoints_clients_are_refused_at_once(node: ServiceNode, where: Namespace) -> None:
    service = node.serve("greet", "name", endpoints=[])
    expect_refusal(where, service["greet"], service["name"])
    node.set_endpoints(service, node.endpoint_addresses)
    node.wait_for_rules(service)
    assert len(set(who_greets(where, service["greet"], 3))) == 3
    with ExitStack() as stack:
        clients = [stack.enter_context(client) for client in udp_clients(where, service["name"], 3)]
        assert len(set(who_answers(clients))) == 3
    node.set_endpoints(service, [])
    node.wait_for_rules(service, is_refused=True)
    expect_refusal(where, service["greet"], service["name"])


def test_a_proxy_port_takes_redirected_traffic_only(node: ServiceNode) -> None:
    service = node.serve("greet", "name")
    for where in (node.client, node.network.outside):
        with sockets(where, 1)[0] as client:
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.connect((node.node.address, node.proxy_port(service, "greet")))
        [client] = udp_clients(where, (node.node.address, node.proxy_port(service, "name")), 1)
        with client:
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                ask(client)


def test_ports_that_somebody_else_listens_on_stay_theirs(node: ServiceNode) -> None:
    """The guard speaks for the proxy ports that are ours, not for what the node serves elsewhere."""
    address = (node.node.address, PROXY_PORTS.stop)
    with node.node.call(lambda: socket.create_server(address)) as server, connect(node.client, address):
        server.settimeout(PATIENCE_SECONDS)
        server.accept()[0].close()
