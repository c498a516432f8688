"""`userspace-proxy check` on nodes that lack something; it leaves no trace."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import NodeNetwork


@pytest.fixture
def node() -> Iterator[Namespace]:
    with NodeNetwork(ipv6=True) as network:
        yield network.node


def checked(node: Namespace, *flags: str, code: int = 0) -> dict[str, tuple[str, str]]:
    completed = node.run(sys.executable, "-m", "userspace_proxy", "check", "-o", "json", *flags, check=False)
    assert completed.returncode == code, completed.stderr + completed.stdout
    return {found["check"]: (found["level"], found["found"]) for found in json.loads(completed.stdout)}


def rules(node: Namespace) -> str:
    return "".join(
        node.run(f"{tool}-save", check=False).stdout
        for tool in ("iptables-nft", "iptables-legacy", "ip6tables-nft")
    )


def test_a_node_of_ours_is_fit(node: Namespace) -> None:
    before = rules(node)
    found = checked(node)
    assert found["kernel features"][0] == "ok"
    assert found["route to clusterIPs"] == ("ok", "to 10.96.0.1")
    assert found["another proxy's rules"][0] == "ok"
    assert rules(node) == before


def test_rules_of_kube_proxy_are_named(node: Namespace) -> None:
    node.run("iptables-nft", "-t", "nat", "-N", "KUBE-SERVICES")
    assert checked(node)["another proxy's rules"] == (
        "warning",
        "kube-proxy's are installed: KUBE-SERVICES (iptables-nft-save)",
    )


def test_rules_of_the_other_variant_are_named(node: Namespace) -> None:
    node.run("iptables-legacy", "-A", "INPUT", "-p", "tcp", "--dport", "1", "-j", "DROP")
    level, found = checked(node, "--iptables-backend", "nft")["other variant of iptables"]
    assert level == "warning"
    assert "rules=1" in found


def test_without_a_route_to_the_clusterips_it_fails(node: Namespace) -> None:
    node.ip("route del default")
    assert checked(node, code=1)["route to clusterIPs"] == ("error", "the node has none to 10.96.0.1")
    assert checked(node, "--service-cluster-ip-range", "10.244.1.0/24")["route to clusterIPs"][0] == "ok"


def test_an_answer_for_people(node: Namespace) -> None:
    completed = node.run(
        sys.executable, "-m", "userspace_proxy", "check", "--proxy-port-range", "30000-30100", check=False
    )
    assert completed.returncode == 0
    assert "30000-30100 and NodePorts, 30000-32767, overlap" in completed.stdout
    assert "-> choose others with --proxy-port-range" in completed.stdout
    assert "\x1b" not in completed.stdout


def test_a_flag_that_is_wrong_ends_with_2(node: Namespace) -> None:
    completed = node.run(
        sys.executable, "-m", "userspace_proxy", "check", "--service-cluster-ip-range", "x", check=False
    )
    assert completed.returncode == 2
    assert "--service-cluster-ip-range: " in completed.stderr
