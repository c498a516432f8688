"""Every kind of frontend, in both families, over TCP and UDP, from everywhere: a table of who gets where."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.clients import PATIENCE_SECONDS, REFUSED, SILENT, connect, greeting, outcome, outcomes
from tests.support.exposed_service import (
    EVERYBODY,
    FAMILIES,
    KINDS,
    PLACES,
    PROTOCOLS,
    ExposedService,
    place_of,
    wait_until_met,
    wire_external_addresses,
)
from tests.support.service_node import PORTS, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.core.objects import LoadBalancerIngress

BALANCED_ELSEWHERE = {"IPv4": "198.51.100.1", "IPv6": "2001:db8:51::1"}
TABLE = [
    pytest.param(place, kind, family, protocol, id=f"{place}-{kind}-{family}-{protocol}")
    for place in PLACES
    for kind in KINDS
    for family in FAMILIES
    for protocol in PROTOCOLS
    if kind != "loopback" or place == "node"
]

SERVING = ExposedService("serving", 1)
EMPTY = ExposedService("empty", 2)
HAIRPIN = ExposedService("hairpin", 3)
CHANGING = ExposedService("changing", 4)


@pytest.fixture(scope="module", params=["nft", "python-iptables"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    flags = ("--iptables-backend", request.param)
    folder = tmp_path_factory.mktemp("node")
    with ServiceNode(folder, *flags, ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.network.outside.ip(*(f"addr add {address} dev lo" for address in BALANCED_ELSEWHERE.values()))
        everybody = [node.endpoint_on(pod, "node-1") for pod in node.endpoints]
        for service in (SERVING, CHANGING):
            node.apply_endpoints(service.name, *everybody)
        node.apply_endpoints(HAIRPIN.name, everybody[0])
        for service in (SERVING, EMPTY, HAIRPIN, CHANGING):
            node.objects.apply(service.manifest(ingress=ingress_of(service)))
        node.agent.start()
        wait_until(lambda: sum("default/serving" in rule for rule in node.rules()) >= 8)
        wait_until(lambda: outcome(node.node, "UDP", ("::1", 30001)) in EVERYBODY)
        yield node


def ingress_of(service: ExposedService) -> list[str | LoadBalancerIngress]:
    """Its own addresses, and those of a balancer that sends to NodePorts."""
    own = [service.address("ingress", family) for family in FAMILIES]
    return [*own, *(LoadBalancerIngress(address, "Proxy") for address in BALANCED_ELSEWHERE.values())]


@pytest.mark.parametrize(("place", "kind", "family", "protocol"), TABLE)
def test_everybody_answers(node: ServiceNode, place: str, kind: str, family: str, protocol: str) -> None:
    where = place_of(node, place)
    assert outcomes(where, protocol, SERVING.frontend(node, kind, family, protocol)) == EVERYBODY


@pytest.mark.parametrize(("place", "kind", "family", "protocol"), TABLE)
def test_without_endpoints_everybody_is_refused(
    node: ServiceNode, place: str, kind: str, family: str, protocol: str
) -> None:
    wait_until_met(place_of(node, place), (protocol, EMPTY.frontend(node, kind, family, protocol)), {REFUSED})


@pytest.mark.parametrize(
    ("kind", "family", "protocol"),
    [
        pytest.param(kind, family, protocol, id=f"{kind}-{family}-{protocol}")
        for kind in KINDS
        if kind != "loopback"
        for family in FAMILIES
        for protocol in PROTOCOLS
    ],
)
def test_an_endpoint_reaches_itself(node: ServiceNode, kind: str, family: str, protocol: str) -> None:
    own = node.endpoints[0]
    assert outcomes(own, protocol, HAIRPIN.frontend(node, kind, family, protocol)) == {own.name}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", ["pod", "node"])
def test_what_a_balancer_elsewhere_answers_is_not_captured(
    node: ServiceNode, place: str, family: str
) -> None:
    address = BALANCED_ELSEWHERE[family], PORTS["greet"]
    family_number = socket.AF_INET6 if family == "IPv6" else socket.AF_INET
    with (
        node.network.outside.call(lambda: socket.create_server(address, family=family_number)) as balancer,
        connect(place_of(node, place), address) as client,
    ):
        balancer.settimeout(PATIENCE_SECONDS)
        accepted, _ = balancer.accept()
        accepted.sendall(b"the balancer\n")
        accepted.close()
        assert greeting(client) == "the balancer"


def test_endpoints_go_and_come_back_and_lasting_connections_stay(node: ServiceNode) -> None:
    everywhere = [
        (place_of(node, place), protocol, CHANGING.frontend(node, kind, family, protocol))
        for place in PLACES
        for kind in ("clusterIP", "own")
        for family in FAMILIES
        for protocol in PROTOCOLS
    ]
    lasting = [connect(where, address) for where, protocol, address in everywhere if protocol == "TCP"]
    for connection in lasting:
        assert greeting(connection) in EVERYBODY
    for _ in range(2):
        node.apply_endpoints(CHANGING.name)
        for (
            client
        ) in everywhere:  # one by one: a client gets six ICMP errors at once, then one a second; icmp(7)
            wait_until_met(client[0], client[1:], {REFUSED})
        node.apply_endpoints(CHANGING.name, *(node.endpoint_on(pod) for pod in node.endpoints))
        for client in everywhere:
            wait_until_met(client[0], client[1:], EVERYBODY)
    for connection in lasting:
        with connection:
            connection.sendall(b"still there")
            assert connection.recv(100) == b"still there"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("place", ["pod", "outside"])
def test_a_proxy_port_takes_redirected_traffic_only(
    node: ServiceNode, place: str, family: str, protocol: str
) -> None:
    port_name = "greet" if protocol == "TCP" else "name"
    ports = {
        int(rule.replace(":", " ").split()[-1])
        for rule in node.rules()
        if f'"default/{SERVING.name}:{port_name}"' in rule
    }
    assert ports
    for port in ports:
        own = node.node.address if family == "IPv4" else node.node.address_v6
        assert outcome(place_of(node, place), protocol, (own, port)) == SILENT
