"""loadBalancerSourceRanges: whom a load balancer's address lets in, and what the others meet."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.clients import REFUSED, SILENT, outcome, udp_client, who_answers
from tests.support.exposed_service import (
    EVERYBODY,
    FAMILIES,
    ExposedService,
    expect,
    meet,
    place_of,
    wait_until_met,
    wire_external_addresses,
)
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

OUTSIDE = ["192.0.2.1/32", "2001:db8::1/128"]
NODE = ["192.0.2.10/32", "2001:db8::a/128", "2001:db8::11/128"]
PODS = ["10.244.1.0/24", "fd00:10:244:1::/64"]
ALL = {"pod", "node", "outside"}

RANGES: dict[str, tuple[object, set[str]]] = {
    "none-given": (None, ALL),
    "an-empty-list": ([], ALL),
    "one-host": (OUTSIDE, {"outside"}),
    "pods": (PODS, {"pod"}),
    "pods-and-a-host": ([*PODS, *OUTSIDE], {"pod", "outside"}),
    "the-node": (NODE, {"node"}),
    "everybody": (["0.0.0.0/0", "::/0"], ALL),
    "with-spaces": ([f" {text} " for text in OUTSIDE], {"outside"}),
    "nonsense": (["nonsense"], set()),
    "nonsense-and-a-host": (["10.0.0.0/33", *OUTSIDE], {"outside"}),
    "no-list": ("192.0.2.1/32", set()),
}
"""What the field says, and who is let in."""

SERVICES = {name: ExposedService(name, 1 + index) for index, name in enumerate(RANGES)}
CHANGING, LOCAL, EMPTY = (
    ExposedService("changing", 50),
    ExposedService("local", 51),
    ExposedService("empty", 52),
)


@pytest.fixture(scope="module", params=["nft", "python-iptables"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    flags = ("--iptables-backend", request.param, "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48")
    folder = tmp_path_factory.mktemp("node")
    with ServiceNode(folder, *flags, ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        for name, service in SERVICES.items():
            node.objects.apply(service.manifest(source_ranges=RANGES[name][0]))
            node.apply_endpoints(name, *map(node.endpoint_on, node.endpoints))
        node.apply_endpoints("local", node.endpoint_on(node.endpoints[0], "node-1"))
        node.objects.apply(LOCAL.manifest(source_ranges=PODS, external_traffic_policy="Local"))
        node.objects.apply(EMPTY.manifest(source_ranges=OUTSIDE))
        node.agent.start()
        last = SERVICES["the-node"]
        wait_until(lambda: meet(node.node, last.frontends(node, "clusterIP")) == [EVERYBODY] * 4)
        yield node


@pytest.mark.parametrize("place", sorted(ALL))
@pytest.mark.parametrize("name", RANGES)
def test_who_is_let_in(node: ServiceNode, name: str, place: str) -> None:
    where, service = place_of(node, place), SERVICES[name]
    expected = EVERYBODY if place in RANGES[name][1] else {SILENT}
    expect(where, service.frontends(node, "ingress"), expected)
    if name not in ("one-host", "nonsense"):
        return
    for kind in ("clusterIP", "externalIP", "own"):  # open to all
        expect(where, service.frontends(node, kind), EVERYBODY)


@pytest.mark.parametrize("name", ["the-node", "one-host"])
def test_the_node_is_let_in_by_the_load_balancer_s_address_too(node: ServiceNode, name: str) -> None:
    """Some load balancers give their address to the node, which sends from there then."""
    service = SERVICES[name]
    expected = EVERYBODY if "node" in RANGES[name][1] else {SILENT}
    ingress = [service.address("ingress", family) for family in FAMILIES]
    node.node.ip(*(f"addr add {address} dev lo" for address in ingress))
    try:
        expect(node.node, service.frontends(node, "ingress"), expected)
        expect(node.client, service.frontends(node, "ingress"), {SILENT})
    finally:
        node.node.ip(*(f"addr del {address} dev lo" for address in ingress))


def test_what_is_wrong_is_named(node: ServiceNode) -> None:
    assert node.agent.lines_with("default/nonsense-and-a-host", "10.0.0.0/33")
    assert node.agent.lines_with("default/no-list", "nobody is let in")


def test_ranges_of_one_family_let_in_nobody_of_the_other(node: ServiceNode) -> None:
    service = ExposedService("one-family", 53)
    node.objects.apply(service.manifest(source_ranges=["0.0.0.0/0"]))
    node.apply_endpoints("one-family", *map(node.endpoint_on, node.endpoints))
    in_turn = [EVERYBODY, EVERYBODY, {SILENT}, {SILENT}]
    wait_until(lambda: meet(node.network.outside, service.frontends(node, "ingress")) == in_turn)


def test_ranges_and_a_local_policy_both_count(node: ServiceNode) -> None:
    for place, expected in (("pod", {"web-1"}), ("outside", {SILENT}), ("node", {SILENT})):
        expect(place_of(node, place), LOCAL.frontends(node, "ingress"), expected)
    expect(node.network.outside, LOCAL.frontends(node, "own"), {"web-1"})


def test_without_endpoints_those_are_refused_who_would_be_let_in(node: ServiceNode) -> None:
    for protocol, address in EMPTY.frontends(node, "ingress"):
        wait_until_met(node.network.outside, (protocol, address), {REFUSED})
        assert outcome(node.client, protocol, address) == SILENT


@pytest.mark.parametrize("family", FAMILIES)
def test_ranges_that_change_take_effect_for_lasting_udp_clients_too(node: ServiceNode, family: str) -> None:
    node.objects.apply(CHANGING.manifest())
    node.apply_endpoints("changing", *map(node.endpoint_on, node.endpoints))
    outside, frontends = node.network.outside, CHANGING.frontends(node, "ingress")
    wait_until(lambda: meet(outside, frontends) == [EVERYBODY] * 4)
    with udp_client(outside, CHANGING.frontend(node, "ingress", family, "UDP")) as lasting:
        lasting.settimeout(0.2)
        [home] = who_answers([lasting])
        node.objects.apply(CHANGING.manifest(source_ranges=PODS))
        wait_until(lambda: meet(outside, frontends, 1) == [{SILENT}] * 4)
        wait_until(lambda: not answers(lasting))
        node.objects.apply(CHANGING.manifest(source_ranges=OUTSIDE))
        wait_until(lambda: meet(outside, frontends) == [EVERYBODY] * 4)
        wait_until(lambda: answers(lasting))
        assert home in EVERYBODY


def answers(client: socket.socket) -> bool:
    try:
        return bool(who_answers([client]))
    except TimeoutError:
        return False
