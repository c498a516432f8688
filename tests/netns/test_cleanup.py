"""What is others' stays as it is, byte for byte; what is ours goes without a trace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import userspace_proxy
from tests.support.clients import udp_client, who_answers, who_greets
from tests.support.kernel_state import (
    installed_rules,
    sockets_of,
    split_counters,
    udp_conntrack_entries,
)
from tests.support.service_node import ENDPOINT_PORTS, ServiceNode
from tests.support.waiting import wait_until

OTHERS = """\
*mangle
:OTHERS-MANGLE - [0:0]
[7:700] -A PREROUTING -s 198.51.100.7/32 -j OTHERS-MANGLE
[3:300] -A OTHERS-MANGLE -j MARK --set-xmark 0x7/0xff
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
[5:500] -A INPUT -s 198.51.100.1/32 -m comment --comment "somebody's" -j ACCEPT
[6:600] -A INPUT -j KUBE-FIREWALL
[8:800] -A FORWARD -s 198.51.100.2/32 -j DROP
[9:900] -A KUBE-FIREWALL -s 198.51.100.3/32 -m comment --comment "KUBE-PORTALS-GUARD is not here" -j DROP
COMMIT
*nat
:OTHERS-NAT - [0:0]
[1:100] -A PREROUTING -s 198.51.100.4/32 -j OTHERS-NAT
[2:200] -A OUTPUT -s 198.51.100.5/32 -j OTHERS-NAT
[4:400] -A POSTROUTING -s 198.51.100.6/32 -j MASQUERADE
[0:0] -A OTHERS-NAT -p tcp -m tcp --dport 80 -j DNAT --to-destination 198.51.100.9:8080
COMMIT
"""
COUNTS_EVERYBODY = "-A INPUT -j KUBE-FIREWALL"
"""A rule that every packet passes: its counters are whoever's."""
OURS = re.compile(r"(-j |-A |^:)KUBE-(PORTALS|NODEPORT)-")


@pytest.fixture(params=["nft", "legacy", "python-iptables"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServiceNode]:
    """A node with rules of others, on which nothing has run yet."""
    with ServiceNode(tmp_path, "--iptables-backend", request.param) as node:
        variant = "nft" if request.param == "nft" else "legacy"
        node.node.run(f"iptables-{variant}-restore", "-c", stdin=OTHERS)
        yield node


@pytest.fixture
def nft_node(tmp_path: Path) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path) as node:
        yield node


def others(rules: list[str]) -> list[str]:
    """What is not ours, in its order, with its counters."""
    return [
        split_counters(rule)[0] if COUNTS_EVERYBODY in rule else rule
        for rule in rules
        if not OURS.search(rule)
    ]


def test_rules_of_others_survive_everything(node: ServiceNode) -> None:
    before = others(node.rules(counters=True))
    assert any("[9:900] -A KUBE-FIREWALL" in rule for rule in before)
    node.agent.start()
    service = node.serve("greet", "name")
    who_greets(node.client, service["greet"], 3)
    assert others(node.rules(counters=True)) == before
    node.set_endpoints(service, [])
    node.wait_for_rules(service, is_refused=True)
    assert others(node.rules(counters=True)) == before
    node.remove(service)
    assert others(node.rules(counters=True)) == before
    node.agent.kill_everything()
    node.agent.start()
    node.serve("greet", "name")
    assert others(node.rules(counters=True)) == before
    assert node.agent.stop() == 0
    assert userspace_proxy(node.node, "cleanup").returncode == 0
    rules = node.rules(counters=True)
    assert others(rules) == before
    assert len(rules) == len(before), "something of ours is left"


def test_nothing_is_left(node: ServiceNode) -> None:
    rules, rules_v6 = node.rules(), added(node.rules(family="IPv6"))
    listening, files = sockets_of(node.node), files_of_the_system()
    node.agent.start()
    service = node.serve("greet", "name")
    who_greets(node.client, service["greet"], 3)
    assert others(node.rules(family="IPv6")) != node.rules(family="IPv6")
    elsewhere = node.endpoints[0].address, ENDPOINT_PORTS["name"]
    with udp_client(node.client, service["name"]) as client, udp_client(node.node, elsewhere) as stranger:
        who_answers([client, stranger])
        assert udp_conntrack_entries(node.node, service.cluster_ip)
        assert node.agent.stop() == 0
        completed = userspace_proxy(node.node, "cleanup")
        assert completed.returncode == 0, completed.stderr
        assert udp_conntrack_entries(node.node, service.cluster_ip) == []
        assert udp_conntrack_entries(node.node, elsewhere[0]) != []  # another's
    assert node.rules() == rules
    assert added(node.rules(family="IPv6")) == rules_v6
    wait_until(lambda: node.node.pids() == [])
    assert sockets_of(node.node) == listening
    assert files_of_the_system() == files
    for variant in ("nft", "legacy"):
        for family in ("IPv4", "IPv6"):
            rules = installed_rules(node.node, variant, family=family)
            assert others(rules) == rules


def files_of_the_system() -> list[str]:
    """Where programs leave things behind, as far as it is this run's own."""
    return sorted(str(path) for path in Path("/run").rglob("*") if "netns" not in path.parts)


def test_after_a_kill_nothing_is_left_either_and_a_second_cleanup_finds_nothing(
    nft_node: ServiceNode,
) -> None:
    node = nft_node
    before = node.rules()
    node.agent.start()
    node.serve("greet", "name")
    node.agent.kill_everything()
    first = userspace_proxy(node.node, "cleanup")
    assert first.returncode == 0
    assert added(node.rules()) == added(before)
    second = userspace_proxy(node.node, "cleanup")
    assert (second.returncode, second.stderr) == (0, "")
    assert "nothing of ours" in second.stdout


def added(rules: list[str]) -> list[str]:
    """Without what every table has by itself."""
    return [rule for rule in rules if rule.startswith("-A") or " - " in rule]


def test_it_starts_again_after_a_cleanup(nft_node: ServiceNode) -> None:
    node = nft_node
    node.agent.start()
    service = node.serve("greet")
    assert node.agent.stop() == 0
    assert userspace_proxy(node.node, "cleanup").returncode == 0
    node.agent.start()
    node.wait_for_rules(service)
    assert len(set(who_greets(node.client, service["greet"], 3))) == 3


def test_beside_a_live_agent_it_refuses_and_names_it(nft_node: ServiceNode) -> None:
    node = nft_node
    node.agent.start()
    service = node.serve("greet")
    rules = node.rules()
    completed = userspace_proxy(node.node, "cleanup")
    assert completed.returncode == 1
    assert is_one_sentence(completed.stderr)
    assert f"pid {node.agent.pid}" in completed.stderr
    assert node.agent.is_running
    assert node.rules() == rules
    assert len(set(who_greets(node.client, service["greet"], 3))) == 3


def test_forced_it_ends_the_agent_first(nft_node: ServiceNode) -> None:
    node = nft_node
    node.agent.start()
    node.serve("greet")
    completed = userspace_proxy(node.node, "cleanup", "--force")
    assert completed.returncode == 0, completed.stderr
    assert str(node.agent.pid) in completed.stdout
    wait_until(lambda: not node.agent.is_running)
    wait_until(lambda: node.node.pids() == [])
    assert others(node.rules()) == node.rules()


def test_a_second_agent_that_may_not_take_over_refuses_to_start(nft_node: ServiceNode) -> None:
    node = nft_node
    node.agent.start()
    service = node.serve("greet")
    rules = node.rules()
    completed = userspace_proxy(node.node, "run", *node.agent.flags, "--no-take-over")
    assert completed.returncode == 1
    assert is_one_sentence(completed.stderr)
    assert f"pid {node.agent.pid}" in completed.stderr
    assert node.agent.is_running
    assert node.rules() == rules
    assert len(set(who_greets(node.client, service["greet"], 3))) == 3


def is_one_sentence(said: str) -> bool:
    return said.startswith("userspace-proxy: ") and len(said.splitlines()) == 1
