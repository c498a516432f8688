"""What a Service's fields say beside ports and policies, and that others than ours cost nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import objects
from tests.support.clients import REFUSED, who_greets
from tests.support.cluster_objects import manifest_of
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
from tests.support.service_node import ENDPOINT_PORTS, PORTS, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.core.objects import LoadBalancerIngress, Service

HERE = "node-1"
PLACES = ("pod", "node", "outside")
ENDING = {"ready": False, "serving": True, "terminating": True}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node"), ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.agent.start()
        yield node


def apply(node: ServiceNode, service: ExposedService, **more: Any) -> None:
    node.apply_endpoints(service.name, *map(node.endpoint_on, node.endpoints))
    node.objects.apply(service.manifest(**more))


def apply_with(node: ServiceNode, item: Service, **spec: Any) -> None:
    """Write a Service with fields of its spec that no proxy reads."""
    manifest = manifest_of(item)
    manifest["spec"].update(spec)
    node.manifests.write(node.manifests.file_of(item).name, json.dumps(manifest))


def reaches(node: ServiceNode, place: str, service: ExposedService, kind: str, names: set[str]) -> None:
    """Wait until clients meet just these, in both families and over TCP and UDP."""
    where = place_of(node, place)
    wait_until(lambda: meet(where, service.frontends(node, kind)) == [names] * 4)


def nobody_answers(node: ServiceNode, service: ExposedService, kind: str) -> bool:
    return not any(EVERYBODY & names for names in meet(node.node, service.frontends(node, kind), 1))


def mentions(node: ServiceNode, text: str) -> list[str]:
    """The rules of both families that have the text."""
    return [rule for family in FAMILIES for rule in node.rules(family=family) if text in rule]


def test_sctp_ports_are_named_once_and_the_others_serve(node: ServiceNode) -> None:
    service = ExposedService("telephony", 1)
    sctp = f"signal:3868@{service.node_port}/SCTP"
    tcp_and_udp = [f"greet:80@{service.node_port}", f"name:83@{service.node_port}/UDP"]
    apply(node, service, ports=[sctp, *tcp_and_udp])
    for place in PLACES:
        for kind in ("clusterIP", "own", "ingress"):
            reaches(node, place, service, kind, EVERYBODY)
    # Other fields change, and its place in the list, and the port that is left alone is no news.
    node.objects.apply(service.manifest(ports=[*tcp_and_udp, sctp], external_ips=()))
    wait_until(lambda: nobody_answers(node, service, "externalIP"))
    reaches(node, "pod", service, "clusterIP", EVERYBODY)
    assert len(node.agent.lines_with("default/telephony", "is not carried")) == 1
    assert not mentions(node, "sctp")
    assert not mentions(node, "default/telephony:signal")


def test_a_service_of_sctp_alone_disturbs_nobody(node: ServiceNode) -> None:
    apply(node, ExposedService("signalling", 2), ports=["signal:3868@30868/SCTP"])
    beside = ExposedService("beside", 3)
    apply(node, beside)
    reaches(node, "pod", beside, "own", EVERYBODY)
    assert len(node.agent.lines_with("default/signalling", "is not carried")) == 1
    assert not mentions(node, "default/signalling")


def test_with_publish_not_ready_addresses_unready_and_terminating_endpoints_serve(node: ServiceNode) -> None:
    """The EndpointSlice controller calls them ready then, and says the rest as it is."""
    service = ExposedService("published", 4)
    apply_with(node, service.manifest(), publishNotReadyAddresses=True)
    web_1, web_2, web_3 = node.endpoints
    node.apply_endpoints(
        "published",
        node.endpoint_on(web_1, HERE, ready=True, serving=False, terminating=False),
        node.endpoint_on(web_2, HERE, ready=True, serving=True, terminating=True),
        node.endpoint_on(web_3, HERE, ready=True, serving=False, terminating=True),
    )
    for place in PLACES:
        for kind in ("clusterIP", "own", "ingress"):
            reaches(node, place, service, kind, EVERYBODY)


def test_without_it_unready_endpoints_serve_nobody(node: ServiceNode) -> None:
    service = ExposedService("unpublished", 5)
    apply_with(node, service.manifest(), publishNotReadyAddresses=False)
    web_1, web_2, _ = node.endpoints
    unready = [
        node.endpoint_on(web_1, HERE, ready=False, serving=False, terminating=False),
        node.endpoint_on(web_2, HERE, ready=False, serving=False, terminating=True),
    ]
    node.apply_endpoints("unpublished", *unready)
    for place in PLACES:
        for kind in ("clusterIP", "own", "ingress"):
            expect(place_of(node, place), service.frontends(node, kind), {REFUSED})


def test_a_load_balancer_may_do_without_node_ports_and_get_them_later(node: ServiceNode) -> None:
    service = ExposedService("portless", 6)
    node.apply_endpoints("portless", *(node.endpoint_on(pod, HERE) for pod in node.endpoints))
    without = service.manifest(ports=["greet:80", "name:83/UDP"])
    apply_with(node, without, allocateLoadBalancerNodePorts=False)
    for place in PLACES:
        for kind in ("clusterIP", "ingress", "externalIP"):
            reaches(node, place, service, kind, EVERYBODY)
    assert nobody_answers(node, service, "own")
    assert nobody_answers(node, service, "loopback")
    apply_with(node, service.manifest(), allocateLoadBalancerNodePorts=True)
    reaches(node, "outside", service, "own", EVERYBODY)
    apply_with(node, without, allocateLoadBalancerNodePorts=False)
    wait_until(lambda: nobody_answers(node, service, "own"))
    reaches(node, "outside", service, "ingress", EVERYBODY)


def test_a_load_balancer_known_by_name_alone_has_its_node_ports(node: ServiceNode) -> None:
    """An ingress without an address cannot be captured, and does not cost the ones that have one."""
    service = ExposedService("named", 10)
    manifest = manifest_of(service.manifest(ingress=[LoadBalancerIngress(), *addresses(service)]))
    manifest["status"]["loadBalancer"]["ingress"][0] = {"hostname": "balancer.example"}
    node.apply_endpoints("named", *map(node.endpoint_on, node.endpoints))
    node.manifests.write(node.manifests.file_of(service.manifest()).name, json.dumps(manifest))
    for kind in ("ingress", "own", "clusterIP"):
        reaches(node, "outside", service, kind, EVERYBODY)


def addresses(service: ExposedService) -> list[str]:
    return [service.address("ingress", family) for family in FAMILIES]


@pytest.mark.parametrize("kind", ["ingress", "externalIP"])
def test_a_load_balancer_that_moves_is_followed(node: ServiceNode, kind: str) -> None:
    before = ExposedService("relocated", 11)
    after = ExposedService("relocated", 12)
    field = {"ingress": "ingress", "externalIP": "external_ips"}[kind]
    apply(node, before)
    reaches(node, "outside", before, kind, EVERYBODY)
    node.objects.apply(before.manifest(**{field: [after.address(kind, family) for family in FAMILIES]}))
    reaches(node, "outside", after, kind, EVERYBODY)
    reaches(node, "outside", before, "own", EVERYBODY)
    wait_until(lambda: nobody_answers(node, before, kind))
    node.objects.delete(before.manifest())
    wait_until(lambda: not mentions(node, "default/relocated:"))


@pytest.mark.parametrize("cluster_ip", ["None", ""])
def test_a_headless_service_has_no_rules(node: ServiceNode, cluster_ip: str) -> None:
    """Nor its NodePorts, should somebody have left them there; and it is nobody's mistake."""
    service = ExposedService("headless", 13)
    apply(node, service)
    reaches(node, "pod", service, "own", EVERYBODY)
    node.objects.apply(service.manifest(at=cluster_ip))
    wait_until(lambda: not mentions(node, "default/headless:"))
    assert nobody_answers(node, service, "own")
    node.objects.apply(service.manifest())
    reaches(node, "pod", service, "own", EVERYBODY)
    assert not node.agent.lines_with("default/headless", "Skipped")


def test_a_port_without_a_name_is_served_by_a_slice_s_port_without_one(node: ServiceNode) -> None:
    """As most Services have it, which have one port."""
    address = "10.96.9.1"
    for nameless in (None, ""):
        item = objects.endpoint_slice("nameless-1", of="nameless", endpoints=node.endpoint_addresses)
        ports = [{"port": ENDPOINT_PORTS["greet"]} | ({} if nameless is None else {"name": nameless})]
        node.manifests.write(
            node.manifests.file_of(item).name, json.dumps(manifest_of(item) | {"ports": ports})
        )
        node.objects.apply(objects.service("nameless", at=address, type="NodePort", ports=["80@30909"]))
        for frontend in ((address, 80), (node.node.address, 30909)):
            wait_until_met(node.node, ("TCP", frontend), EVERYBODY)
            assert set(who_greets(node.node, frontend, 3)) == EVERYBODY
    assert mentions(node, '"default/nameless"') or mentions(node, '"default/nameless:"')


def test_services_of_one_name_in_two_namespaces_are_two(node: ServiceNode) -> None:
    places = {"one": node.endpoints[0], "two": node.endpoints[1]}
    for number, (namespace, pod) in enumerate(places.items()):
        items = (
            objects.service(
                "twin",
                namespace=namespace,
                at=f"10.96.9.{10 + number}",
                type="NodePort",
                ports=[f"greet:80@3091{number}"],
            ),
            objects.endpoint_slice(
                "twin-1",
                of="twin",
                namespace=namespace,
                ports=[f"greet:{ENDPOINT_PORTS['greet']}"],
                endpoints=[pod.address],
            ),
        )
        for item in items:
            file = node.manifests.file_of(item).name
            node.manifests.write(f"{namespace}-{file}", json.dumps(manifest_of(item)))
    for number, pod in enumerate(places.values()):
        for frontend in ((f"10.96.9.{10 + number}", PORTS["greet"]), (node.node.address, 30910 + number)):
            wait_until_met(node.client, ("TCP", frontend), EVERYBODY)
            assert set(who_greets(node.client, frontend, 3)) == {pod.name}
