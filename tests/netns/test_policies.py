"""Which endpoints clients may use by traffic policies, in every mode of telling the node's own pods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.clients import REFUSED, SILENT
from tests.support.exposed_service import (
    EVERYBODY,
    EXTERNAL_KINDS,
    ExposedService,
    expect,
    meet,
    place_of,
    wire_external_addresses,
)
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

HERE, ELSEWHERE = "node-1", "node-2"
POD_CIDRS = ("10.244.1.0/24", "fd00:10:244:1::/64")

DETECT_LOCAL = {
    "ClusterCIDR": ("--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48"),
    "NodeCIDR": ("--detect-local-mode", "NodeCIDR"),
    "BridgeInterface": ("--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "cni0"),
    "InterfaceNamePrefix": (
        "--detect-local-mode",
        "InterfaceNamePrefix",
        "--pod-interface-name-prefix",
        "cni",
    ),
    "nothing": (),
}

EXTERNAL = {"external_traffic_policy": "Local"}
INTERNAL = {"internal_traffic_policy": "Local"}


@dataclass(frozen=True)
class Case:
    """A Service with a policy and the nodes of web-1, web-2 …; what clients meet, by where they are."""

    service: ExposedService
    policy: dict[str, str]
    nodes: tuple[str, ...]
    internal: dict[str, set[str]]
    external: dict[str, set[str]]


def everywhere(names: set[str]) -> dict[str, set[str]]:
    return dict.fromkeys(("pod", "node", "outside"), names)


CASES = {
    "external-some-here": Case(
        ExposedService("external-some-here", 1),
        EXTERNAL,
        (HERE, ELSEWHERE, ELSEWHERE),
        everywhere(EVERYBODY),
        {"pod": EVERYBODY, "node": EVERYBODY, "outside": {"web-1"}},
    ),
    "external-none-here": Case(
        ExposedService("external-none-here", 2),
        EXTERNAL,
        (ELSEWHERE,),
        everywhere({"web-1"}),
        {"pod": {"web-1"}, "node": {"web-1"}, "outside": {SILENT}},
    ),
    "external-none": Case(
        ExposedService("external-none", 3), EXTERNAL, (), everywhere({REFUSED}), everywhere({REFUSED})
    ),
    "internal-some-here": Case(
        ExposedService("internal-some-here", 4),
        INTERNAL,
        (ELSEWHERE, HERE, ELSEWHERE),
        everywhere({"web-2"}),
        everywhere(EVERYBODY),
    ),
    "internal-none-here": Case(
        ExposedService("internal-none-here", 5),
        INTERNAL,
        (ELSEWHERE,),
        everywhere({SILENT}),
        everywhere({"web-1"}),
    ),
    "internal-none": Case(
        ExposedService("internal-none", 6), INTERNAL, (), everywhere({REFUSED}), everywhere({REFUSED})
    ),
    "both-some-here": Case(
        ExposedService("both-some-here", 7),
        EXTERNAL | INTERNAL,
        (ELSEWHERE, ELSEWHERE, HERE),
        everywhere({"web-3"}),
        {"pod": EVERYBODY, "node": EVERYBODY, "outside": {"web-3"}},
    ),
}


@pytest.fixture(scope="module", params=DETECT_LOCAL)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def node(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    backend = ("--iptables-backend", "python-iptables" if mode == "NodeCIDR" else "nft")
    flags = (*backend, *DETECT_LOCAL[mode])
    with ServiceNode(tmp_path_factory.mktemp("node"), *flags, ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.apply_node(zone="zone-1", pod_cidrs=POD_CIDRS)
        for case in CASES.values():
            pods = zip(node.endpoints, case.nodes, strict=False)
            node.apply_endpoints(case.service.name, *(node.endpoint_on(pod, name) for pod, name in pods))
            node.objects.apply(case.service.manifest(**case.policy))
        node.agent.start()
        last = CASES["both-some-here"].service
        wait_until(lambda: {"web-3"} == set.union(*meet(node.node, last.frontends(node, "clusterIP"))))
        yield node


OF_ANY_MODE = ("external-some-here", "external-none-here", "both-some-here")
"""The cases in which it matters who is the node's own."""


@pytest.mark.parametrize("place", ["pod", "node", "outside"])
@pytest.mark.parametrize("name", CASES)
def test_who_may_use_which_endpoints(node: ServiceNode, mode: str, name: str, place: str) -> None:
    if mode != "ClusterCIDR" and name not in OF_ANY_MODE:
        return
    case = CASES[name]
    where = place_of(node, place)
    class_of = "outside" if mode == "nothing" and place == "pod" else place
    service = case.service
    wanted = [("clusterIP", case.internal[place])]
    wanted += [(kind, case.external[class_of]) for kind in EXTERNAL_KINDS]
    for kind, names in wanted:
        expect(where, service.frontends(node, kind), names)
    if place == "node" and names != {REFUSED}:
        expect(where, service.frontends(node, "loopback"), case.external["node"])
