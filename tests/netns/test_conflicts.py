"""Two Services want one frontend, and Services that lead to themselves."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support import objects
from tests.support.clients import REFUSED, Address, connect, greeting, outcomes
from tests.support.exposed_service import (
    FAMILIES,
    LOCAL,
    PROTOCOLS,
    ExposedService,
    wait_until_met,
    wire_external_addresses,
)
from tests.support.service_node import PORTS, ServiceNode
from tests.support.waiting import wait_until

OLD, NEW = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node"), ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.agent.start()
        yield node


def contested(node: ServiceNode, kind: str, service: ExposedService) -> list[tuple[str, Address]]:
    """Where the two meet: a NodePort at two addresses, or an external IP."""
    kinds = ("own", "loopback") if kind == "nodePort" else (kind,)
    return [frontend for each in kinds for frontend in service.frontends(node, each)]


@pytest.mark.parametrize("kind", ["nodePort", "externalIP", "ingress"])
def test_the_older_keeps_it_and_the_other_is_named_and_gets_it_when_it_is_free(
    node: ServiceNode, kind: str
) -> None:
    number = 1 + ["nodePort", "externalIP", "ingress"].index(kind)
    first, second = (
        ExposedService(f"a-new-{kind.lower()}", number),
        ExposedService(f"z-old-{kind.lower()}", number),
    )
    own = {"at": [f"10.96.2.{number}", f"fd00:10:96::2:{number}"]}
    web_1, web_2, _ = node.endpoints
    node.apply_endpoints(first.name, node.endpoint_on(web_1))
    node.apply_endpoints(second.name, node.endpoint_on(web_2))
    # The newer one comes first and has it until the older one comes.
    node.objects.apply(first.manifest(**own, created=NEW))
    where = node.node if kind == "nodePort" else node.client
    for frontend in contested(node, kind, first):
        wait_until_met(where, frontend, {"web-1"})
    node.objects.apply(second.manifest(created=OLD))
    for frontend in contested(node, kind, first):
        wait_until_met(where, frontend, {"web-2"})
    wait_until(lambda: node.agent.lines_with(first.name, f"belongs to default/{second.name}"))
    # Its own addresses are its own still.
    for family in FAMILIES:
        address = (own["at"][FAMILIES.index(family)], PORTS["greet"])
        assert outcomes(node.client, "TCP", address) == {"web-1"}
    node.objects.delete(second.manifest())
    for frontend in contested(node, kind, first):
        wait_until_met(where, frontend, {"web-1"})


def test_a_service_that_is_its_own_endpoint_is_no_loop(node: ServiceNode) -> None:
    service, other = ExposedService("loop", 20), ExposedService("behind", 21)
    node.apply_endpoints("behind", node.endpoint_on(node.endpoints[0]))
    node.objects.apply(other.manifest(), service.manifest())
    loops = [
        # itself, another Service, an ingress IP of another: captured where endpoints are dialled
        (service.address("clusterIP", "IPv4"), "greet:80"),
        (other.address("clusterIP", "IPv4"), "greet:80"),
        (other.address("ingress", "IPv4"), "greet:80"),
        (node.node.address, f"greet:{other.node_port}"),
        # an address that the Node object does not state
        (LOCAL["second", "IPv4"], f"greet:{other.node_port}"),
    ]
    clusterip = service.frontend(node, "clusterIP", "IPv4", "TCP")
    for address, port in loops:
        node.objects.apply(
            objects.endpoint_slice("loop-1", of="loop", ports=[port], endpoints=[address]),
            objects.endpoint_slice(
                "loop-2", of="loop", ports=["greet:8080"], endpoints=[node.endpoints[1].address]
            ),
        )
        wait_until(lambda address=address: node.agent.lines_with("default/loop", address, "a loop"))  # type: ignore[misc]
        wait_until_met(node.client, ("TCP", clusterip), {"web-2"})
        assert outcomes(node.client, "TCP", clusterip, 4) == {"web-2"}
        node.objects.delete(objects.endpoint_slice("loop-2", of="loop"))
        wait_until_met(node.client, ("TCP", clusterip), {REFUSED})
    # An address becomes the node's own while it is an endpoint's, and ceases to be.
    node.objects.apply(
        objects.endpoint_slice(
            "loop-1", of="loop", ports=[f"greet:{other.node_port}"], endpoints=["198.18.0.7"]
        )
    )
    wait_until(lambda: node.agent.lines_with("Mended", "default/loop"))
    node.node.ip("addr add 198.18.0.7/32 dev lo")
    wait_until(lambda: node.agent.lines_with("default/loop", "198.18.0.7", "a loop"))
    node.node.ip("addr del 198.18.0.7/32 dev lo")
    # When the other one goes its address is nobody's, and so an endpoint like others.
    assert outcomes(node.node, "TCP", ("127.0.0.1", other.node_port)) == {"web-1"}


def test_an_endpoint_on_this_node_at_a_proxy_port_is_named_and_the_others_serve(node: ServiceNode) -> None:
    service = ExposedService("guarded", 22)
    node.objects.apply(
        service.manifest(),
        objects.endpoint_slice("one", of="guarded", ports=["greet:12345"], endpoints=[node.node.address]),
        objects.endpoint_slice(
            "two", of="guarded", ports=["greet:8080"], endpoints=[node.endpoints[1].address]
        ),
    )
    clusterip = ("TCP", service.frontend(node, "clusterIP", "IPv4", "TCP"))
    wait_until_met(node.client, clusterip, {"web-2"})
    assert node.agent.lines_with("default/guarded", f"{node.node.address}:12345", "--proxy-port-range")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_port_that_a_process_of_the_node_listens_on_is_the_services(
    node: ServiceNode, protocol: str
) -> None:
    """As with every kind of kube-proxy: NodePorts come before what listens, on each address of the node."""
    service = ExposedService(f"overlapping-{protocol.lower()}", 30 + PROTOCOLS.index(protocol))
    node.apply_endpoints(service.name, node.endpoint_on(node.endpoints[0]))
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    with node.node.call(lambda: socket.socket(socket.AF_INET, kind)) as stranger:
        stranger.bind(("0.0.0.0", service.node_port))
        if protocol == "TCP":
            stranger.listen()
        node.objects.apply(service.manifest())
        for each in ("own", "loopback"):
            address = service.frontend(node, each, "IPv4", protocol)
            wait_until_met(node.node, (protocol, address), {"web-1"})
    with connect(node.node, service.frontend(node, "loopback", "IPv4", "TCP")) as client:
        assert greeting(client) == "web-1"
