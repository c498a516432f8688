"""A live Service becomes any other type, from every type, and what it no longer offers is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.clients import Address, connect, greeting
from tests.support.exposed_service import (
    EVERYBODY,
    FAMILIES,
    ExposedService,
    meet,
    place_of,
    wire_external_addresses,
)
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace

PLAIN: dict[str, Any] = {"ingress": (), "external_ips": ()}
SHAPES: dict[str, dict[str, Any]] = {
    "ClusterIP": PLAIN | {"type": "ClusterIP", "ports": ["greet:80", "name:83/UDP"]},
    "NodePort": PLAIN | {"type": "NodePort"},
    "LoadBalancer": {},
    "ExternalName": PLAIN | {"type": "ExternalName", "at": None},
    "ExternalName with a clusterIP": {"type": "ExternalName"},
}
"""The last is what an edit by hand may leave: addresses that are nobody's any more."""

SERVED: dict[str, set[str]] = {
    "ClusterIP": {"clusterIP"},
    "NodePort": {"clusterIP", "own", "second", "loopback"},
    "LoadBalancer": {"clusterIP", "own", "second", "loopback", "ingress", "externalIP"},
    "ExternalName": set(),
    "ExternalName with a clusterIP": set(),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node"), ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.agent.start()
        yield node


@pytest.mark.parametrize("after", SHAPES)
def test_every_type_becomes_this_one(node: ServiceNode, after: str) -> None:
    """Several Services at once, each of another type before."""
    number = 1 + 10 * [*SHAPES].index(after)
    others = [shape for shape in SHAPES if shape != after]
    services = {shape: ExposedService(f"typed-{number + i}", number + i) for i, shape in enumerate(others)}
    for before, service in services.items():
        node.apply_endpoints(service.name, *map(node.endpoint_on, node.endpoints))
        node.objects.apply(service.manifest(**SHAPES[before]))
    for before, service in services.items():
        wait_until_served(node, service, SERVED[before])
    with ExitStack() as stack:
        lasting = [
            stack.enter_context(connect(node.client, service.frontend(node, "clusterIP", "IPv6", "TCP")))
            for before, service in services.items()
            if SERVED[before]
        ]
        assert all(greeting(connection) in EVERYBODY for connection in lasting)
        node.objects.apply(*(service.manifest(**SHAPES[after]) for service in services.values()))
        for service in services.values():
            wait_until_served(node, service, SERVED[after])
        gone = [
            frontend
            for service in services.values()
            for kind in sorted(SERVED["LoadBalancer"] - SERVED[after])
            for frontend in service.frontends(node, kind)
        ]
        wait_until(lambda: not any(EVERYBODY & names for names in meet(node.node, gone, 1)))
        assert SERVED[after] or not any(mentions(node, service) for service in services.values())
        for connection in lasting:
            connection.sendall(b"still there")
            assert connection.recv(100) == b"still there"


def wait_until_served(node: ServiceNode, service: ExposedService, kinds: set[str]) -> None:
    """Wait until everybody answers at all of these, in both families and over TCP and UDP."""
    for place in ("node", "pod"):
        for kind in sorted(kinds - ({"loopback"} if place == "pod" else set())):
            wait_for(place_of(node, place), service.frontends(node, kind))


def wait_for(where: Namespace, frontends: list[tuple[str, Address]]) -> None:
    wait_until(lambda: meet(where, frontends) == [EVERYBODY] * 4)


def mentions(node: ServiceNode, service: ExposedService) -> list[str]:
    """The rules that name the Service, in both families."""
    rules = [rule for family in FAMILIES for rule in node.rules(family=family)]
    return [rule for rule in rules if f'"default/{service.name}:' in rule]
