"""A stranger deletes one chain of ours, with what leads there: it comes back, and everybody is served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.exposed_service import (
    EVERYBODY,
    FAMILIES,
    ExposedService,
    expect,
    meet,
    place_of,
    wire_external_addresses,
)
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

REPAIR_SECONDS = 20.0
"""What is promised is 2 s, and what a look cannot see is found every 30 s."""

TOOLS = {"IPv4": "iptables", "IPv6": "ip6tables"}
VARIANTS = {"nft": "nft", "python-iptables": "legacy"}
SERVICE = ExposedService("serving", 1)
MANY = 40
"""With more than 32 portals a chain branches."""

CHAINS = [
    ("nat", "KUBE-PORTALS-CONTAINER"),
    ("nat", "KUBE-PORTALS-HOST"),
    ("nat", "KUBE-NODEPORT-CONTAINER"),
    ("nat", "KUBE-NODEPORT-HOST"),
    ("filter", "KUBE-PORTALS-GUARD"),
]


@pytest.fixture(scope="module", params=VARIANTS)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServiceNode, str]]:
    """A node with one Service and many that are refused, and the variant of its rules."""
    folder: Path = tmp_path_factory.mktemp("node")
    flags = ("--iptables-backend", request.param)
    with ServiceNode(folder, *flags, ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.objects.apply(SERVICE.manifest())
        node.apply_endpoints("serving", *map(node.endpoint_on, node.endpoints))
        for number in range(10, 10 + MANY):
            node.objects.apply(ExposedService(f"empty-{number}", number).manifest())
        node.agent.start()
        wait_until(lambda: is_served(node))
        yield node, VARIANTS[request.param]


def is_served(node: ServiceNode) -> bool:
    return all(
        meet(node.node, SERVICE.frontends(node, kind)) == [EVERYBODY] * 4 for kind in ("own", "ingress")
    )


def delete_chains(node: ServiceNode, tool: str, table: str, *chains: str) -> None:
    """As an administrator does, at one moment: the rules that lead there, their own rules, the chains."""
    rules = node.node.run(tool, "-t", table, "-S").stdout.splitlines()
    jumps = [rule for rule in rules if rule.startswith("-A") and rule.rpartition(" -j ")[2] in chains]
    lines = [
        f"*{table}",
        *(f"-D{rule.removeprefix('-A')}" for rule in jumps),
        *(f"-F {chain}" for chain in chains),
        *(f"-X {chain}" for chain in chains),
        "COMMIT",
    ]
    node.node.run(f"{tool}-restore", "-w", "--noflush", stdin="\n".join(lines) + "\n")


def installed(node: ServiceNode) -> dict[str, list[str]]:
    return {family: node.rules(family=family) for family in FAMILIES}


@pytest.mark.parametrize(("table", "chain"), CHAINS)
def test_it_comes_back(served: tuple[ServiceNode, str], table: str, chain: str) -> None:
    node, variant = served
    rules = installed(node)
    for family in FAMILIES:
        delete_chains(node, f"{TOOLS[family]}-{variant}", table, chain)
        wait_until(lambda: installed(node) == rules, REPAIR_SECONDS)
    for place in ("pod", "node", "outside"):
        for kind in ("clusterIP", "own", "ingress"):
            expect(place_of(node, place), SERVICE.frontends(node, kind), EVERYBODY)


def test_the_branches_come_back(served: tuple[ServiceNode, str]) -> None:
    """Each that the Service's own packets pass."""
    node, variant = served
    rules = installed(node)
    for family in FAMILIES:
        branches = {
            rule.split()[1]
            for rule in rules[family]
            if '"default/serving:' in rule and rule.split()[1] not in {chain for _, chain in CHAINS}
        }
        assert branches
        delete_chains(node, f"{TOOLS[family]}-{variant}", "nat", *sorted(branches))
        wait_until(lambda: installed(node) == rules, REPAIR_SECONDS)
    for place in ("pod", "node", "outside"):
        for kind in ("clusterIP", "own", "ingress"):
            expect(place_of(node, place), SERVICE.frontends(node, kind), EVERYBODY)
