"""What a Deployment's status says of its pods, so that `kubectl rollout status` can tell how far it is."""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import datetime, timedelta
from typing import Final

from userspace_proxy.demo.controllers.objects import (
    DEPLOYMENTS,
    Condition,
    Deployment,
    DeploymentStatus,
    Pod,
    condition_of,
)
from userspace_proxy.demo.controllers.writes import Patch, Plan, reference

DEFAULT_PROGRESS_DEADLINE_SECONDS: Final = 600
_NO_DEADLINE: Final = 2**31 - 1

_COMPLETE: Final = "NewReplicaSetAvailable"
_TIMED_OUT: Final = "ProgressDeadlineExceeded"


def plan_status(
    deployment: Deployment,
    active: Sequence[Pod],
    updated: Set[str],
    available: Set[str],
    fewest_available: int,
    now: datetime,
) -> Plan:
    """Write the status where it has changed; `updated` and `available` are uids among those of the pods."""
    now = now.replace(microsecond=0)
    wanted = 1 if deployment.spec.replicas is None else deployment.spec.replicas
    counts = {
        "replicas": len(active),
        "updatedReplicas": sum(pod.metadata.uid in updated for pod in active),
        "readyReplicas": sum(pod.is_ready for pod in active),
        "availableReplicas": sum(pod.metadata.uid in available for pod in active),
    }
    counts["unavailableReplicas"] = max(0, wanted - counts["availableReplicas"])
    progressing, wait = _progressing(deployment, counts, wanted, now)
    conditions = [
        *(
            condition
            for condition in deployment.status.conditions or ()
            if condition.type not in ("Available", "Progressing")
        ),
        _settled(deployment, _availability(counts["availableReplicas"] >= fewest_available), now),
        _settled(deployment, progressing, now),
    ]
    before = deployment.status
    is_new = (
        counts != _counts(before)
        or before.observed_generation != deployment.metadata.generation
        or sorted(conditions, key=_type) != sorted(before.conditions or (), key=_type)
    )
    if not is_new:
        return Plan((), wait)
    status = {
        "observedGeneration": deployment.metadata.generation,
        # The API has no zeros here: what is null is left out.
        **{field: count or None for field, count in counts.items()},
        "conditions": conditions,
    }
    patch = Patch(
        resource=DEPLOYMENTS,
        metadata=deployment.metadata,
        body={"status": status},
        subject=reference(DEPLOYMENTS, deployment.metadata),
        subresource="status",
    )
    return Plan([patch], wait)


def _counts(status: DeploymentStatus) -> dict[str, int]:
    return {
        "replicas": status.replicas or 0,
        "updatedReplicas": status.updated_replicas or 0,
        "readyReplicas": status.ready_replicas or 0,
        "availableReplicas": status.available_replicas or 0,
        "unavailableReplicas": status.unavailable_replicas or 0,
    }


def _availability(is_available: bool) -> Condition:
    if is_available:
        return Condition(
            "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability."
        )
    return Condition(
        "Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
    )


def _progressing(
    deployment: Deployment, counts: dict[str, int], wanted: int, now: datetime
) -> tuple[Condition, float | None]:
    """How the rollout is doing, and in how many seconds it will have taken too long."""
    name = deployment.metadata.name
    before = condition_of(deployment.status.conditions, "Progressing")
    was = _counts(deployment.status)
    is_all_new = counts["replicas"] == counts["updatedReplicas"]
    if deployment.spec.paused:
        return Condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused"), None
    if is_all_new and counts["updatedReplicas"] == counts["availableReplicas"] == wanted:
        message = f'Deployment "{name}" has successfully progressed.'
        return Condition("Progressing", "True", _COMPLETE, message), None
    if before is not None and before.reason == _COMPLETE and is_all_new:
        return before, None  # Pods come and go by scaling and failing, which is no rollout.
    has_progressed = (
        before is None
        or before.reason in (_COMPLETE, "DeploymentPaused")
        or counts["updatedReplicas"] > was["updatedReplicas"]
        or counts["readyReplicas"] > was["readyReplicas"]
        or counts["availableReplicas"] > was["availableReplicas"]
        or counts["replicas"] - counts["updatedReplicas"] < was["replicas"] - was["updatedReplicas"]
    )
    since = now if has_progressed or before is None else before.last_update_time or now
    deadline = deployment.spec.progress_deadline_seconds
    seconds = DEFAULT_PROGRESS_DEADLINE_SECONDS if deadline is None else deadline
    left = (since + timedelta(seconds=seconds) - now).total_seconds()
    if left <= 0 and seconds != _NO_DEADLINE:
        message = f'Deployment "{name}" has timed out progressing.'
        return Condition("Progressing", "False", _TIMED_OUT, message, last_update_time=since), None
    message = f'Deployment "{name}" is progressing.'
    return Condition("Progressing", "True", "ReplicaSetUpdated", message, last_update_time=since), left


def _settled(deployment: Deployment, condition: Condition, now: datetime) -> Condition:
    """The condition with its times: those that it had, where nothing changed."""
    before = condition_of(deployment.status.conditions, condition.type)
    is_same = before is not None and (before.status, before.reason) == (condition.status, condition.reason)
    if before is not None and is_same and condition.last_update_time in (None, before.last_update_time):
        return before
    has_kept_status = before is not None and before.status == condition.status
    return Condition(
        condition.type,
        condition.status,
        condition.reason,
        condition.message,
        last_update_time=condition.last_update_time or now,
        last_transition_time=before.last_transition_time if before is not None and has_kept_status else now,
    )


def _type(condition: Condition) -> str:
    return condition.type
