"""sessionAffinity: ClientIP at every frontend, in both families, over TCP and UDP, and while it changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.clients import PATIENCE_SECONDS, connect, greeting, outcomes, who_greets
from tests.support.exposed_service import (
    EVERYBODY,
    FAMILIES,
    PROTOCOLS,
    ExposedService,
    meet,
    wire_external_addresses,
)
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

HERE, ELSEWHERE = "node-1", "node-2"
SHORT_SECONDS = 2
KINDS = ("clusterIP", "own", "second", "ingress", "externalIP")
POLICIES: dict[str, dict[str, Any]] = {"Cluster": {}, "Local": {"external_traffic_policy": "Local"}}
LOCAL = {"web-1", "web-2"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    flags = ("--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48")
    with ServiceNode(tmp_path_factory.mktemp("node"), *flags, ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.agent.start()
        yield node


def sticky(seconds: int = 600) -> dict[str, Any]:
    return {"affinity": "ClientIP", "affinity_timeout_seconds": seconds}


def apply(node: ServiceNode, service: ExposedService, **more: Any) -> None:
    """The Service; web-1 and web-2 are on this node."""
    node.objects.apply(service.manifest(**more))
    node.apply_endpoints(service.name, *map(node.endpoint_on, node.endpoints, (HERE, HERE, ELSEWHERE)))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_client_stays_with_one_endpoint_at_all_frontends(
    node: ServiceNode, family: str, protocol: str, policy: str
) -> None:
    number = 1 + FAMILIES.index(family) + 2 * PROTOCOLS.index(protocol) + 4 * [*POLICIES].index(policy)
    service = ExposedService(f"faithful-{number}", number)
    apply(node, service, **sticky(), **POLICIES[policy])
    outside = node.network.outside
    wait_until(lambda: service_answers(node, service))
    at_frontends = [(protocol, service.frontend(node, kind, family, protocol)) for kind in KINDS[1:]]
    [home] = set.union(*meet(outside, at_frontends, patience_seconds=PATIENCE_SECONDS))
    assert home in (LOCAL if policy == "Local" else EVERYBODY)
    assert outcomes(outside, protocol, service.frontend(node, "clusterIP", family, protocol)) == {home}
    # Another client is at home by itself; where all draw from one turn, elsewhere.
    everywhere = [(protocol, service.frontend(node, kind, family, protocol)) for kind in KINDS]
    [other] = set.union(*meet(node.client, everywhere, patience_seconds=PATIENCE_SECONDS))
    assert policy == "Local" or other != home
    assert set.union(*meet(outside, at_frontends, patience_seconds=PATIENCE_SECONDS)) == {home}


def service_answers(node: ServiceNode, service: ExposedService) -> bool:
    """Whether all its rules stand; asked by a client who has no affinity that the test looks at."""
    return all(
        EVERYBODY & names
        for kind in KINDS
        for names in meet(node.endpoints[2], service.frontends(node, kind), 1)
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_it_is_switched_on_and_off_while_the_service_serves(node: ServiceNode, policy: str) -> None:
    service = ExposedService(f"switched-{policy.lower()}", 20 + [*POLICIES].index(policy))
    in_turn = {kind: [LOCAL if policy == "Local" else EVERYBODY] * 4 for kind in ("own", "ingress")}
    in_turn["clusterIP"] = [EVERYBODY] * 4
    apply(node, service, **POLICIES[policy])
    wait_until(lambda: served_from_outside(node, service) == in_turn)
    with connect(node.network.outside, service.frontend(node, "own", "IPv6", "TCP")) as lasting:
        assert greeting(lasting) in EVERYBODY
        node.objects.apply(service.manifest(**sticky(), **POLICIES[policy]))
        wait_until(lambda: each_has_one(served_from_outside(node, service)))
        node.objects.apply(service.manifest(**POLICIES[policy]))
        wait_until(lambda: served_from_outside(node, service) == in_turn)
        lasting.sendall(b"still there")
        assert lasting.recv(100) == b"still there"


def served_from_outside(node: ServiceNode, service: ExposedService) -> dict[str, list[set[str]]]:
    """Who answers six clients at once, by frontend, over TCP and over UDP in each family."""
    outside = node.network.outside
    return {
        kind: meet(outside, service.frontends(node, kind), 6, patience_seconds=PATIENCE_SECONDS)
        for kind in ("clusterIP", "own", "ingress")
    }


def each_has_one(served: dict[str, list[set[str]]]) -> bool:
    return all(len(names) == 1 for met in served.values() for names in met)


@pytest.mark.parametrize("kind", ["clusterIP", "own", "ingress"])
def test_it_ends_after_its_timeout(node: ServiceNode, kind: str) -> None:
    service = ExposedService(f"forgetful-{kind.lower()}", 40 + KINDS.index(kind))
    outside, frontends = node.network.outside, service.frontends(node, kind)
    apply(node, service, **sticky(SHORT_SECONDS))
    wait_until(lambda: all(EVERYBODY & names for names in meet(node.client, frontends, 1)))
    began = time.monotonic()
    homes, again = (meet(outside, frontends, count, patience_seconds=PATIENCE_SECONDS) for count in (1, 3))
    assert homes == again or time.monotonic() - began > SHORT_SECONDS
    time.sleep(1.5 * SHORT_SECONDS)  # the passing of time is what is tried here
    later = meet(outside, frontends, 1, patience_seconds=PATIENCE_SECONDS)
    assert not any(home & name for home, name in zip(homes, later, strict=True))


def test_clients_of_one_ipv6_network_are_told_apart(node: ServiceNode) -> None:
    """The whole address counts: many pods share a /64."""
    service = ExposedService("neighbours", 50)
    sources = ["2001:db8::a1", "2001:db8::a2", "2001:db8::a3"]
    node.network.outside.ip(*(f"addr add {source}/64 dev eth0 nodad" for source in sources))
    apply(node, service, **sticky())
    wait_until(lambda: service_answers(node, service))
    for kind in ("own", "ingress"):
        address = service.frontend(node, kind, "IPv6", "TCP")
        homes = [who_greets(node.network.outside, address, 3, source=source) for source in sources]
        assert [len(set(home)) for home in homes] == [1, 1, 1]
        assert {home[0] for home in homes} == EVERYBODY
