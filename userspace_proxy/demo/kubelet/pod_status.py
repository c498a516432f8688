"""A pod's life as `status` of its object; pure. Source: PodStatus in the API reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from userspace_proxy.demo.kubelet.container_life import (
    ContainerLife,
    ContainerState,
    Running,
    Terminated,
    Waiting,
)
from userspace_proxy.demo.kubelet.pod_life import Phase, PodLife, Sandbox
from userspace_proxy.demo.kubelet.pod_spec import READY

JsonObject: TypeAlias = dict[str, Any]

_OURS: Final = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def timestamp(seconds: float) -> str:
    """Seconds of the epoch as the API spells them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod_status(life: PodLife, host_addresses: Sequence[str], previous: JsonObject, now: float) -> JsonObject:
    """The status to write. `previous` is what was written last, else what the object had.

    Conditions of others are kept; one of ours keeps its time while its status stays.
    """
    status: JsonObject = {
        "phase": life.phase.value,
        "startTime": previous.get("startTime") or timestamp(life.started_at),
        "conditions": _conditions(life, previous.get("conditions") or [], now),
        "hostIP": host_addresses[0] if host_addresses else None,
        "hostIPs": [{"ip": address} for address in host_addresses],
        "podIP": life.addresses[0] if life.addresses else None,
        "podIPs": [{"ip": address} for address in life.addresses],
        "containerStatuses": [_container_status(life, container) for container in life.containers],
        "qosClass": previous.get("qosClass") or "BestEffort",
    }
    if life.init_containers:
        status["initContainerStatuses"] = [
            _container_status(life, container) for container in life.init_containers
        ]
    return {key: value for key, value in status.items() if value is not None}


def _conditions(life: PodLife, previous: Sequence[JsonObject], now: float) -> list[JsonObject]:
    known = {condition.get("type"): condition for condition in previous}
    conditions = []
    for type_, (is_true, reason, message) in _our_conditions(life).items():
        before = known.get(type_, {})
        value = "True" if is_true else "False"
        since = before.get("lastTransitionTime") if before.get("status") == value else None
        condition = {
            "type": type_,
            "status": value,
            "lastProbeTime": None,
            "lastTransitionTime": since or timestamp(now),
        }
        if reason:
            condition |= {"reason": reason}
        if message:
            condition |= {"message": message}
        conditions.append(condition)
    return conditions + [condition for condition in previous if condition.get("type") not in _OURS]


def _our_conditions(life: PodLife) -> dict[str, tuple[bool, str, str]]:
    """By type: whether it is true, and else the reason and the message."""
    serving = [*(one for one in life.init_containers if one.spec.is_sidecar), *life.containers]
    ready = _all_are(serving, lambda life: life.is_ready, "ContainersNotReady", "unready")
    if life.phase is Phase.SUCCEEDED:
        ready = (False, "PodCompleted", "")
    elif life.phase is Phase.FAILED:
        ready = (False, "PodFailed", "")
    elif life.pod.is_made_unready:
        ready = (False, "MadeUnready", f"the Pod's annotation {READY} says so")
    begun = [] if life.is_initialized else life.init_containers
    initialized = _all_are(begun, lambda life: life.is_through, "ContainersNotInitialized", "incomplete")
    return {
        "PodReadyToStartContainers": (life.sandbox is Sandbox.PRESENT, "", ""),
        "Initialized": initialized,
        "Ready": ready,
        "ContainersReady": ready,
        "PodScheduled": (True, "", ""),
    }


def _all_are(
    lives: Sequence[ContainerLife], predicate: Callable[[ContainerLife], bool], reason: str, what: str
) -> tuple[bool, str, str]:
    lacking = [life.spec.name for life in lives if not predicate(life)]
    if not lacking:
        return True, "", ""
    return False, reason, f"containers with {what} status: [{' '.join(lacking)}]"


def _container_status(pod: PodLife, life: ContainerLife) -> JsonObject:
    uid, name = pod.pod.metadata.uid, life.spec.name
    is_ready = life.is_through
    if life in pod.containers:
        is_ready = life.is_ready and not pod.pod.is_made_unready
    status: JsonObject = {
        "name": name,
        "image": life.spec.image,
        "imageID": "",
        "ready": is_ready,
        "started": life.has_started,
        "restartCount": life.restarts,
        "state": _state(_shown(pod, life), uid, name),
        "lastState": _state(life.last_state, uid, name) if life.last_state is not None else {},
    }
    if not isinstance(life.state, Waiting):
        status["containerID"] = _container_id(uid, name, life.restarts)
    return status


def _shown(pod: PodLife, life: ContainerLife) -> ContainerState:
    if life in pod.containers and not pod.is_initialized and not life.has_ever_run:
        return Waiting("PodInitializing")
    return life.state


def _state(state: ContainerState, uid: str, name: str) -> JsonObject:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason, "message": message} if message else {"reason": reason}}
        case Running(started_at):
            return {"running": {"startedAt": timestamp(started_at)}}
        case Terminated():
            ended: JsonObject = {
                "exitCode": state.exit_code,
                "reason": state.reason,
                "startedAt": timestamp(state.started_at),
                "finishedAt": timestamp(state.finished_at),
                "containerID": _container_id(uid, name, state.attempt),
            }
            if state.message:
                ended["message"] = state.message
            return {"terminated": ended}


def _container_id(uid: str, name: str, attempt: int) -> str:
    return f"process://{uid}/{name}/{attempt}"
