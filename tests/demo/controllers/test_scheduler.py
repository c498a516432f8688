"""Which node each pod gets, and why some get none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tests.demo.controllers.simulation import START, node, pod
from userspace_proxy.demo.controllers.objects import Pod, PodStatus, Taint, Toleration
from userspace_proxy.demo.controllers.scheduler import is_tolerated, plan_scheduling
from userspace_proxy.demo.controllers.writes import Patch, Plan, Post

NODES = [node("n1", labels={"disk": "ssd"}), node("n2"), node("n3")]


def owned(name: str, owner: str, *, on: str | None = None) -> Pod:
    reference = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": owner,
        "uid": owner,
        "controller": True,
    }
    return pod(name, node=on, metadata={"ownerReferences": [reference]})


def bindings(plan: Plan) -> dict[str, str]:
    return {
        write.metadata.name: write.body["target"]["name"] for write in plan.writes if isinstance(write, Post)
    }


def test_pods_go_where_fewest_are() -> None:
    there = [
        pod("a", node="n1"),
        pod("b", node="n1"),
        pod("c", node="n2"),
        pod("d", node="n3", phase="Succeeded"),
    ]
    waiting = [pod(f"w{number}", node=None) for number in range(4)]
    assert Counter(bindings(plan_scheduling([*there, *waiting], NODES, START)).values()) == {
        "n3": 2,
        "n2": 1,
        "n1": 1,
    }


def test_pods_of_one_owner_are_spread_first() -> None:
    there = [owned("web-1", "web", on="n1"), pod("a", node="n2"), pod("b", node="n3")]
    waiting = [owned("web-2", "web"), owned("web-3", "web")]
    assert set(bindings(plan_scheduling([*there, *waiting], NODES, START)).values()) == {"n2", "n3"}


def test_what_is_posted_is_a_binding() -> None:
    (write,) = plan_scheduling([pod("web", node=None)], [node("n1")], START).writes
    assert isinstance(write, Post)
    assert (write.subresource, write.body["kind"]) == ("binding", "Binding")
    assert write.body["target"] == {"apiVersion": "v1", "kind": "Node", "name": "n1"}
    assert write.notice is not None
    assert write.notice.message == "Successfully assigned default/web to n1"


@pytest.mark.parametrize(
    "left_alone",
    [
        pod("bound", node="n9"),
        pod("going", node=None, is_terminating=True),
        pod("done", node=None, phase="Failed"),
        pod("gated", node=None, schedulingGates=[{"name": "wait"}]),
        pod("other", node=None, schedulerName="mine"),
    ],
    ids=lambda left_alone: left_alone.metadata.name,
)
def test_some_pods_wait_for_nobody(left_alone: Pod) -> None:
    assert not plan_scheduling([left_alone], NODES, START).writes


def test_a_node_selector_is_honoured() -> None:
    plan = plan_scheduling([pod("a", node=None, nodeSelector={"disk": "ssd"})], NODES, START)
    assert bindings(plan) == {"a": "n1"}


@pytest.mark.parametrize(
    ("nodes", "spec", "message"),
    [
        ([], {}, "no nodes available"),
        (
            [node("n1", unschedulable=True), node("n2", is_ready=False)],
            {},
            "0/2 nodes are available: 1 node(s) were not ready, 1 node(s) were unschedulable.",
        ),
        (
            NODES,
            {"nodeSelector": {"disk": "tape"}},
            "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
        ),
        (
            [node("n1", taints=[{"key": "for", "value": "gpu", "effect": "NoSchedule"}])],
            {},
            "0/1 nodes are available: 1 node(s) had untolerated taint {for: gpu}.",
        ),
    ],
)
def test_why_no_node_can_have_a_pod_is_said_once(nodes: Sequence[Any], spec: Any, message: str) -> None:
    (write,) = plan_scheduling([pod("a", node=None, **spec)], nodes, START).writes
    assert isinstance(write, Patch)
    assert write.notice is not None
    assert (write.notice.reason, write.notice.message) == ("FailedScheduling", message)
    told = msgspec.structs.replace(
        pod("a", node=None, **spec), status=PodStatus(conditions=write.body["status"]["conditions"])
    )
    assert not plan_scheduling([told], nodes, START).writes


@pytest.mark.parametrize(("allocatable", "bound"), [({"pods": "2"}, 1), ({"pods": "many"}, 3), (None, 3)])
def test_a_node_has_no_more_pods_than_it_may(allocatable: dict[str, str] | None, bound: int) -> None:
    one = node("n1")
    full = msgspec.structs.replace(one, status=msgspec.structs.replace(one.status, allocatable=allocatable))
    pods = [pod("there", node="n1"), *(pod(f"w{number}", node=None) for number in range(3))]
    plan = plan_scheduling(pods, [full], START)
    assert len(bindings(plan)) == bound
    said = [write.notice.message for write in plan.writes if isinstance(write, Patch) and write.notice]
    assert said == ["0/1 nodes are available: 1 Too many pods."] * (3 - bound)


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        (Toleration("k", "Equal", "v", "NoSchedule"), True),
        (Toleration("k", None, "v"), True),
        (Toleration("k", "Exists"), True),
        (Toleration(operator="Exists"), True),
        (Toleration("k", "Equal", "w"), False),
        (Toleration("other", "Exists"), False),
        (Toleration("k", "Exists", effect="NoExecute"), False),
    ],
)
def test_tolerations(toleration: Toleration, expected: bool) -> None:
    assert is_tolerated(Taint("k", "NoSchedule", "v"), [toleration]) is expected


def test_a_cordoned_node_takes_who_tolerates_that() -> None:
    tolerations = [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]
    plan = plan_scheduling(
        [pod("a", node=None, tolerations=tolerations)], [node("n1", unschedulable=True)], START
    )
    assert bindings(plan) == {"a": "n1"}
