"""Services, endpoints and hints change, and who gets where changes with them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from tests.support import objects
from tests.support.clients import (
    PATIENCE_SECONDS,
    REFUSED,
    SILENT,
    Address,
    ask,
    connect,
    family_of,
    greeting,
    outcome,
    outcomes,
    sockets,
    udp_client,
    who_answers,
)
from tests.support.exposed_service import (
    EVERYBODY,
    FAMILIES,
    PROTOCOLS,
    ExposedService,
    hinted,
    meet,
    place_of,
    wait_until_met,
    wire_external_addresses,
)
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.pods import start_server

HERE, ELSEWHERE = "node-1", "node-2"
EXTERNAL = {"external_traffic_policy": "Local"}
INTERNAL = {"internal_traffic_policy": "Local"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    """Of zone zone-1."""
    flags = ("--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48")
    with ServiceNode(tmp_path_factory.mktemp("node"), *flags, ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.apply_node(zone="zone-1")
        node.agent.start()
        yield node


def reaches(node: ServiceNode, place: str, service: ExposedService, kind: str, names: set[str]) -> None:
    """Wait until clients meet just these, in both families and over TCP and UDP."""
    where = place_of(node, place)
    wait_until(lambda: meet(where, service.frontends(node, kind)) == [names] * 4)


def test_the_last_local_endpoint_goes_and_comes_back(node: ServiceNode) -> None:
    service = ExposedService("wandering", 20)
    web_1, web_2, _ = node.endpoints
    node.objects.apply(service.manifest(**EXTERNAL))
    node.apply_endpoints("wandering", node.endpoint_on(web_1, HERE), node.endpoint_on(web_2, ELSEWHERE))
    reaches(node, "outside", service, "ingress", {"web-1"})
    with connect(node.network.outside, service.frontend(node, "ingress", "IPv6", "TCP")) as lasting:
        assert greeting(lasting) == "web-1"
        node.apply_endpoints("wandering", node.endpoint_on(web_2, ELSEWHERE))
        reaches(node, "outside", service, "ingress", {SILENT})
        reaches(node, "pod", service, "ingress", {"web-2"})
        node.apply_endpoints("wandering", node.endpoint_on(web_1, HERE), node.endpoint_on(web_2, ELSEWHERE))
        reaches(node, "outside", service, "ingress", {"web-1"})
        lasting.sendall(b"still there")
        assert lasting.recv(100) == b"still there"


@pytest.mark.parametrize("family", FAMILIES)
def test_who_waits_in_silence_is_served_when_it_ends(node: ServiceNode, family: str) -> None:
    """The next SYN of a connection is a new one to the rules, from the node's own processes too."""
    service = ExposedService(f"silent-{family.lower()}", 60 + FAMILIES.index(family))
    web_1, web_2, _ = node.endpoints
    node.objects.apply(service.manifest(**INTERNAL))
    node.apply_endpoints(service.name, node.endpoint_on(web_2, ELSEWHERE))
    address = service.frontend(node, "clusterIP", family, "TCP")
    with ExitStack() as stack:
        silence = f'"default/{service.name}:greet has no local endpoints"'
        wait_until(lambda: any(silence in rule for rule in node.rules(family=family)))
        waiting = [
            stack.enter_context(sockets(place_of(node, place), 1, family=family_of(address))[0])
            for place in ("node", "pod", "outside")
        ]
        for client in waiting:
            client.setblocking(False)
            assert client.connect_ex(address) == errno.EINPROGRESS
        node.apply_endpoints(service.name, node.endpoint_on(web_1, HERE), node.endpoint_on(web_2, ELSEWHERE))
        for client in waiting:
            client.settimeout(PATIENCE_SECONDS)
            assert greeting(client) == "web-1"


def test_a_policy_that_changes_takes_effect(node: ServiceNode) -> None:
    service = ExposedService("fickle", 21)
    nodes = (HERE, ELSEWHERE, ELSEWHERE)
    node.apply_endpoints("fickle", *map(node.endpoint_on, node.endpoints, nodes))
    for policy, outside, internal in (
        (EXTERNAL, {"web-1"}, EVERYBODY),
        (INTERNAL, EVERYBODY, {"web-1"}),
        (INTERNAL | EXTERNAL, {"web-1"}, {"web-1"}),
        ({}, EVERYBODY, EVERYBODY),
    ):
        node.objects.apply(service.manifest(**policy))
        reaches(node, "outside", service, "ingress", outside)
        reaches(node, "pod", service, "clusterIP", internal)
        reaches(node, "node", service, "loopback", EVERYBODY)


@pytest.mark.parametrize(("kind", "family"), [("own", "IPv4"), ("own", "IPv6"), ("ingress", "IPv6")])
def test_steady_udp_clients_follow_a_policy_that_changes(node: ServiceNode, family: str, kind: str) -> None:
    """conntrack knows nothing of policies: what it remembers of each client has to be forgotten."""
    number = 50 + ["own", "ingress"].index(kind) * 2 + FAMILIES.index(family)
    service = ExposedService(f"strict-{number}", number)
    nodes = (HERE, ELSEWHERE, ELSEWHERE)
    node.objects.apply(service.manifest())
    node.apply_endpoints(service.name, *map(node.endpoint_on, node.endpoints, nodes))
    reaches(node, "outside", service, kind, EVERYBODY)
    address = service.frontend(node, kind, family, "UDP")
    with ExitStack() as stack:
        clients = [stack.enter_context(udp_client(node.network.outside, address)) for _ in range(6)]
        assert set(who_answers(clients)) == EVERYBODY
        for client in clients:
            client.settimeout(0.2)  # an answer that is on its way when its entry is deleted finds nobody
        node.objects.apply(service.manifest(**EXTERNAL))
        wait_until(lambda: {answer(client) for client in clients} == {"web-1"})


def test_those_that_end_serve_while_nobody_else_does(node: ServiceNode) -> None:
    service = ExposedService("ending", 22)
    web_1, web_2, web_3 = node.endpoints
    ending = {"ready": False, "serving": True, "terminating": True}
    gone = node.endpoint_on(web_3, HERE, ready=False, serving=False, terminating=True)
    node.objects.apply(service.manifest())
    node.apply_endpoints(
        "ending", node.endpoint_on(web_1, HERE), node.endpoint_on(web_2, HERE, **ending), gone
    )
    reaches(node, "pod", service, "clusterIP", {"web-1"})
    node.apply_endpoints("ending", node.endpoint_on(web_2, HERE, **ending), gone)
    reaches(node, "pod", service, "clusterIP", {"web-2"})
    reaches(node, "outside", service, "own", {"web-2"})
    # The local ones are counted by themselves: one that ends here is better than none.
    node.objects.apply(service.manifest(**EXTERNAL))
    node.apply_endpoints(
        "ending", node.endpoint_on(web_1, ELSEWHERE), node.endpoint_on(web_2, HERE, **ending), gone
    )
    reaches(node, "outside", service, "ingress", {"web-2"})
    reaches(node, "pod", service, "ingress", {"web-1"})


def test_hints_choose_by_node_and_by_zone(node: ServiceNode) -> None:
    service = ExposedService("hinted", 23)
    pods = [
        node.endpoint_on(pod, name)
        for pod, name in zip(node.endpoints, (HERE, ELSEWHERE, ELSEWHERE), strict=True)
    ]
    node.objects.apply(service.manifest())
    here = [hinted(pods[0], objects.endpoint(for_zones=["zone-1"], for_nodes=[HERE]))]
    near = [hinted(pods[1], objects.endpoint(for_zones=["zone-1"], for_nodes=[ELSEWHERE]))]
    far = [hinted(pods[2], objects.endpoint(for_zones=["zone-2"], for_nodes=[ELSEWHERE]))]
    node.apply_endpoints("hinted", *here, *near, *far)
    reaches(node, "pod", service, "clusterIP", {"web-1"})
    by_zone = [hinted(pods[0], objects.endpoint(for_zones=["zone-1"])), *near, *far]
    node.apply_endpoints("hinted", *by_zone)
    reaches(node, "outside", service, "own", {"web-1", "web-2"})
    node.apply_node(zone="zone-2")
    reaches(node, "pod", service, "clusterIP", {"web-3"})
    node.apply_node(zone="zone-1")
    node.apply_endpoints("hinted", *by_zone[:2], pods[2])
    reaches(node, "pod", service, "clusterIP", EVERYBODY)  # one without a hint: none counts
    node.apply_endpoints("hinted", *here, *near, *far)
    node.objects.apply(service.manifest(external_traffic_policy="Local"))
    reaches(node, "outside", service, "own", {"web-1"})


def test_slices_add_up_and_name_the_ports_each_by_itself(node: ServiceNode) -> None:
    """A port's name is what counts, so its number may differ from slice to slice."""
    service = ExposedService("sliced", 24)
    web_1, web_2, _ = node.endpoints
    node.objects.apply(service.manifest())
    node.apply_endpoints("sliced", node.endpoint_on(web_1), node.endpoint_on(web_2))
    node.apply_endpoints("sliced", node.endpoint_on(web_2), suffix="-again")
    other = node.network.add_pod("other")
    start_server(other, "--bind=0.0.0.0", "--bind=::", "--greet=9001", "--udp=9002")
    for family, address in (("IPv4", other.address), ("IPv6", other.address_v6)):
        node.objects.apply(
            objects.endpoint_slice(
                f"sliced-other-{family.lower()}",
                of="sliced",
                ports=["greet:9001", "name:9002/UDP"],
                endpoints=[address],
                address_type=family,
            )
        )
    reaches(node, "pod", service, "clusterIP", {"web-1", "web-2", "other"})
    reaches(node, "node", service, "own", {"web-1", "web-2", "other"})


LABELS = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless")


@pytest.mark.parametrize("label", LABELS)
def test_a_label_hands_a_live_service_to_another_proxy_and_back(node: ServiceNode, label: str) -> None:
    service = ExposedService("labelled", 30 + LABELS.index(label))
    node.apply_endpoints("labelled", *map(node.endpoint_on, node.endpoints))
    node.objects.apply(service.manifest())
    reaches(node, "pod", service, "clusterIP", EVERYBODY)
    node.objects.apply(service.manifest(labels={label: "another" if "name" in label else ""}))
    wait_until(lambda: not mentions(node, "labelled"))
    assert not any(EVERYBODY & names for names in meet(node.node, service.frontends(node, "own")))
    node.objects.apply(service.manifest())
    for kind in ("clusterIP", "own", "ingress"):
        reaches(node, "pod", service, kind, EVERYBODY)
    node.objects.delete(service.manifest())
    wait_until(lambda: not mentions(node, "labelled"))


def mentions(node: ServiceNode, name: str) -> list[str]:
    """The rules that name a Service, in both families."""
    return [rule for family in FAMILIES for rule in node.rules(family=family) if f"default/{name}:" in rule]


def nobody_answers(node: ServiceNode, service: ExposedService, kind: str) -> bool:
    return not any(EVERYBODY & names for names in meet(node.node, service.frontends(node, kind), 1))


def test_a_node_port_moves_and_lasting_connections_stay(node: ServiceNode) -> None:
    before, after = ExposedService("moving", 34), ExposedService("moving", 35)
    node.apply_endpoints("moving", *map(node.endpoint_on, node.endpoints))
    node.objects.apply(before.manifest())
    reaches(node, "outside", before, "own", EVERYBODY)
    with connect(node.network.outside, before.frontend(node, "own", "IPv6", "TCP")) as lasting:
        assert greeting(lasting) in EVERYBODY
        node.objects.apply(after.manifest())
        reaches(node, "outside", after, "own", EVERYBODY)
        wait_until(lambda: nobody_answers(node, before, "loopback"))
        lasting.sendall(b"still there")
        assert lasting.recv(100) == b"still there"


def test_a_family_comes_and_goes(node: ServiceNode) -> None:
    service = ExposedService("single", 36)
    node.apply_endpoints("single", *map(node.endpoint_on, node.endpoints))
    both = [service.address("clusterIP", family) for family in FAMILIES]
    for at in (both[:1], both, both[1:]):
        node.objects.apply(service.manifest(at=at))
        for family, address in zip(FAMILIES, both, strict=True):
            for kind in ("loopback", "own"):
                clients = [
                    (protocol, service.frontend(node, kind, family, protocol)) for protocol in PROTOCOLS
                ]
                wait_until(partial(met_by_all_or_none, node, clients, address in at))


def met_by_all_or_none(node: ServiceNode, clients: list[tuple[str, Address]], served: bool) -> bool:
    names = set.union(*meet(node.node, clients))
    return names == EVERYBODY if served else not names & EVERYBODY


def test_tcp_and_udp_on_one_number_are_two(node: ServiceNode) -> None:
    service = ExposedService("twin", 37)
    web_1, web_2, _ = node.endpoints
    node.objects.apply(service.manifest(ports=["greet:53@30053", "name:53@30053/UDP"]))
    node.apply_endpoints("twin", node.endpoint_on(web_1), port_names=["greet"])
    node.apply_endpoints("twin", node.endpoint_on(web_2), port_names=["name"], suffix="-udp")
    cluster_ips = [(service.address("clusterIP", family), 53) for family in FAMILIES]
    for address in (*cluster_ips, ("127.0.0.1", 30053), ("::1", 30053)):
        wait_until_met(node.node, ("TCP", address), {"web-1"})
        wait_until_met(node.node, ("UDP", address), {"web-2"})
    node.apply_endpoints("twin", port_names=["name"], suffix="-udp")
    wait_until(lambda: outcome(node.client, "UDP", cluster_ips[1]) == REFUSED)
    assert outcomes(node.client, "TCP", cluster_ips[1]) == {"web-1"}


def answer(client: socket.socket) -> str:
    """Who answers a datagram, "" for nobody."""
    try:
        return ask(client).decode().strip()
    except OSError:
        return ""
