"""Playbooks: what happens to a pod, what is done about it, and what its status says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.demo.kubelet.objects import START, Player, pod_json
from userspace_proxy.demo.kubelet.commands import (
    AddSandbox,
    Command,
    ProbeKind,
    RecordEvent,
    RemoveSandbox,
    SetInbound,
    StartContainer,
)
from userspace_proxy.demo.kubelet.container_life import FORGIVEN_AFTER_SECONDS
from userspace_proxy.demo.kubelet.pod_life import PodLife, Sandbox
from userspace_proxy.demo.kubelet.pod_spec import BLACK_HOLE, KILL, READY, REFUSE, Inbound, read_pod

DELETED = {"deletionTimestamp": "2027-01-15T08:00:30Z", "deletionGracePeriodSeconds": 30}
TCP = {"tcpSocket": {"port": 8080}}
COMMAND = {"name": "web", "command": ["nginx"]}


def life_of(json: dict[str, Any]) -> PodLife:
    return PodLife(read_pod(json), [], START)


def without_events(commands: list[Command]) -> list[Command]:
    return [command for command in commands if not isinstance(command, RecordEvent)]


def test_sandbox_comes_before_containers() -> None:
    life = life_of(pod_json({"name": "a"}, {"name": "b"}))
    assert life.begin(START) == [AddSandbox()]
    assert life.waited(START + 1) == []
    assert life.sandbox_added(["10.244.1.2"], START + 1) == [StartContainer("a", 0), StartContainer("b", 0)]


def test_plain_pod_is_ready_once_it_runs() -> None:
    player = Player(pod_json())
    assert player.done == ["add sandbox", "start web 0"]
    assert player.events == ["Started: Started container web"]
    status = player.status
    assert status["phase"] == "Running"
    assert (status["podIP"], status["hostIP"]) == ("10.244.1.2", "192.0.2.11")
    assert status["podIPs"] == [{"ip": "10.244.1.2"}, {"ip": "fd00:10:244:1::2"}]
    assert set(player.conditions.values()) == {"True"}
    assert player.container()["ready"] and player.container()["started"]


def test_init_containers_run_one_after_the_other() -> None:
    player = Player(pod_json(initContainers=[{"name": "first"}, {"name": "second"}]))
    assert player.done == ["add sandbox", "start first 0"]
    assert player.status["phase"] == "Pending"
    assert player.conditions["Initialized"] == "False"
    assert player.container()["state"] == {"waiting": {"reason": "PodInitializing"}}
    player.exit("first", 0)
    player.exit("second", 0)
    assert player.done[1:] == ["start first 0", "start second 0", "start web 0"]
    assert player.status["phase"] == "Running"
    assert [one["ready"] for one in player.status["initContainerStatuses"]] == [True, True]


def test_init_container_that_fails_is_tried_again_or_fails_the_pod() -> None:
    player = Player(pod_json(initContainers=[{"name": "first"}]))
    player.exit("first", 1)
    assert player.done[-1] == "start first 1"
    never = Player(pod_json(initContainers=[{"name": "first"}], restartPolicy="Never"))
    never.exit("first", 1)
    assert never.status["phase"] == "Failed"
    assert never.done[-1] == "remove sandbox"


def test_sidecar_starts_in_its_turn_and_stays_until_the_others_have_ended() -> None:
    sidecar = {"name": "proxy", "restartPolicy": "Always", "startupProbe": {**TCP, "periodSeconds": 1}}
    inits = [{"name": "first"}, sidecar, {"name": "second"}]
    player = Player(pod_json(initContainers=inits, restartPolicy="Never"))
    player.exit("first", 0)
    player.wait(1)
    player.exit("proxy", 1)
    player.exit("second", 0)
    player.wait(1)
    assert [done for done in player.done if done.startswith("start ")] == [
        "start first 0",
        "start proxy 0",
        "start second 0",
        "start proxy 1",
        "start web 0",
    ]
    player.wait(1)
    assert set(player.conditions.values()) == {"True"}
    player.exit("proxy", 1)
    assert player.conditions["Initialized"] == "True"
    assert player.conditions["Ready"] == "False"
    player.wait(10)
    player.exit("web", 0)
    assert player.done[-2:] == ["signal proxy 15", "remove sandbox"]
    assert player.status["phase"] == "Succeeded"


def test_container_that_crashes_is_restarted_at_longer_and_longer_intervals() -> None:
    player = Player(pod_json())
    player.wait(5)
    starts = [START]
    for _ in range(8):
        player.exit("web", 1)
        before = player.now
        while not player.life.containers[0].is_alive:
            player.wait(1)
        starts.append(player.now - before)
    assert starts[1:] == [0, 10, 20, 40, 80, 160, 300, 300]
    assert player.container()["restartCount"] == 8


def test_waiting_for_a_restart_says_so() -> None:
    player = Player(pod_json())
    player.wait(5)
    player.exit("web", 1)
    assert player.container()["restartCount"] == 1
    assert player.container()["lastState"]["terminated"]["exitCode"] == 1
    player.exit("web", -9)
    status = player.container()
    assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    ended = status["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "Error")
    assert status["restartCount"] == 1
    assert player.status["phase"] == "Running"
    assert player.conditions["Ready"] == "False"
    assert player.events[-1] == "BackOff: Back-off restarting failed container web"
    player.wait(10)
    assert player.container()["restartCount"] == 2


def test_container_that_ran_for_long_is_restarted_at_once_again() -> None:
    player = Player(pod_json())
    for _ in range(3):
        player.exit("web", 1)
        player.wait(60)
    player.wait(FORGIVEN_AFTER_SECONDS)
    player.exit("web", 1)
    assert player.done[-1] == "start web 4"
    assert "running" in player.container()["state"]


@pytest.mark.parametrize(
    ("policy", "exit_status", "phase"),
    [
        ("Never", 0, "Succeeded"),
        ("Never", 3, "Failed"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 3, "Running"),
        ("Always", 0, "Running"),
    ],
)
def test_policy_says_whether_a_container_that_ended_is_restarted(
    policy: str, exit_status: int, phase: str
) -> None:
    player = Player(pod_json(restartPolicy=policy))
    player.exit("web", exit_status)
    assert player.status["phase"] == phase
    assert (player.done[-1] == "remove sandbox") is (phase != "Running")
    if phase != "Running":
        assert player.conditions["Ready"] == "False"
        reason = "Completed" if exit_status == 0 else "Error"
        assert player.container()["state"]["terminated"]["reason"] == reason
        assert player.status["podIP"] == "10.244.1.2"


def test_program_that_is_missing_is_a_failed_start_that_is_tried_again() -> None:
    life = life_of(pod_json())
    life.begin(START)
    life.sandbox_added(["10.244.1.2"], START)
    commands = life.container_not_started("web", 'exec: "ngimx": no such program', START)
    assert commands[0] == RecordEvent("Failed", 'Error: exec: "ngimx": no such program', True)
    assert commands[1:] == [StartContainer("web", 1)]
    life.container_not_started("web", 'exec: "ngimx": no such program', START)
    assert life.due_at == START + 10


def test_readiness_probe_decides_about_ready() -> None:
    probe = {**TCP, "periodSeconds": 2, "failureThreshold": 2}
    player = Player(pod_json({**COMMAND, "readinessProbe": probe}))
    assert player.conditions["Ready"] == "False"
    assert player.status["conditions"][2]["message"] == "containers with unready status: [web]"
    player.wait(1)
    assert player.conditions["Ready"] == "True"
    player.failing = {ProbeKind.READINESS}
    player.wait(2)
    assert player.conditions["Ready"] == "True", "once is not enough"
    player.wait(2)
    assert player.conditions["Ready"] == "False"
    assert player.events[-1] == "Unhealthy: Readiness probe failed: refused"
    player.failing = set()
    player.wait(2)
    assert player.conditions["Ready"] == "True"
    assert player.container()["restartCount"] == 0


def test_built_in_server_is_probed_at_once() -> None:
    player = Player(pod_json({"name": "web", "readinessProbe": TCP}))
    assert player.done == ["add sandbox", "start web 0", "readiness web"]
    assert player.conditions["Ready"] == "True"


def test_liveness_probe_has_a_container_restarted() -> None:
    probe = {**TCP, "periodSeconds": 1, "initialDelaySeconds": 5}
    player = Player(pod_json({"name": "web", "livenessProbe": probe}), failing=[ProbeKind.LIVENESS])
    player.wait(4.9)
    assert "liveness web" not in player.done
    player.wait(2.2)
    assert player.done[-4:] == ["liveness web", "liveness web", "signal web 15", "start web 1"]
    assert "Killing: Container web failed liveness probe, will be restarted" in player.events


def test_startup_probe_holds_the_others_back() -> None:
    probes = {f"{kind}Probe": {**TCP, "periodSeconds": 1} for kind in ("startup", "liveness", "readiness")}
    player = Player(pod_json({**COMMAND, **probes}), failing=[ProbeKind.STARTUP])
    player.wait(2)
    assert set(player.done[2:]) == {"startup web"}
    assert not player.container()["started"]
    player.failing = set()
    player.wait(1)
    assert player.container()["started"]
    player.done.clear()
    player.wait(1)
    assert set(player.done) == {"liveness web", "readiness web"}
    assert player.conditions["Ready"] == "True"


def test_startup_probe_that_keeps_failing_has_the_container_restarted() -> None:
    probe = {**TCP, "periodSeconds": 1, "failureThreshold": 2}
    player = Player(pod_json({**COMMAND, "startupProbe": probe}), failing=[ProbeKind.STARTUP])
    player.wait(1.5)
    assert player.done[-2:] == ["signal web 15", "start web 1"]


def test_outcome_of_a_probe_of_an_earlier_run_counts_for_nothing() -> None:
    player = Player(pod_json({**COMMAND, "readinessProbe": TCP}))
    player.exit("web", 1)
    assert player.container()["restartCount"] == 1
    player.carry_out(player.life.probed("web", 0, ProbeKind.READINESS, None, player.now))
    assert player.conditions["Ready"] == "False"


def test_deleted_pod_is_asked_to_end_and_then_gone() -> None:
    player = Player(pod_json())
    player.change(pod_json(metadata=DELETED))
    assert player.done[2:] == ["signal web 15", "remove sandbox", "DeletePod"]
    assert player.events[-1] == "Killing: Stopping container web"
    assert not player.life.is_over
    player.carry_out(player.life.vanished(player.now))
    assert player.life.is_over
    assert player.done[-1] == "DeletePod"


def test_container_that_does_not_end_serves_until_its_grace_period_is_over() -> None:
    probe = {**TCP, "periodSeconds": 5}
    player = Player(pod_json({"name": "web", "readinessProbe": probe, "livenessProbe": probe}), stubborn=True)
    player.wait(1)
    player.change(pod_json(metadata=DELETED))
    player.done.clear()
    player.wait(29)
    assert set(player.done) == {"readiness web"}
    assert player.conditions["Ready"] == "True"
    player.wait(1)
    assert player.done[-3:] == ["signal web 9", "remove sandbox", "DeletePod"]
    assert player.container()["state"]["terminated"]["exitCode"] == 137


def test_second_deletion_can_shorten_the_grace_period() -> None:
    player = Player(pod_json(), stubborn=True)
    player.change(pod_json(metadata=DELETED))
    player.change(pod_json(metadata={**DELETED, "deletionGracePeriodSeconds": 5}))
    player.change(pod_json(metadata=DELETED))
    player.wait(5)
    assert player.done[-1] == "DeletePod"
    assert player.done.count("signal web 15") == 1


def test_grace_period_of_none_kills_at_once() -> None:
    player = Player(pod_json(), stubborn=True)
    player.change(pod_json(metadata={**DELETED, "deletionGracePeriodSeconds": 0}))
    assert player.done[2:] == ["signal web 9", "remove sandbox", "DeletePod"]


def test_pod_that_vanished_is_stopped_all_the_same() -> None:
    player = Player(pod_json(), stubborn=True)
    player.carry_out(player.life.vanished(player.now))
    player.wait(1)
    assert player.done[2:] == ["signal web 15", "signal web 9", "remove sandbox"]
    assert player.life.is_over


def test_hook_comes_before_sigterm() -> None:
    lifecycle = {"preStop": {"sleep": {"seconds": 5}}}
    player = Player(pod_json({"name": "web", "lifecycle": lifecycle}))
    player.holds_hooks = True
    player.change(pod_json(metadata=DELETED))
    assert player.done[-1] == "hook web"
    player.wait(5)
    player.carry_out(player.life.pre_stop_ended("web", None, player.now))
    assert player.done[-4:] == ["hook web", "signal web 15", "remove sandbox", "DeletePod"]


def test_hook_that_took_all_the_time_leaves_a_little_for_sigterm() -> None:
    lifecycle = {"preStop": {"exec": {"command": ["sleep", "60"]}}}
    player = Player(pod_json({"name": "web", "lifecycle": lifecycle}), stubborn=True)
    player.holds_hooks = True
    player.change(pod_json(metadata=DELETED))
    player.wait(29.5)
    player.carry_out(player.life.pre_stop_ended("web", "it did not end", player.now))
    assert player.events[-1] == "FailedPreStopHook: PreStopHook failed: it did not end"
    assert player.done[-1] == "signal web 15"
    player.wait(1.9)
    assert player.done[-1] == "signal web 15"
    player.wait(0.1)
    assert "signal web 9" in player.done


def test_pod_that_is_deleted_while_it_starts_is_taken_down_when_it_has() -> None:
    life = life_of(pod_json())
    life.begin(START)
    assert life.changed(read_pod(pod_json(metadata=DELETED)), START) == []
    assert life.sandbox_added(["10.244.1.2"], START) == [RemoveSandbox()]

    life = life_of(pod_json())
    life.begin(START)
    life.sandbox_added(["10.244.1.2"], START)
    assert life.changed(read_pod(pod_json(metadata=DELETED)), START) == []
    commands = without_events(life.container_started("web", START))
    assert [type(command).__name__ for command in commands] == ["SendSignal"]


def test_sandbox_that_fails_is_tried_again() -> None:
    life = life_of(pod_json())
    life.begin(START)
    commands = life.sandbox_failed("no address is left", START)
    assert commands == [
        RecordEvent("FailedCreatePodSandBox", "Failed to create pod sandbox: no address is left", True)
    ]
    assert life.due_at == START + 1
    assert life.waited(START + 1) == [AddSandbox()]
    life.sandbox_failed("no address is left", START + 1)
    assert life.due_at == START + 3
    assert without_events(life.changed(read_pod(pod_json(metadata=DELETED)), START + 2)) != []


def test_what_cannot_be_honoured_is_named_once() -> None:
    json = pod_json(
        {"name": "web", "envFrom": [{"configMapRef": {"name": "x"}}]},
        volumes=[{"name": "data", "configMap": {"name": "x"}}, {"name": "kube-api-access-x1"}],
    )
    player = Player(json)
    player.change(json)
    named = [event for event in player.events if event.startswith("Unsupported")]
    assert named == [
        "Unsupported: This cluster goes on without: spec.volumes[0] (data), spec.containers[0].envFrom"
    ]
    assert player.status["phase"] == "Running"


def test_annotations_make_unready_black_hole_and_kill() -> None:
    player = Player(pod_json())
    player.change(pod_json(metadata={"annotations": {READY: "false"}}))
    assert (player.conditions["Ready"], player.container()["ready"]) == ("False", False)
    assert player.container()["started"]
    player.change(pod_json(metadata={"annotations": {BLACK_HOLE: "true", KILL: "1"}}))
    assert player.conditions["Ready"] == "True"
    assert player.done[2:] == ["signal web 9", "start web 1", "SetInbound"]
    player.change(pod_json(metadata={"annotations": {KILL: "1"}}))
    player.change(pod_json(metadata={"annotations": {KILL: "1"}}))
    assert player.done[2:] == ["signal web 9", "start web 1", "SetInbound", "SetInbound"]


def test_pod_that_refuses_can_become_a_black_hole() -> None:
    life = life_of(pod_json(metadata={"annotations": {REFUSE: "true"}}))
    life.begin(START)
    refused = life.sandbox_added(["10.244.1.2"], START)
    assert refused[0] == SetInbound(Inbound.ACCEPTED, Inbound.REFUSED)
    both = pod_json(metadata={"annotations": {REFUSE: "true", BLACK_HOLE: "true"}})
    assert life.changed(read_pod(both), START) == [SetInbound(Inbound.REFUSED, Inbound.DROPPED)]


def test_black_hole_is_dug_once() -> None:
    life = life_of(pod_json(metadata={"annotations": {BLACK_HOLE: "true", KILL: "old"}}))
    life.begin(START)
    assert life.sandbox_added(["10.244.1.2"], START) == [
        SetInbound(Inbound.ACCEPTED, Inbound.DROPPED),
        StartContainer("web", 0),
    ]
    assert life.waited(START) == []


NAMES = ("init", "sidecar", "a", "b")
STEPS = st.one_of(
    st.tuples(st.just("exit"), st.sampled_from(NAMES), st.sampled_from([0, 1, -9])),
    st.tuples(st.just("wait"), st.floats(0, 400)),
    st.tuples(st.just("fail"), st.sets(st.sampled_from(ProbeKind))),
    st.tuples(
        st.just("annotate"), st.sampled_from([{}, {READY: "false"}, {BLACK_HOLE: "true"}, {KILL: "1"}])
    ),
)


@given(
    st.sampled_from(["Always", "OnFailure", "Never"]),
    st.booleans(),
    st.booleans(),
    st.lists(STEPS, max_size=12),
    st.booleans(),
)
def test_whatever_happens_a_pod_that_is_deleted_is_gone_after_its_grace_period(
    policy: str, stubborn: bool, holds_hooks: bool, steps: list[tuple[Any, ...]], is_forced: bool
) -> None:
    probes = {f"{kind}Probe": {**TCP, "periodSeconds": 3} for kind in ("startup", "liveness", "readiness")}
    hook = {"lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}
    containers = ({"name": "a", **probes}, {"name": "b", **hook})
    inits = [{"name": "init"}, {"name": "sidecar", "restartPolicy": "Always"}]
    spec: dict[str, Any] = {"initContainers": inits, "restartPolicy": policy}
    player = Player(pod_json(*containers, **spec), stubborn=stubborn)
    player.holds_hooks = holds_hooks
    for step, *arguments in steps:
        if step == "exit":
            player.exit(*arguments)
        elif step == "wait":
            player.wait(*arguments)
        elif step == "fail":
            player.failing = set(arguments[0])
        else:
            player.change(pod_json(*containers, metadata={"annotations": arguments[0]}, **spec))
        if player.conditions["ContainersReady"] == "True":
            assert all(one["ready"] for one in player.status["containerStatuses"])
    if is_forced:
        player.carry_out(player.life.vanished(player.now))
    else:
        player.change(pod_json(*containers, metadata=DELETED, **spec))
    player.wait(35)
    assert player.life.sandbox is Sandbox.NONE
    assert not any(player.is_running(name) for name in NAMES)
    assert player.life.due_at is None
    assert player.done.count("DeletePod") == (0 if is_forced else 1)
    player.carry_out(player.life.vanished(player.now))
    assert player.life.is_over


def test_cluster_that_comes_back_counts_its_own_end_as_a_restart() -> None:
    json = pod_json()
    json["status"] = {
        "phase": "Running",
        "startTime": "2027-01-01T00:00:00Z",
        "containerStatuses": [
            {"name": "web", "restartCount": 2, "state": {"running": {"startedAt": "2027-01-01T00:00:00Z"}}}
        ],
    }
    player = Player(json)
    assert player.done[-1] == "start web 3"
    assert player.container()["restartCount"] == 3
    assert player.container()["lastState"]["terminated"]["reason"] == "Unknown"
    assert player.status["startTime"] == "2027-01-01T00:00:00Z"


def test_pod_that_was_done_before_is_left_alone_until_it_is_deleted() -> None:
    json = pod_json(restartPolicy="Never")
    json["status"] = {"phase": "Succeeded"}
    player = Player(json)
    player.wait(100)
    assert player.done == []
    assert player.life.was_final
    json["metadata"] |= DELETED
    player.change(json)
    assert player.done == ["DeletePod"]
