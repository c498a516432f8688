"""Deployments on paper: what is made and what is ended, in what order, and what the status says of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.demo.controllers.simulation import START, Simulation, deployment, struct
from userspace_proxy.demo.controllers.deployments import (
    MOST_MADE_AT_ONCE,
    REVISION,
    TEMPLATE_HASH,
    Limits,
    is_available,
    limits_of,
    plan_deployment,
    plan_deployments,
)
from userspace_proxy.demo.controllers.names import content_hash
from userspace_proxy.demo.controllers.objects import Deployment, condition_of
from userspace_proxy.demo.controllers.writes import Create, Delete


def settle(simulation: Simulation, rounds: int = 20) -> float | None:
    """Plan and write until there is nothing left to do; returns in how many seconds there will be."""
    for _ in range(rounds):
        plan = plan_deployments(
            [simulation.deployment], simulation.pod_structs, simulation.now, simulation.chance
        )
        if not plan.writes:
            return plan.again_in_seconds
        simulation.apply(plan.writes)
    raise AssertionError(f"still writing after {rounds} rounds: {plan.writes}")


def make_all_ready(simulation: Simulation) -> None:
    for pod in simulation.active:
        if not pod.is_ready:
            simulation.set_ready(pod.metadata.name)


def end_all_terminating(simulation: Simulation) -> None:
    for pod in simulation.pod_structs:
        if pod.is_terminating:
            simulation.end(pod.metadata.name)


def roll_out(simulation: Simulation, rounds: int = 50) -> None:
    """Everything comes up and goes down as it should, until nothing changes any more."""
    for _ in range(rounds):
        settle(simulation)
        before = {name: str(item) for name, item in simulation.pods.items()}
        make_all_ready(simulation)
        end_all_terminating(simulation)
        simulation.wait(simulation.deployment.spec.min_ready_seconds or 0)
        settle(simulation)
        if before == {name: str(item) for name, item in simulation.pods.items()}:
            return
    raise AssertionError("the rollout does not end")


def images(simulation: Simulation) -> list[str]:
    return sorted(
        item["spec"]["containers"][0]["image"]
        for item in simulation.pods.values()
        if "deletionTimestamp" not in item["metadata"]
    )


def progressing(simulation: Simulation) -> tuple[str, str | None]:
    condition = condition_of(simulation.deployment.status.conditions, "Progressing")
    assert condition is not None
    return condition.status, condition.reason


def test_pods_are_of_the_template_and_owned() -> None:
    simulation = Simulation(deployment(replicas=2))
    settle(simulation)
    first, second = simulation.pods.values()
    hash_ = content_hash(simulation.item["spec"]["template"])
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert first["metadata"]["name"].startswith(f"web-{hash_}-")
    assert first["metadata"]["labels"] == {"app": "web", "pod-template-hash": hash_}
    assert first["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": "web",
            "uid": "uid-web",
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    assert first["spec"] == {"containers": [{"name": "main", "image": "one"}]}
    assert simulation.said == [f"Created pod: {item['metadata']['name']}" for item in (first, second)]


def test_a_pod_that_ends_is_replaced() -> None:
    simulation = Simulation(deployment())
    roll_out(simulation)
    gone, failed, *_ = simulation.pods
    simulation.end(gone)
    simulation.pods[failed]["status"]["phase"] = "Failed"
    roll_out(simulation)
    assert len(simulation.pods) == 3
    assert not {gone, failed} & simulation.pods.keys()


def test_scaling_down_ends_those_that_are_missed_least() -> None:
    simulation = Simulation(deployment(replicas=4))
    settle(simulation)
    alone, crowded, crowded_too, unready = simulation.pods
    for name in (alone, crowded, crowded_too):
        simulation.set_ready(name)
    for name, node in ((alone, "n1"), (crowded, "n2"), (crowded_too, "n2"), (unready, "n3")):
        simulation.pods[name]["spec"]["nodeName"] = node
    simulation.change(replicas=2)
    settle(simulation)
    doomed = {pod.metadata.name for pod in simulation.pod_structs if pod.is_terminating}
    assert unready in doomed
    assert doomed - {unready} < {crowded, crowded_too}


@pytest.mark.parametrize(
    ("strategy", "replicas", "limits"),
    [
        (None, 4, Limits(5, 3)),
        ({"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}, 3, Limits(4, 3)),
        ({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}, 3, Limits(3, 2)),
        ({"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 5}}, 3, Limits(6, 0)),
        ({"rollingUpdate": {"maxSurge": "many", "maxUnavailable": 0}}, 4, Limits(5, 4)),
        ({"rollingUpdate": {"maxSurge": f"{'9' * 5000}%", "maxUnavailable": -1}}, 4, Limits(5, 4)),
        ({"type": "Recreate"}, 4, Limits(4, 4)),
    ],
)
def test_limits_of_a_rolling_update(strategy: Any, replicas: int, limits: Limits) -> None:
    assert limits_of(struct(Deployment, deployment(replicas=replicas, strategy=strategy))) == limits


def test_a_rolling_update_waits_for_each_new_pod() -> None:
    simulation = Simulation(
        deployment(strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}, minReadySeconds=5)
    )
    roll_out(simulation)
    simulation.use_image("two")
    settle(simulation)
    assert images(simulation) == ["one", "one", "one", "two"]
    make_all_ready(simulation)
    assert settle(simulation) == 5.0
    assert images(simulation) == ["one", "one", "one", "two"]
    simulation.wait(5)
    settle(simulation)
    assert images(simulation) == ["one", "one", "two", "two"]
    roll_out(simulation)
    assert images(simulation) == ["two"] * 3
    assert simulation.deployment.metadata.annotations is not None
    assert simulation.deployment.metadata.annotations[REVISION] == "2"


@pytest.mark.parametrize(("revision", "following"), [("41", "42"), ("none", "1"), ("9" * 5000, "1")])
def test_the_revision_is_counted_on_from_whatever_it_was(revision: str, following: str) -> None:
    simulation = Simulation(deployment())
    simulation.item["metadata"]["annotations"] = {REVISION: revision}
    settle(simulation)
    assert simulation.item["metadata"]["annotations"][REVISION] == following


def test_recreate_ends_all_before_it_makes_any() -> None:
    simulation = Simulation(deployment(strategy={"type": "Recreate"}))
    roll_out(simulation)
    simulation.use_image("two")
    settle(simulation)
    assert images(simulation) == []
    assert len(simulation.pods) == 3
    end_all_terminating(simulation)
    settle(simulation)
    assert images(simulation) == ["two"] * 3


def test_going_back_to_an_earlier_template_keeps_its_pods() -> None:
    simulation = Simulation(deployment())
    roll_out(simulation)
    kept = set(simulation.pods)
    simulation.use_image("two")
    settle(simulation)
    simulation.use_image("one")
    roll_out(simulation)
    assert set(simulation.pods) == kept


def test_what_is_paused_scales_but_does_not_roll_out() -> None:
    simulation = Simulation(deployment())
    roll_out(simulation)
    simulation.change(paused=True)
    simulation.use_image("two")
    simulation.change(replicas=2)
    roll_out(simulation)
    assert images(simulation) == ["one"] * 2
    assert progressing(simulation) == ("Unknown", "DeploymentPaused")
    simulation.change(paused=False)
    roll_out(simulation)
    assert images(simulation) == ["two"] * 2


def test_a_pod_whose_labels_are_changed_is_let_go_and_replaced() -> None:
    simulation = Simulation(deployment(replicas=1))
    roll_out(simulation)
    (name,) = simulation.pods
    simulation.pods[name]["metadata"]["labels"]["app"] = "debugged"
    settle(simulation)
    assert "ownerReferences" not in simulation.pods[name]["metadata"]
    assert len(simulation.active) == 2


def test_a_selector_that_does_not_match_the_template_makes_nothing() -> None:
    simulation = Simulation(deployment(selector={"matchLabels": {"app": "other"}}))
    plan = plan_deployment(simulation.deployment, [], START, simulation.chance)
    simulation.apply(plan.writes)
    assert not simulation.pods
    assert simulation.said == ["the selector does not match the labels of the template: no pod can be made"]


def test_however_many_are_wanted_a_plan_makes_some_at_a_time() -> None:
    simulation = Simulation(deployment(replicas=2**31 - 1))
    for _ in range(3):  # the first one annotates the revision
        plan = plan_deployment(simulation.deployment, simulation.pod_structs, START, simulation.chance)
        simulation.apply(plan.writes)
    assert len(simulation.pods) == 2 * MOST_MADE_AT_ONCE


def test_a_deployment_that_is_deleted_makes_nothing() -> None:
    simulation = Simulation(deployment())
    simulation.item["metadata"]["deletionTimestamp"] = START.isoformat()
    assert not plan_deployment(simulation.deployment, [], START, simulation.chance).writes


def test_each_deployment_has_its_own_pods() -> None:
    one, other = Simulation(deployment("one")), Simulation(deployment("other"))
    for simulation in (one, other):
        roll_out(simulation)
    pods = [*one.pod_structs, *other.pod_structs]
    assert not plan_deployments([one.deployment, other.deployment], pods, START, one.chance).writes


# The status.


def test_the_status_counts_and_tells_of_progress() -> None:
    simulation = Simulation(deployment())
    settle(simulation)
    status = simulation.deployment.status
    assert (status.replicas, status.updated_replicas, status.ready_replicas) == (3, 3, None)
    assert (status.available_replicas, status.unavailable_replicas) == (None, 3)
    assert progressing(simulation) == ("True", "ReplicaSetUpdated")
    available = condition_of(status.conditions, "Available")
    assert available is not None
    assert (available.status, available.reason) == ("False", "MinimumReplicasUnavailable")
    roll_out(simulation)
    status = simulation.deployment.status
    assert (status.ready_replicas, status.available_replicas, status.unavailable_replicas) == (3, 3, None)
    assert status.observed_generation == simulation.deployment.metadata.generation
    assert progressing(simulation) == ("True", "NewReplicaSetAvailable")


def test_progress_that_does_not_come_is_said_in_time() -> None:
    simulation = Simulation(deployment(progressDeadlineSeconds=60))
    assert settle(simulation) == 60.0
    simulation.wait(59)
    assert settle(simulation) == 1.0
    assert progressing(simulation) == ("True", "ReplicaSetUpdated")
    simulation.wait(1)
    settle(simulation)
    assert progressing(simulation) == ("False", "ProgressDeadlineExceeded")
    roll_out(simulation)
    assert progressing(simulation) == ("True", "NewReplicaSetAvailable")


def test_a_pod_that_fails_after_the_rollout_is_no_rollout() -> None:
    simulation = Simulation(deployment(progressDeadlineSeconds=60))
    roll_out(simulation)
    simulation.set_ready(next(iter(simulation.pods)), is_ready=False)
    assert settle(simulation) is None
    assert progressing(simulation) == ("True", "NewReplicaSetAvailable")
    simulation.use_image("two")
    settle(simulation)
    assert progressing(simulation) == ("True", "ReplicaSetUpdated")


# What is promised, whatever happens.

ACTIONS = st.one_of(
    st.tuples(st.just("image"), st.sampled_from(["one", "two", "three"])),
    st.tuples(st.just("scale"), st.integers(0, 6)),
    st.tuples(st.just("ready"), st.integers(0, 20)),
    st.tuples(st.just("unready"), st.integers(0, 20)),
    st.tuples(st.just("end"), st.integers(0, 20)),
    st.tuples(st.just("wait"), st.integers(0, 10)),
)
NUMBERS = st.one_of(st.integers(0, 3), st.sampled_from(["0%", "25%", "50%", "100%"]))


def act(simulation: Simulation, action: str, argument: Any) -> None:
    if action == "image":
        simulation.use_image(argument)
    elif action == "scale":
        simulation.change(replicas=argument)
    elif action == "wait":
        simulation.wait(argument)
    elif simulation.pods:
        name = sorted(simulation.pods)[argument % len(simulation.pods)]
        if action == "end" and "deletionTimestamp" in simulation.pods[name]["metadata"]:
            simulation.end(name)
        elif action in ("ready", "unready"):
            simulation.set_ready(name, action == "ready")


def reserve(simulation: Simulation) -> int:
    """The pods that are available, and those of earlier templates, which may be so again."""
    object_ = simulation.deployment
    hash_ = content_hash(object_.spec.template)
    return sum(
        is_available(pod, object_, simulation.now) or (pod.metadata.labels or {})[TEMPLATE_HASH] != hash_
        for pod in simulation.active
    )


@given(
    surge=NUMBERS,
    unavailable=NUMBERS,
    min_ready_seconds=st.integers(0, 5),
    actions=st.lists(ACTIONS, max_size=30),
)
def test_never_fewer_available_nor_more_in_all_than_promised_and_it_ends_well(
    surge: int | str, unavailable: int | str, min_ready_seconds: int, actions: list[tuple[str, Any]]
) -> None:
    simulation = Simulation(
        deployment(
            strategy={"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            minReadySeconds=min_ready_seconds,
        )
    )
    for action, argument in actions:
        act(simulation, action, argument)
        object_, limits = simulation.deployment, limits_of(simulation.deployment)
        active = simulation.active
        available = sum(is_available(pod, object_, simulation.now) for pod in active)
        in_reserve = reserve(simulation)
        plan = plan_deployment(object_, simulation.pod_structs, simulation.now, simulation.chance)
        simulation.apply(plan.writes)
        still = sum(is_available(pod, object_, simulation.now) for pod in simulation.active)
        assert still >= min(available, limits.fewest_available)
        if any(isinstance(write, Create) for write in plan.writes):
            assert len(simulation.active) <= limits.most
        if any(isinstance(write, Delete) for write in plan.writes):
            assert reserve(simulation) >= min(in_reserve, limits.fewest_available)
    roll_out(simulation)
    wanted = simulation.item["spec"]["template"]["spec"]["containers"][0]["image"]
    assert images(simulation) == [wanted] * simulation.item["spec"]["replicas"]
    assert progressing(simulation) == ("True", "NewReplicaSetAvailable")
