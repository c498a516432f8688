"""A node with both families: restarts, cleanups and strangers that flush mean either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.agent import userspace_proxy
from tests.support.clients import REFUSED, SILENT, udp_client, who_answers, who_greets
from tests.support.exposed_service import (
    EVERYBODY,
    FAMILIES,
    KINDS,
    ExposedService,
    expect,
    wait_until_met,
    wire_external_addresses,
)
from tests.support.kernel_state import rule_handles
from tests.support.service_node import ENDPOINT_PORTS, ServiceNode
from tests.support.waiting import wait_until

SERVING, LOCAL, EMPTY = ExposedService("serving", 1), ExposedService("local", 2), ExposedService("empty", 3)


@pytest.fixture
def backend() -> str:
    return "nft"


@pytest.fixture
def node(backend: str, tmp_path: Path) -> Iterator[ServiceNode]:
    """With Services of every kind, some of whose traffic is refused, limited, or led elsewhere."""
    flags = ("--iptables-backend", backend, "--detect-local-mode", "NodeCIDR")
    with ServiceNode(tmp_path, *flags, ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.apply_node(pod_cidrs=["10.244.1.0/24", "fd00:10:244:1::/64"])
        node.objects.apply(
            SERVING.manifest(source_ranges=["192.0.2.1/32", "2001:db8::1/128"]),
            LOCAL.manifest(external_traffic_policy="Local"),
            EMPTY.manifest(),
        )
        node.apply_endpoints("serving", *map(node.endpoint_on, node.endpoints))
        nodes = ("node-1", "node-2", "node-2")
        node.apply_endpoints("local", *map(node.endpoint_on, node.endpoints, nodes))
        node.agent.start()
        wait_until_met(node.node, ("UDP", ("::1", LOCAL.node_port)), EVERYBODY)
        yield node


def expect_everything(node: ServiceNode) -> None:
    outside, pod = node.network.outside, node.client
    for kind in KINDS:
        expect(node.node, LOCAL.frontends(node, kind), EVERYBODY)
        if kind != "loopback":
            expect(pod, LOCAL.frontends(node, kind), EVERYBODY)
    for kind in ("own", "ingress", "externalIP"):
        expect(outside, LOCAL.frontends(node, kind), {"web-1"})
        expect(outside, SERVING.frontends(node, kind), EVERYBODY)
    expect(pod, SERVING.frontends(node, "ingress"), {SILENT})
    expect(pod, EMPTY.frontends(node, "clusterIP"), {REFUSED})


def both(node: ServiceNode) -> list[str]:
    return [rule for family in FAMILIES for rule in node.rules(family=family)]


@pytest.mark.parametrize("backend", ["nft", "python-iptables"])
def test_a_restart_adopts_everything_and_rewrites_no_rule(node: ServiceNode) -> None:
    expect_everything(node)
    wait_until(lambda: len(both(node)) > 50)
    rules, handles = both(node), rule_handles(node.node)
    with ExitStack() as stack:
        faithful = []
        for where in (node.client, node.node, node.network.outside):
            for protocol, address in (*LOCAL.frontends(node, "own"), *LOCAL.frontends(node, "externalIP")):
                if protocol == "UDP":
                    faithful.append(stack.enter_context(udp_client(where, address)))
        who_answers(faithful)
        node.agent.kill_everything()
        assert both(node) == rules
        node.agent.start()
        assert set(who_answers(faithful)) <= EVERYBODY
        expect_everything(node)
    assert both(node) == rules
    assert rule_handles(node.node) == handles
    assert not node.agent.lines_with("Rules installed")
    assert node.agent.stop() == 0
    node.agent.start()
    expect_everything(node)
    assert both(node) == rules
    completed = userspace_proxy(node.node, "cleanup", "--force")
    assert completed.returncode == 0, completed.stderr
    assert not [rule for rule in both(node) if "KUBE-" in rule]
    for family in FAMILIES:
        listed = node.node.run("conntrack", "-L", "-f", family.lower(), "-p", "udp").stdout
        assert f"dport={LOCAL.node_port} " not in listed
        assert LOCAL.address("externalIP", family) not in listed
        assert f"dport={ENDPOINT_PORTS['name']} " in listed  # ours to endpoints, who are no frontends


def test_chains_that_a_stranger_deletes_come_back(node: ServiceNode) -> None:
    """In both families and tables, and soon."""
    rules = both(node)
    with node.agent.standing_still():
        for tool in ("iptables-nft", "ip6tables-nft"):
            for table in ("nat", "filter"):
                node.node.run(tool, "-t", table, "-F")
                node.node.run(tool, "-t", table, "-X")
        assert not [rule for rule in both(node) if "KUBE-" in rule]
    wait_until(lambda: both(node) == rules)
    expect_everything(node)
    assert node.agent.lines_with("changed by somebody")


def test_ipv4_is_served_where_ip6tables_cannot_show_its_tables(tmp_path: Path) -> None:
    foreign = [
        "add table ip6 nat",
        "add map ip6 nat backends { type ipv6_addr : ipv6_addr; }",
        "add chain ip6 nat PREROUTING { type nat hook prerouting priority -100; }",
        "add rule ip6 nat PREROUTING dnat to ip6 daddr map @backends",
    ]
    with ServiceNode(tmp_path, "--iptables-backend", "nft", ipv6=True) as node:
        node.node.run("nft", "; ".join(foreign))
        node.agent.start()
        service = node.serve("greet")
        assert set(who_greets(node.client, service["greet"], 3)) == EVERYBODY
        assert len(node.agent.lines_with("in IPv4 alone", "nft list table ip6 nat")) == 1
