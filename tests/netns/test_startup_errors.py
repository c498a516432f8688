"""What cannot work ends at once: one sentence, the right exit status, no traceback, nothing left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import objects
from tests.support.agent import userspace_proxy
from tests.support.service_node import ServiceNode

USAGE, FAILURE, NO_PRIVILEGE = 2, 1, 77

WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
HIDE_IPTABLES = """
for name in iptables-nft-save iptables-legacy-save; do
    mount --bind /dev/null "$(command -v $name)"
done
exec "$@"
"""
WITHOUT_IPTABLES = ("unshare", "--mount", "sh", "-ec", HIDE_IPTABLES, "sh")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    """A node with a Service of 30 ports to serve, and no agent."""
    with ServiceNode(tmp_path_factory.mktemp("node"), endpoints=0) as node:
        node.objects.apply(objects.service("wide", ports=[f"p{port}:{port}" for port in range(80, 110)]))
        yield node


def sentence_of(completed: subprocess.CompletedProcess[str]) -> str:
    """The one sentence that a command ended with, after what it may have logged."""
    *logged, sentence = completed.stderr.splitlines()
    assert all(" INFO " in line for line in logged), completed.stderr
    assert sentence.startswith("userspace-proxy: ")
    return sentence


def test_an_unreadable_kubeconfig(node: ServiceNode, tmp_path: Path) -> None:
    completed = userspace_proxy(node.node, "run", "--kubeconfig", str(tmp_path / "missing"))
    assert completed.returncode == USAGE
    assert f"--kubeconfig: {tmp_path}/missing cannot be read" in sentence_of(completed)


@pytest.mark.parametrize("content", ["{not: [yaml", "apiVersion: v1\nkind: Config\n", "", "just text"])
def test_a_kubeconfig_that_is_none(node: ServiceNode, tmp_path: Path, content: str) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(content)
    completed = userspace_proxy(node.node, "run", "--kubeconfig", str(kubeconfig))
    assert completed.returncode == USAGE
    assert str(kubeconfig) in sentence_of(completed)


def test_a_loopback_bind_address(node: ServiceNode) -> None:
    completed = userspace_proxy(node.node, "run", *node.agent.flags, "--bind-address", "127.0.0.1")
    assert completed.returncode == USAGE
    assert "--bind-address: 127.0.0.1 is a loopback address" in sentence_of(completed)


def test_no_such_directory_of_manifests(node: ServiceNode, tmp_path: Path) -> None:
    completed = userspace_proxy(node.node, "run", "--manifests", str(tmp_path / "missing"))
    assert completed.returncode == USAGE
    assert "--manifests" in sentence_of(completed)


@pytest.mark.parametrize("command", ["run", "cleanup"])
def test_missing_privileges(node: ServiceNode, command: str) -> None:
    flags = node.agent.flags if command == "run" else ()
    completed = userspace_proxy(node.node, command, *flags, prefix=WITHOUT_NET_ADMIN)
    assert completed.returncode == NO_PRIVILEGE
    assert "lacks CAP_NET_ADMIN" in sentence_of(completed)


def test_no_iptables(node: ServiceNode) -> None:
    completed = userspace_proxy(node.node, "run", *node.agent.flags, prefix=WITHOUT_IPTABLES)
    assert completed.returncode == FAILURE
    assert "install the package iptables" in sentence_of(completed)


@pytest.mark.parametrize(("limit", "status"), [(32, NO_PRIVILEGE), (512, NO_PRIVILEGE), (530, FAILURE)])
def test_too_few_descriptors_for_the_listeners(node: ServiceNode, limit: int, status: int) -> None:
    completed = userspace_proxy(node.node, "run", *node.agent.flags, prefix=("prlimit", f"--nofile={limit}"))
    assert completed.returncode == status
    sentence = sentence_of(completed)
    assert "listeners" in sentence
    assert str(limit) in sentence
    assert node.node.pids() == []
    assert not [rule for rule in node.rules() if "KUBE-PORTALS" in rule]


def test_too_few_proxy_ports_for_the_listeners(node: ServiceNode) -> None:
    completed = userspace_proxy(node.node, "run", *node.agent.flags, "--proxy-port-range", "12000-12030")
    assert completed.returncode == FAILURE
    assert sentence_of(completed).endswith(
        "30 TCP listeners are needed, but the proxy ports 12000-12030 have room for only 29: "
        "widen --proxy-port-range"
    )
    assert node.node.pids() == []


def test_an_address_that_the_node_does_not_have(node: ServiceNode) -> None:
    completed = userspace_proxy(node.node, "run", *node.agent.flags, "--bind-address", "203.0.113.5")
    assert completed.returncode == FAILURE
    assert "203.0.113.5" in sentence_of(completed)
