"""UDP clients that keep their port while backends, ports and Services come and go.

conntrack remembers a flow for as long as its client keeps sending, so each of these would go on to be sent
where it was sent at first, had nobody it forgotten.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from tests.support import objects
from tests.support.clients import ask, udp_client
from tests.support.exposed_service import (
    EVERYBODY,
    FAMILIES,
    PLACES,
    ExposedService,
    meet,
    place_of,
    wire_external_addresses,
)
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.pods import start_server

HERE, ELSEWHERE = "node-1", "node-2"
KINDS = ("clusterIP", "own", "second", "ingress", "externalIP")
STEADY = {place: ExposedService(f"steady-{place}", 1 + number) for number, place in enumerate(PLACES)}
EARLY = {place: ExposedService(f"early-{place}", 11 + number) for number, place in enumerate(PLACES)}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    flags = ("--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48")
    with ServiceNode(tmp_path_factory.mktemp("node"), *flags, ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.agent.start()
        yield node


@contextmanager
def steady_clients(
    node: ServiceNode, place: str, service: ExposedService, kinds: tuple[str, ...] = KINDS
) -> Iterator[list[socket.socket]]:
    """A client of each kind of frontend in each family, from one place; none ever changes its port."""
    with ExitStack() as stack:
        where = place_of(node, place)
        addresses = [
            service.frontend(node, kind, family, "UDP")
            for kind in (*kinds, *(["loopback"] if place == "node" and "own" in kinds else []))
            for family in FAMILIES
        ]
        clients = [stack.enter_context(udp_client(where, address)) for address in addresses]
        for client in clients:
            client.settimeout(0.2)
        yield clients


def all_hear(clients: list[socket.socket], name: str) -> bool:
    """Whether each is answered by just this one; "" for nobody."""
    return answers(clients) == [name] * len(clients)


def answers(clients: list[socket.socket]) -> list[str]:
    """Who answers a datagram of each, "" for nobody, or not soon enough."""
    with ThreadPoolExecutor(len(clients)) as threads:
        return list(threads.map(answer, clients))


def answer(client: socket.socket) -> str:
    """Who answers. What came too late for an earlier question is not taken for this one's answer."""
    with suppress(OSError):
        while True:
            client.recv(100, socket.MSG_DONTWAIT)
    try:
        return ask(client).decode().strip()
    except OSError:
        return ""


def apply(node: ServiceNode, service: ExposedService, *pods: int, **more: Any) -> None:
    """The Service with these of the endpoint pods, all of this node."""
    node.apply_endpoints(service.name, *(node.endpoint_on(node.endpoints[pod], HERE) for pod in pods))
    node.objects.apply(service.manifest(**more))


@pytest.mark.parametrize("place", PLACES)
def test_they_follow_their_backend(node: ServiceNode, place: str) -> None:
    service = STEADY[place]
    apply(node, service, 0)
    with steady_clients(node, place, service) as clients:
        wait_until(lambda: all_hear(clients, "web-1"))
        apply(node, service, 1)
        wait_until(lambda: all_hear(clients, "web-2"))
        apply(node, service)
        wait_until(lambda: all_hear(clients, ""))
        apply(node, service, 2)
        wait_until(lambda: all_hear(clients, "web-3"))


@pytest.mark.parametrize("place", PLACES)
def test_they_are_served_who_were_there_before_the_service(node: ServiceNode, place: str) -> None:
    service = EARLY[place]
    with steady_clients(node, place, service) as clients:
        assert all_hear(clients, "")
        apply(node, service, 0)
        wait_until(lambda: all_hear(clients, "web-1"))
        node.objects.delete(service.manifest())
        wait_until(lambda: all_hear(clients, ""))
        apply(node, service, 0)
        wait_until(lambda: all_hear(clients, "web-1"))


def test_they_wait_for_an_endpoint_that_gets_ready(node: ServiceNode) -> None:
    service = ExposedService("unready", 21)
    pod = node.endpoints[0]
    node.objects.apply(service.manifest())
    node.apply_endpoints("unready", node.endpoint_on(pod, HERE, ready=False))
    with ExitStack() as stack:
        clients = [
            client
            for place in ("pod", "outside", "node")
            for client in stack.enter_context(steady_clients(node, place, service))
        ]
        assert all_hear(clients, "")
        node.apply_endpoints("unready", node.endpoint_on(pod, HERE, ready=True))
        wait_until(lambda: all_hear(clients, "web-1"))


@pytest.mark.parametrize("policy", ["internal", "external"])
def test_under_a_local_policy_they_follow_the_backends_of_this_node(node: ServiceNode, policy: str) -> None:
    service = ExposedService(f"local-{policy}", 22 + len(policy))
    web_1, web_2, web_3 = node.endpoints
    node.objects.apply(service.manifest(**{f"{policy}_traffic_policy": "Local"}))
    place, kinds = ("pod", ("clusterIP",)) if policy == "internal" else ("outside", ("own", "ingress"))
    with steady_clients(node, place, service, kinds) as clients:
        for here, name in (([web_1], "web-1"), ([], ""), ([web_2], "web-2")):
            there = [node.endpoint_on(web_3, ELSEWHERE)]
            node.apply_endpoints(service.name, *(node.endpoint_on(pod, HERE) for pod in here), *there)
            wait_until(lambda name=name: all_hear(clients, name))  # type: ignore[misc]


def test_they_follow_a_target_port(node: ServiceNode) -> None:
    service = ExposedService("retargeted", 40)
    pod = node.endpoints[0]
    start_server(pod, "--bind=0.0.0.0", "--bind=::", "--udp=9301", name="first")
    start_server(pod, "--bind=0.0.0.0", "--bind=::", "--udp=9302", name="second")
    node.objects.apply(service.manifest())
    with ExitStack() as stack:
        clients = [
            client
            for place in ("pod", "outside", "node")
            for client in stack.enter_context(steady_clients(node, place, service))
        ]
        for port, name in ((9301, "first"), (9302, "second"), (9301, "first")):
            for family, address in (("IPv4", pod.address), ("IPv6", pod.address_v6)):
                node.objects.apply(
                    objects.endpoint_slice(
                        f"retargeted-{family.lower()}",
                        of="retargeted",
                        ports=[f"name:{port}/UDP"],
                        endpoints=[address],
                        address_type=family,
                    )
                )
            wait_until(lambda name=name: all_hear(clients, name))  # type: ignore[misc]


@pytest.mark.parametrize("place", ["pod", "node", "outside"])
def test_a_service_s_clients_are_not_disturbed_by_changes_of_others(node: ServiceNode, place: str) -> None:
    """Each keeps its endpoint, while others' entries are forgotten."""
    service, other = (
        ExposedService(f"calm-{place}", 50 + PLACES.index(place)),
        ExposedService(f"wild-{place}", 60 + PLACES.index(place)),
    )
    apply(node, service, 0, 1, 2)
    where = place_of(node, place)
    wait_until(lambda: meet(where, service.frontends(node, "own")) == [EVERYBODY] * 4)
    with steady_clients(node, place, service) as clients:
        homes = answers(clients)
        assert set(homes) == EVERYBODY
        apply(node, other, 0)
        wait_until(lambda: {"web-1"} in meet(where, other.frontends(node, "own"), 1))
        apply(node, other)
        wait_until(lambda: {"web-1"} not in meet(where, other.frontends(node, "own"), 1))
        node.objects.delete(other.manifest())
        assert answers(clients) == homes
