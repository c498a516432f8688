"""Endpoints with hostNetwork: processes of this node, and of another, on the nodes' own addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import objects
from tests.support.clients import REFUSED
from tests.support.exposed_service import (
    ExposedService,
    expect,
    meet,
    place_of,
    wait_until_met,
    wire_external_addresses,
)
from tests.support.service_node import ENDPOINT_PORTS, ServiceNode
from tests.support.waiting import wait_until

HERE, ELSEWHERE = "node-1", "node-2"
KINDS = ("clusterIP", "own", "second", "ingress", "externalIP")
PLACES = ("pod", "node", "outside", "endpoint")

LOCAL: dict[str, Any] = {"internal_traffic_policy": "Local", "external_traffic_policy": "Local"}
HOSTS, ALONE, MIXED, STRICT = (
    ExposedService("hosts", 1),
    ExposedService("alone", 2),
    ExposedService("mixed", 3),
    ExposedService("strict", 4),
)
MET = {
    HOSTS: {"node", "outside"},
    ALONE: {"node"},
    MIXED: {"node", "web-1"},
}
"""Whom clients meet, wherever they are; hosts call themselves `node` and `outside`."""


@pytest.fixture(scope="module", params=["nft", "python-iptables"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    flags = ("--iptables-backend", request.param, "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48")
    folder = tmp_path_factory.mktemp("node")
    with ServiceNode(folder, *flags, ipv6=True, second_node_address=True, endpoints=1) as node:
        wire_external_addresses(node)
        node.start_servers(node.node)
        node.start_servers(node.network.outside)
        here, there = node.endpoint_on(node.node, HERE), node.endpoint_on(node.network.outside, ELSEWHERE)
        node.apply_endpoints("hosts", here, there)
        node.apply_endpoints("alone", here)
        node.apply_endpoints("mixed", here, node.endpoint_on(node.endpoints[0], HERE))
        node.apply_endpoints("strict", here, there)
        node.objects.apply(*(service.manifest() for service in MET), STRICT.manifest(**LOCAL))
        node.agent.start()
        for service in (*MET, STRICT):
            wait_until(
                lambda service=service: all(  # type: ignore[misc]
                    {"node"} & names for names in meet(node.node, service.frontends(node, "loopback"), 3)
                )
            )
        yield node


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("service", MET, ids=lambda service: service.name)
def test_they_answer_everybody(node: ServiceNode, service: ExposedService, place: str) -> None:
    for kind in (*KINDS, *(["loopback"] if place == "node" else [])):
        expect(place_of(node, place), service.frontends(node, kind), MET[service])


@pytest.mark.parametrize("place", PLACES)
def test_only_this_node_s_are_local(node: ServiceNode, place: str) -> None:
    expect(place_of(node, place), STRICT.frontends(node, "clusterIP"), {"node"})
    for kind in ("own", "ingress"):
        expected = {"node"} if place == "outside" else {"node", "outside"}
        expect(place_of(node, place), STRICT.frontends(node, kind), expected)


@pytest.mark.parametrize("place", PLACES)
def test_the_port_itself_stays_theirs(node: ServiceNode, place: str) -> None:
    """Who asks the host's port without the Service gets the host's process."""
    direct = [(address, ENDPOINT_PORTS["greet"]) for address in (node.node.address, node.node.address_v6)]
    expect(place_of(node, place), [("TCP", address) for address in direct], {"node"})


def test_one_that_listens_at_the_service_s_own_port_number_serves(node: ServiceNode) -> None:
    """Only an endpoint that is a frontend is a loop; the same number on another address is none."""
    service = ExposedService("same-number", 5)
    number = ENDPOINT_PORTS["greet"]
    node.objects.apply(service.manifest(ports=[f"greet:{number}@30905"]))
    for family, address in (("IPv4", node.node.address), ("IPv6", node.node.address_v6)):
        node.objects.apply(
            objects.endpoint_slice(
                f"same-number-{family.lower()}",
                of="same-number",
                ports=[f"greet:{number}"],
                endpoints=[address],
                address_type=family,
            )
        )
        for place in PLACES:
            where = place_of(node, place)
            for kind in ("clusterIP", "ingress"):
                wait_until_met(where, ("TCP", (service.address(kind, family), number)), {"node"})
            wait_until_met(where, ("TCP", (address, 30905)), {"node"})


def test_one_that_goes_is_refused_and_comes_back(node: ServiceNode) -> None:
    service = ExposedService("coming", 6)
    node.objects.apply(service.manifest())
    for _ in range(2):
        node.apply_endpoints("coming", node.endpoint_on(node.node, HERE))
        for place in ("pod", "node", "outside"):
            for frontend in service.frontends(node, "own"):
                wait_until_met(place_of(node, place), frontend, {"node"})
        node.apply_endpoints("coming")
        for place in ("pod", "node", "outside"):
            for frontend in service.frontends(node, "own"):
                wait_until_met(place_of(node, place), frontend, {REFUSED})
