"""What a status keeps of the one before."""

from __future__ import annotations

from tests.demo.kubelet.objects import Player, pod_json
from userspace_proxy.demo.kubelet.node_object import (
    Machine,
    NodeDescription,
    is_said,
    node_object,
    node_status,
)
from userspace_proxy.demo.kubelet.pod_spec import READY
from userspace_proxy.demo.kubelet.pod_status import pod_status, timestamp

NODE = NodeDescription("node-1", ["192.0.2.11", "2001:db8::11"], ["10.244.1.0/24", "fd00:10:244:1::/64"])


def test_condition_keeps_its_time_while_its_status_stays() -> None:
    player = Player(pod_json())
    first = player.status
    player.wait(10)
    assert pod_status(player.life, NODE.addresses, first, player.now)["conditions"] == first["conditions"]
    player.change(pod_json(metadata={"annotations": {READY: "false"}}))
    second = pod_status(player.life, NODE.addresses, first, player.now)
    times = {one["type"]: one["lastTransitionTime"] for one in second["conditions"]}
    assert times.pop("Ready") == times.pop("ContainersReady") == timestamp(player.now)
    assert set(times.values()) == {timestamp(player.now - 10)}


def test_condition_of_somebody_else_is_kept() -> None:
    theirs = {"type": "example.com/warm", "status": "True"}
    player = Player(pod_json())
    status = pod_status(player.life, NODE.addresses, {"conditions": [theirs]}, player.now)
    assert status["conditions"][-1] == theirs
    assert len(status["conditions"]) == 6


def test_node_says_where_it_is_and_that_it_is_ready() -> None:
    machine = Machine("6.1", "Debian", "amd64", 2, 2**30, "0.1.0")
    assert node_object(NODE, machine)["metadata"]["labels"]["kubernetes.io/arch"] == "amd64"
    assert node_object(NODE, machine)["spec"] == {
        "podCIDR": "10.244.1.0/24",
        "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"],
    }
    status = node_status(NODE, machine, "then", "now")
    assert status["addresses"][0] == {"type": "InternalIP", "address": "192.0.2.11"}
    assert status["addresses"][-1] == {"type": "Hostname", "address": "node-1"}
    ready = status["conditions"][-1]
    assert (ready["type"], ready["status"], ready["lastTransitionTime"]) == ("Ready", "True", "then")
    assert status["capacity"]["memory"] == "1048576Ki"
    later = node_status(NODE, machine, "then", "later")
    assert is_said(later, status)
    assert not is_said(status, {})
    unknown = {**status, "conditions": [{"type": "Ready", "status": "Unknown"}]}
    assert not is_said(status, unknown), "somebody thought that the node was lost"
