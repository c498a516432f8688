"""Nodes on paper that fall silent, their taints, and the pods on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.demo.controllers.simulation import START, merged, node, pod, struct
from userspace_proxy.demo.controllers.node_lifecycle import (
    LEASE_NAMESPACE,
    NOT_READY,
    UNREACHABLE,
    NodePatience,
    plan_node_lifecycle,
)
from userspace_proxy.demo.controllers.objects import Lease, Node, Pod
from userspace_proxy.demo.controllers.writes import Delete, Patch, Plan, Write

PATIENCE = NodePatience(grace_seconds=40, eviction_seconds=300)


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def plan(
    nodes: Sequence[Node],
    pods: Sequence[Pod] = (),
    at: float = 0,
    leases: Sequence[Lease] = (),
    watched_since: float = -3600,
) -> Plan:
    by_key = {(lease.metadata.namespace, lease.metadata.name): lease for lease in leases}
    return plan_node_lifecycle(nodes, by_key, pods, later(at), later(watched_since), PATIENCE)


def patched(item: Node, writes: Sequence[Write]) -> Node:
    """The node after its patches."""
    plain = msgspec.to_builtins(item)
    for write in writes:
        if isinstance(write, Patch) and write.resource.kind == "Node":
            plain = merged(plain, msgspec.json.decode(msgspec.json.encode(write.body)))
    converted: Node = struct(Node, plain)
    return converted


def settled(item: Node, at: float) -> Node:
    for _ in range(3):
        writes = plan([item], at=at).writes
        if not writes:
            return item
        item = patched(item, writes)
    raise AssertionError("still writing")


def taints(item: Node) -> set[tuple[str, str]]:
    return {(taint.key, taint.effect) for taint in item.spec.taints or ()}


def test_a_node_that_is_heard_of_is_left_alone_until_it_could_be_silent_for_too_long() -> None:
    looked = plan([node("n1")], [pod("a", node="n1")], at=30)
    assert not looked.writes
    assert looked.again_in_seconds == 10


def test_a_silent_node_is_unknown_and_tainted_until_it_is_heard_of_again() -> None:
    (write,) = [each for each in plan([node("n1")], at=40).writes if each.notice]
    assert isinstance(write, Patch)
    assert write.notice is not None
    assert write.notice.reason == "NodeNotReady"
    lost = settled(node("n1"), at=40)
    (condition,) = lost.status.conditions or []
    assert (condition.status, condition.reason) == ("Unknown", "NodeStatusUnknown")
    assert (condition.last_heartbeat_time, condition.last_transition_time) == (START, later(40))
    assert taints(lost) == {(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")}
    back = msgspec.structs.replace(lost, status=node("n1").status)
    assert taints(settled(back, at=0)) == set()


def test_a_lease_is_a_heartbeat_too() -> None:
    lease = struct(
        Lease,
        {
            "metadata": {"name": "n1", "namespace": LEASE_NAMESPACE},
            "spec": {"renewTime": later(35).isoformat()},
        },
    )
    looked = plan([node("n1")], at=60, leases=[lease])
    assert not looked.writes
    assert looked.again_in_seconds == 15


def test_heartbeats_from_before_anybody_listened_are_not_held_against_a_node() -> None:
    looked = plan([node("n1")], at=1000, watched_since=990)
    assert not looked.writes
    assert looked.again_in_seconds == 30


def test_a_node_that_never_reported_is_unknown_some_time_after_it_was_made() -> None:
    item = {"metadata": {"name": "n1", "creationTimestamp": START.isoformat()}}
    silent = struct(Node, item)
    assert not [write for write in plan([silent], at=39).writes if write.notice]
    (condition,) = settled(silent, at=40).status.conditions or []
    assert (condition.status, condition.reason) == ("Unknown", "NodeStatusNeverUpdated")


def test_a_node_that_says_that_it_is_not_ready_is_tainted_so() -> None:
    assert taints(settled(node("n1", is_ready=False), at=0)) == {
        (NOT_READY, "NoSchedule"),
        (NOT_READY, "NoExecute"),
    }


def test_a_cordoned_node_is_tainted_and_other_taints_stay() -> None:
    other = {"key": "mine", "effect": "NoSchedule"}
    cordoned = settled(node("n1", unschedulable=True, taints=[other]), at=0)
    assert taints(cordoned) == {("mine", "NoSchedule"), ("node.kubernetes.io/unschedulable", "NoSchedule")}
    uncordoned = msgspec.structs.replace(
        cordoned, spec=msgspec.structs.replace(cordoned.spec, unschedulable=None)
    )
    assert taints(settled(uncordoned, at=0)) == {("mine", "NoSchedule")}


def test_pods_on_a_node_that_is_not_ready_are_not_either() -> None:
    lost = settled(node("n1"), at=40)
    pods = [pod("ready", node="n1"), pod("unready", node="n1", is_ready=False), pod("elsewhere", node="n2")]
    (write,) = plan([lost], pods, at=40).writes
    assert isinstance(write, Patch)
    assert (write.metadata.name, write.subresource) == ("ready", "status")
    (condition,) = write.body["status"]["conditions"]
    assert (condition.type, condition.status, condition.reason) == ("Ready", "False", "NodeNotReady")
    assert condition.last_transition_time == later(40)


def test_a_pod_that_says_since_then_that_it_is_ready_is_believed() -> None:
    lost = settled(node("n1"), at=40)
    assert not plan([lost], [pod("a", node="n1", ready_since=later(40))], at=41).writes


def tolerating(key: str, **more: Any) -> list[Any]:
    return [{"key": key, "operator": "Exists", "effect": "NoExecute", **more}]


@pytest.mark.parametrize(
    ("tolerations", "kept_seconds"),
    [
        ([], 300),
        (tolerating(UNREACHABLE, tolerationSeconds=10), 10),
        (tolerating(UNREACHABLE, tolerationSeconds=0), 0),
        (tolerating(UNREACHABLE), None),
        (tolerating("other"), 300),
    ],
)
def test_pods_are_asked_to_end_when_their_patience_does(tolerations: Any, kept_seconds: float | None) -> None:
    lost = settled(node("n1"), at=40)
    stuck = pod("a", node="n1", is_ready=False, tolerations=tolerations)
    if kept_seconds is None:
        assert plan([lost], [stuck], at=1e6) == Plan([])
        return
    if kept_seconds:
        looked = plan([lost], [stuck], at=40)
        assert not looked.writes
        assert looked.again_in_seconds == kept_seconds
    (write,) = plan([lost], [stuck], at=40 + kept_seconds).writes
    assert isinstance(write, Delete)
    assert (write.metadata.name, write.grace_seconds) == ("a", None)
    assert not plan([lost], [pod("a", node="n1", is_ready=False, is_terminating=True)], at=1e6).writes


def test_a_taint_that_a_user_puts_on_ends_pods_at_once() -> None:
    tainted = node("n1", taints=[{"key": "mine", "value": "x", "effect": "NoExecute"}])
    pods = [pod("a", node="n1"), pod("b", node="n1", tolerations=[{"key": "mine", "operator": "Exists"}])]
    (write,) = plan([tainted], pods).writes
    assert isinstance(write, Delete)
    assert write.metadata.name == "a"
