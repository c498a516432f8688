"""Node networks as they are, in both families: unnumbered veths, one address to bind to, no default route."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.support.clients import REFUSED
from tests.support.exposed_service import (
    EVERYBODY,
    FAMILIES,
    ExposedService,
    expect,
    place_of,
    wait_until_met,
    wire_external_addresses,
)
from tests.support.service_node import ServiceNode
from userspace_proxy.demo.node_network import PodWiring

SERVING, EMPTY, LOCAL = ExposedService("serving", 1), ExposedService("empty", 2), ExposedService("local", 3)
POD_CIDRS = "10.244.0.0/16,fd00:10:244::/48"


def nothing(node: ServiceNode) -> None:
    """Leave the node as it is."""


def without_default_routes(node: ServiceNode) -> None:
    """The node's own traffic needs some route to where a Service is, as with kube-proxy."""
    node.node.ip(
        f"route del default via {node.network.outside.address}",
        f"route del default via {node.network.outside.address_v6}",
        *(f"route add {net} dev lo" for net in ("10.96.0.0/16", "203.0.113.0/24")),
        *(f"route add {net} dev lo" for net in ("fd00:10:96::/112", "2001:db8:113::/64")),
    )


@dataclass(frozen=True)
class Network:
    """How a node is wired and told to serve."""

    flags: Sequence[str] = ()
    wiring: PodWiring = PodWiring.BRIDGE
    arrange: Callable[[ServiceNode], None] = nothing


NETWORKS = {
    "unnumbered": Network(wiring=PodWiring.UNNUMBERED),
    "unnumbered-python-iptables": Network(
        ("--iptables-backend", "python-iptables"), wiring=PodWiring.UNNUMBERED
    ),
    "bound-to-IPv4": Network(("--bind-address", "192.0.2.11")),
    "bound-to-IPv6": Network(("--bind-address", "2001:db8::a")),
    "bound-and-unnumbered": Network(("--bind-address", "2001:db8::a"), wiring=PodWiring.UNNUMBERED),
    "no-default-routes": Network(arrange=without_default_routes),
}


@pytest.fixture(scope="module", params=NETWORKS)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    network = NETWORKS[request.param]
    with ServiceNode(
        tmp_path_factory.mktemp("node"),
        *network.flags,
        *("--cluster-cidr", POD_CIDRS),
        wiring=network.wiring,
        ipv6=True,
        second_node_address=True,
    ) as node:
        network.arrange(node)
        wire_external_addresses(node)
        put_services(node)
        yield node


def put_services(node: ServiceNode) -> None:
    node.objects.apply(SERVING.manifest(), EMPTY.manifest(), LOCAL.manifest(external_traffic_policy="Local"))
    node.apply_endpoints("serving", *map(node.endpoint_on, node.endpoints))
    node.apply_endpoints("local", *map(node.endpoint_on, node.endpoints, ("node-1", "node-2", "node-2")))
    node.agent.start()
    for family in FAMILIES:
        wait_until_met(node.client, ("UDP", SERVING.frontend(node, "clusterIP", family, "UDP")), EVERYBODY)


@pytest.mark.parametrize("kind", ["clusterIP", "ingress", "externalIP", "own", "second", "loopback"])
@pytest.mark.parametrize("place", ["pod", "node", "outside", "endpoint"])
def test_everybody_is_served_and_told_apart(node: ServiceNode, place: str, kind: str) -> None:
    where = place_of(node, place)
    if kind == "loopback" and place != "node":
        return
    expect(where, SERVING.frontends(node, kind), EVERYBODY)
    locally = place == "outside" and kind != "clusterIP"
    expect(where, LOCAL.frontends(node, kind), {"web-1"} if locally else EVERYBODY)


@pytest.mark.parametrize("place", ["pod", "node", "outside"])
def test_without_endpoints_everybody_is_refused(node: ServiceNode, place: str) -> None:
    kinds = ("clusterIP", "own") if place != "node" else ("clusterIP", "loopback")
    for kind in kinds:
        expect(place_of(node, place), EMPTY.frontends(node, kind), {REFUSED})
