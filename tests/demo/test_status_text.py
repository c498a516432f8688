"""What a demo cluster says of itself in a terminal."""

from __future__ import annotations

from typing import Any

import msgspec

from userspace_proxy.demo.control import ClusterStatus, NodeStatus, PodStatus
from userspace_proxy.demo.status_text import greeting, status_text

NODE = NodeStatus("node-1", "zone-a", ("192.0.2.11",), ("10.244.1.0/24",), 86, True, 0, "/s/logs/node-1.log")
POD = PodStatus("default", "client", "node-1", ("10.244.1.2",), "Running", True)


def status(**changed: Any) -> ClusterStatus:
    made = ClusterStatus(
        kubeconfig="/s/kubeconfig",
        server="https://127.0.0.1:4711",
        nodes=(NODE,),
        pods=(POD,),
        processes=17,
        memory_bytes=226 * 2**20,
        up_seconds=3723.4,
        logs="/s/logs",
        problems=(),
    )
    return msgspec.structs.replace(made, **changed)


def test_a_greeting_says_what_to_try() -> None:
    assert greeting(status(), ["this kernel has no IPv6"], 2.91) == (
        "A cluster of 1 node and 1 pod is up after 2.9 s; it takes 226 MiB in 17 processes.\n"
        "But this kernel has no IPv6.\n"
        "\n"
        "Try:\n"
        "  export KUBECONFIG=/s/kubeconfig\n"
        "  kubectl get pods,services -A -o wide\n"
        "  userspace-proxy demo exec client -- curl -s http://web\n"
        "  userspace-proxy demo shell node-1\n"
        "  userspace-proxy demo status\n"
        "  userspace-proxy demo down"
    )
    assert "exec client" not in greeting(status(pods=()), [], 1)


def test_the_status_is_two_tables_and_what_else_there_is_to_know() -> None:
    assert status_text(status(problems=("no IPv6",))) == (
        "NODE    ZONE    ADDRESSES   PODS' NETWORKS  AGENT   PID  RESTARTS\n"
        "node-1  zone-a  192.0.2.11  10.244.1.0/24   serves  86   0\n"
        "\n"
        "POD             NODE    ADDRESSES   STATE\n"
        "default/client  node-1  10.244.1.2  Running\n"
        "\n"
        "kubeconfig  /s/kubeconfig\n"
        "API server  https://127.0.0.1:4711\n"
        "logs        /s/logs\n"
        "memory      226 MiB in 17 processes\n"
        "up for      1 h 2 min\n"
        "without     no IPv6"
    )


def test_what_is_not_as_it_should_be_is_said() -> None:
    silent = msgspec.structs.replace(NODE, zone="", agent_pid=None, agent_is_serving=False, agent_restarts=3)
    waiting = msgspec.structs.replace(POD, node="", addresses=(), state="Pending", is_ready=False)
    unready = msgspec.structs.replace(POD, is_ready=False)
    lines = status_text(status(nodes=(silent,), pods=(waiting, unready), up_seconds=61)).splitlines()
    assert lines[1].split() == [
        *("node-1", "-", "192.0.2.11", "10.244.1.0/24", "does", "not", "serve", "-", "3"),
    ]
    assert lines[4].split() == ["default/client", "-", "-", "Pending"]
    assert lines[5].endswith("Running, not ready")
    assert lines[-1] == "up for      1 min 1 s"
    assert "There are no pods." in status_text(status(pods=(), up_seconds=1))


def test_programs_read_it_as_kubernetes_spells_things() -> None:
    read = msgspec.json.decode(msgspec.json.encode(status()))
    assert read["kubeconfig"] == "/s/kubeconfig"
    assert read["nodes"][0]["podCIDRs"] == ["10.244.1.0/24"]
    assert read["pods"][0]["isReady"] is True
