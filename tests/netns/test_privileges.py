"""What the agent may do is little, and what a worker may do is nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service_node import ServiceNode
from userspace_proxy.dataplane.privileges import Capability

KEPT = {*Capability} - {Capability.SYS_MODULE}

TRY = """
import ctypes, json, os, signal, socket, subprocess, sys
from userspace_proxy.dataplane.privileges import drop_privileges

secret, agent, worker, socket_folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[5] == "worker":
    drop_privileges()

def run(*command):
    if subprocess.run(command, capture_output=True).returncode:
        raise PermissionError(command[0])

def unshare(flags):
    if libc.unshare(flags):
        raise PermissionError("unshare")

attempts = {
    "add a rule (nft)": lambda: run("iptables-nft", "-A", "INPUT", "-j", "ACCEPT"),
    "flush rules (nft)": lambda: run("iptables-nft", "-t", "nat", "-F", "KUBE-PORTALS-HOST"),
    "add a rule (legacy)": lambda: run("iptables-legacy", "-A", "INPUT", "-j", "ACCEPT"),
    "add an address": lambda: run("ip", "address", "add", "192.0.2.99/32", "dev", "lo"),
    "open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP),
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "bind a low port": lambda: socket.create_server(("0.0.0.0", 81)),
    "have the privileged socket options": lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 36, 1),
    "enter a network namespace": lambda: unshare(0x40000000),
    "read the kubeconfig": lambda: open(secret).read(),
    "signal the agent": lambda: os.kill(agent, 0),
    "look into the agent": lambda: open(f"/proc/{agent}/mem", "rb"),
    "see the agent's environment": lambda: open(f"/proc/{agent}/environ", "rb").read(),
    "reach the workers' sockets": lambda: os.listdir(socket_folder),
    "become root again": lambda: os.setuid(0),
    "have a group back": lambda: os.setgroups([0]),
}
outcomes = {}
for name, attempt in attempts.items():
    try:
        attempt()
        outcomes[name] = "done"
    except OSError as error:
        outcomes[name] = type(error).__name__
print(json.dumps(outcomes))
"""
"""Each ends with what came of it; `worker` gives up what a worker gives up first."""

OF_USERS = {
    "read the kubeconfig",
    "signal the agent",
    "look into the agent",
    "see the agent's environment",
    "reach the workers' sockets",
    "become root again",
}
"""Refused because a worker is another user, which takes a second one."""


def has_other_users() -> bool:
    return sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines()) > 1


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node")) as node:
        node.agent.start()
        yield node


def outcomes(node: ServiceNode, secret: Path, who: str) -> dict[str, str]:
    worker = node.agent.worker_pids[0]
    command = (sys.executable, "-c", TRY, secret, node.agent.pid, worker, "/run/userspace-proxy", who)
    answer: dict[str, str] = json.loads(node.node.run(*map(str, command)).stdout)
    return answer


def test_a_worker_can_change_nothing_and_read_no_secret(node: ServiceNode, tmp_path: Path) -> None:
    secret = tmp_path / "kubeconfig"
    secret.touch(0o600)
    for folder in (secret, *secret.parents):  # it is the file's own mode that protects it
        if folder.stat().st_uid == os.geteuid() and folder.is_dir():
            folder.chmod(folder.stat().st_mode | 0o111)
    node.serve("greet")
    rules = node.rules()
    tried = outcomes(node, secret, "worker")
    possible = {name for name, outcome in tried.items() if outcome == "done"}
    assert possible == set() if has_other_users() else possible <= OF_USERS
    assert node.rules() == rules


def test_one_with_privileges_could_do_most_of_that(node: ServiceNode, tmp_path: Path) -> None:
    """So the attempts above are real ones."""
    secret = tmp_path / "kubeconfig"
    secret.touch(0o600)
    tried = outcomes(node, secret, "root")
    done = {name for name, outcome in tried.items() if outcome == "done"}
    assert done >= {"add a rule (nft)", "open a raw socket", "read the kubeconfig", "signal the agent"}
    assert done >= {"reach the workers' sockets", "add an address", "look into the agent"}


def test_the_agent_and_what_it_starts_keep_a_few_capabilities(node: ServiceNode) -> None:
    allowed = sum(1 << capability for capability in KEPT)
    threads = list(Path(f"/proc/{node.agent.pid}/task").iterdir())
    assert len(threads) > 1
    for thread in threads:
        status = dict(
            line.split(":\t", 1) for line in (thread / "status").read_text().splitlines() if ":\t" in line
        )
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == int(status["CapBnd"], 16) == allowed
        assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
