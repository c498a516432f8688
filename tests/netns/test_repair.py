"""What strangers do to our rules is noticed and undone, long before all rules are read back anyway.

Clients come all the time: whoever is connected stays so, whoever comes after the repair is served.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import expect_everybody
from tests.support.service_node import ServiceNode
from tests.support.steady_traffic import SteadyTraffic
from tests.support.waiting import wait_until

BEFORE_VERIFICATION_SECONDS = 20.0
"""What is promised is 2 s."""

VERIFIED_SECONDS = 60.0
"""What a look at legacy tables cannot see is found every 30 s."""

TOOLS = {"nft": "iptables-nft", "legacy": "iptables-legacy", "python-iptables": "iptables-legacy"}
EVERYBODY = ("web-1", "web-2", "web-3")
OTHERS_NAT = """
table ip others {
    chain masquerading {
        type nat hook postrouting priority 100
        oifname "eth9" masquerade
    }
}
"""
"""Where the last rule goes that translates addresses, the kernel ends that for what is established, too."""

ELSEWHERE = ("DNAT", "--to-destination", "198.51.100.9:9")

DEEDS: dict[str, list[tuple[str, ...]]] = {
    "nat flushed": [("-t", "nat", "-F")],
    "filter flushed": [("-t", "filter", "-F")],
    "everything deleted": [("-t", table, verb) for table in ("nat", "filter") for verb in ("-F", "-X")],
    "one jump deleted": [("-t", "nat", "-D", "PREROUTING", "1")],
    "a chain of ours rewritten": [
        ("-t", "nat", "-F", "KUBE-PORTALS-CONTAINER"),
        ("-t", "nat", "-A", "KUBE-PORTALS-CONTAINER", "-p", "tcp", "-j", "RETURN"),
    ],
}

BEFORE_OURS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ACCEPT in PREROUTING": ("nat", ("PREROUTING", "-p", "tcp", "-j", "ACCEPT")),
    "RETURN in PREROUTING": ("nat", ("PREROUTING", "-p", "tcp", "-j", "RETURN")),
    "DNAT in PREROUTING": ("nat", ("PREROUTING", "-p", "tcp", "-j", *ELSEWHERE)),
    "DNAT in OUTPUT": ("nat", ("OUTPUT", "-d", "10.96.0.0/16", "-p", "tcp", "-j", *ELSEWHERE)),
    "ACCEPT in INPUT": ("filter", ("INPUT", "-p", "tcp", "-j", "ACCEPT")),
}


@pytest.fixture(scope="module", params=list(TOOLS))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServiceNode, str]]:
    folder: Path = tmp_path_factory.mktemp("node")
    with ServiceNode(folder, "--iptables-backend", request.param) as node:
        node.node.run("nft", "-f", "-", stdin=OTHERS_NAT)
        node.agent.start()
        yield node, TOOLS[request.param]


def expect_repaired(
    node: ServiceNode, traffic: SteadyTraffic, rules: list[str], seconds: float = BEFORE_VERIFICATION_SECONDS
) -> None:
    """The rules are these again, and since then everybody is served."""
    took = wait_until(lambda: node.rules() == rules, seconds)
    traffic.expect_served_since(time.monotonic())
    print(f"repaired after {took:.2f} s, not served meanwhile: {len(traffic.failed)}")


@pytest.mark.parametrize("deed", DEEDS)
def test_it_is_undone_at_once(served: tuple[ServiceNode, str], deed: str) -> None:
    node, tool = served
    service = node.serve("greet", "name")
    rules = node.rules()
    with SteadyTraffic(node.client, service["greet"]) as traffic:
        with node.agent.standing_still():  # lest it repairs what is not done yet
            for arguments in DEEDS[deed]:
                node.node.run(tool, "-w", *arguments)
        expect_repaired(node, traffic, rules)
    expect_everybody(node.client, service["greet"], service["name"], EVERYBODY)


@pytest.mark.parametrize("deed", BEFORE_OURS)
def test_what_comes_before_ours_is_overtaken_and_stays(served: tuple[ServiceNode, str], deed: str) -> None:
    node, tool = served
    service = node.serve("greet", "name")
    table, (chain, *rule) = BEFORE_OURS[deed]
    rules = node.rules()
    others = f"-A {chain} {' '.join(rule)}"
    with SteadyTraffic(node.client, service["greet"]) as traffic:
        node.node.run(tool, "-w", "-t", table, "-I", chain, *rule)
        wait_until(lambda: is_behind_ours(node.rules(), chain, others), BEFORE_VERIFICATION_SECONDS)
        traffic.expect_served_since(time.monotonic())
    expect_everybody(node.node, service["greet"], service["name"], EVERYBODY)
    node.node.run(tool, "-w", "-t", table, "-D", chain, *rule)
    assert node.rules() == rules


def is_behind_ours(rules: list[str], chain: str, others: str) -> bool:
    """Whether the rule of others stands in the chain of its table, and not before a jump of ours."""
    at = rules.index(others)
    return f"-A {chain} " in rules[at - 1] and "-j KUBE-" in rules[at - 1]


def test_who_is_dropped_before_the_guard_is_for_others_to_decide(served: tuple[ServiceNode, str]) -> None:
    """Who looks after the jumps in filter leaves it where it stands, too."""
    node, tool = served
    service = node.serve("greet")
    rules = node.rules()
    banned = ("INPUT", "-s", "198.51.100.7/32", "-j", "DROP")
    with SteadyTraffic(node.client, service["greet"]) as traffic:
        node.node.run(tool, "-w", "-I", *banned)
        with_ban = node.rules()
        node.node.run(tool, "-w", "-t", "nat", "-D", "PREROUTING", "1")
        expect_repaired(node, traffic, with_ban)
    node.node.run(tool, "-w", "-D", *banned)
    assert node.rules() == rules


@pytest.mark.parametrize("served", ["nft", "legacy"], indirect=True)
def test_jumps_that_were_moved_behind_others_rules_are_first_again(served: tuple[ServiceNode, str]) -> None:
    """At one moment, so that legacy tables hold as much as before: that is seen when they are verified."""
    node, tool = served
    service = node.serve("greet")
    mine = ("PREROUTING", "-s", "198.51.100.7/32", "-j", "ACCEPT")
    node.node.run(tool, "-w", "-t", "nat", "-A", *mine)
    wait_until(lambda: "KUBE-NODEPORT" in last_of(node.rules(), "PREROUTING"), BEFORE_VERIFICATION_SECONDS)
    rules = node.rules()
    first = next(rule for rule in rules if rule.startswith("-A PREROUTING"))
    moved = f"*nat\n-D {first.removeprefix('-A ')}\n{first}\nCOMMIT\n"
    with SteadyTraffic(node.client, service["greet"]) as traffic:
        with node.agent.standing_still():
            node.node.run(f"{tool}-restore", "-w", "--noflush", stdin=moved)
            assert node.rules() != rules
        seconds = BEFORE_VERIFICATION_SECONDS if tool == TOOLS["nft"] else VERIFIED_SECONDS
        expect_repaired(node, traffic, rules, seconds)
        traffic.expect_nobody_noticed()
    node.node.run(tool, "-w", "-t", "nat", "-D", *mine)


def last_of(rules: list[str], chain: str) -> str:
    return [rule for rule in rules if rule.startswith(f"-A {chain} ")][-1]
