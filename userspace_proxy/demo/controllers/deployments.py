"""Deployments: as many pods as there should be, and a careful way from one template to the next.

There are no ReplicaSets in between: the pods belong to the Deployment itself, and the label
`pod-template-hash` says of which template they are. Source: "Deployments" in the Kubernetes documentation.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from userspace_proxy.demo.api_resources import JsonObject
from userspace_proxy.demo.controllers.deployment_status import plan_status
from userspace_proxy.demo.controllers.label_selectors import selects
from userspace_proxy.demo.controllers.names import (
    HASH_CHARACTERS,
    SUFFIX_CHARACTERS,
    content_hash,
    name_suffix,
)
from userspace_proxy.demo.controllers.objects import (
    DEPLOYMENTS,
    PODS,
    Deployment,
    LabelSelector,
    Pod,
)
from userspace_proxy.demo.controllers.writes import (
    Create,
    Delete,
    Patch,
    Plan,
    Say,
    Write,
    controlled_by,
    disowned,
    reference,
)
from userspace_proxy.demo.notices import Notice

TEMPLATE_HASH: Final = "pod-template-hash"
REVISION: Final = "deployment.kubernetes.io/revision"
ROLLED_OUT_TEMPLATE: Final = "demo.userspace-proxy.io/pod-template-hash"
"""Which template has the revision that is annotated, since no ReplicaSet remembers it."""

DEFAULT_PERCENT: Final = 25
MOST_MADE_AT_ONCE: Final = 200
"""What is left comes with the next plan: a number with too many zeros must not stop everything."""
_PREFIX_CHARACTERS: Final = 63 - HASH_CHARACTERS - SUFFIX_CHARACTERS - 2
"""What is left of a pod's name: it is the host name inside."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a rolling update may do: at most so many pods, never fewer than so many available."""

    most: int
    fewest_available: int


def plan_deployments(
    deployments: Iterable[Deployment], pods: Iterable[Pod], now: datetime, chance: random.Random
) -> Plan:
    """What is due for all Deployments."""
    owned: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        for owner in pod.metadata.owner_references or ():
            if owner.controller and owner.kind == DEPLOYMENTS.kind:
                owned[owner.uid].append(pod)
    plans = [plan_deployment(each, owned[each.metadata.uid], now, chance) for each in deployments]
    waits = [plan.again_in_seconds for plan in plans if plan.again_in_seconds is not None]
    return Plan([write for plan in plans for write in plan.writes], min(waits, default=None))


def plan_deployment(
    deployment: Deployment, pods: Sequence[Pod], now: datetime, chance: random.Random
) -> Plan:
    """What is due for one Deployment that has `pods`."""
    if deployment.metadata.deletion_timestamp is not None:
        return Plan()
    subject = reference(DEPLOYMENTS, deployment.metadata)
    if not selects(deployment.spec.selector, _template_labels(deployment)):
        why = "the selector does not match the labels of the template: no pod can be made"
        return Plan([Say(subject=subject, notice=Notice("FailedCreate", why, is_warning=True))])
    hash_ = content_hash(deployment.spec.template)
    annotations = deployment.metadata.annotations or {}
    rolled_out = annotations.get(ROLLED_OUT_TEMPLATE)
    if rolled_out != hash_ and not (deployment.spec.paused and rolled_out):
        revision = annotations.get(REVISION, "")
        following = str((_whole_number(revision) or 0) + 1)
        body = {"metadata": {"annotations": {REVISION: following, ROLLED_OUT_TEMPLATE: hash_}}}
        return Plan([Patch(resource=DEPLOYMENTS, metadata=deployment.metadata, body=body, subject=subject)])
    current = rolled_out or hash_
    released, kept = _told_apart(pods, deployment.spec.selector)
    writes = [
        *(_release(pod, deployment) for pod in released),
        *_plan_pods(deployment, kept, current, can_create=current == hash_, now=now, chance=chance),
    ]
    status = plan_status(
        deployment,
        [pod for pod in kept if pod.is_active],
        {pod.metadata.uid for pod in kept if _hash_of(pod) == current},
        {pod.metadata.uid for pod in kept if is_available(pod, deployment, now)},
        limits_of(deployment).fewest_available,
        now,
    )
    waits = [wait for pod in kept if (wait := _seconds_until_available(pod, deployment, now)) > 0]
    if status.again_in_seconds is not None:
        waits.append(status.again_in_seconds)
    return Plan([*writes, *status.writes], min(waits, default=None))


def limits_of(deployment: Deployment) -> Limits:
    """The limits that its strategy sets, from numbers or shares of its replicas."""
    wanted = replicas_of(deployment)
    strategy = deployment.spec.strategy
    if strategy is not None and strategy.type == "Recreate":
        return Limits(wanted, wanted)
    rolling = strategy.rolling_update if strategy is not None else None
    surge = rolling.max_surge if rolling is not None else None
    unavailable = rolling.max_unavailable if rolling is not None else None
    more = math.ceil(_share(surge, wanted))
    fewer = math.floor(_share(unavailable, wanted))
    if not more and not fewer:
        fewer = 1  # or nothing could ever happen
    return Limits(wanted + more, max(0, wanted - fewer))


def replicas_of(deployment: Deployment) -> int:
    """How many pods there should be."""
    return 1 if deployment.spec.replicas is None else deployment.spec.replicas


def is_available(pod: Pod, deployment: Deployment, now: datetime) -> bool:
    """Whether a pod has been ready for long enough to be counted on."""
    return pod.is_active and pod.is_ready and _seconds_until_available(pod, deployment, now) <= 0


def _plan_pods(
    deployment: Deployment,
    pods: Sequence[Pod],
    current: str,
    *,
    can_create: bool,
    now: datetime,
    chance: random.Random,
) -> Iterator[Write]:
    wanted, limits = replicas_of(deployment), limits_of(deployment)
    active = [pod for pod in pods if pod.is_active]
    is_recreated = deployment.spec.strategy is not None and deployment.spec.strategy.type == "Recreate"
    for pod in pods:
        if pod.is_finished and not pod.is_terminating:
            yield _delete(pod, deployment)
    crowd = Counter(pod.spec.node_name for pod in active)
    new = sorted(
        (pod for pod in active if _hash_of(pod) == current), key=lambda pod: _dispensability(pod, crowd)
    )
    surplus, new = new[: max(0, len(new) - wanted)], new[max(0, len(new) - wanted) :]
    old = [pod for pod in active if _hash_of(pod) != current]
    available = {pod.metadata.uid for pod in (*new, *old) if is_available(pod, deployment, now)}
    if is_recreated:
        doomed: Sequence[Pod] = old
        # The old ones must have ended, not only be asked to.
        room = 0 if any(_hash_of(pod) != current for pod in pods) else wanted
    else:
        doomed = _old_ones_to_end(new, old, available, limits)
        room = limits.most - len(new) - len(old)
    for pod in (*surplus, *doomed):
        yield _delete(pod, deployment)
    if can_create:
        for _ in range(min(wanted - len(new), room, MOST_MADE_AT_ONCE)):
            yield _create(deployment, current, chance)


def _old_ones_to_end(
    new: Sequence[Pod], old: Sequence[Pod], available: set[str], limits: Limits
) -> Sequence[Pod]:
    """Which pods of earlier templates may go.

    Those that are not available go first, but not all at once: what is unready for a moment may come back. A
    pod that is available goes only if enough others are.
    """
    coming = sum(pod.metadata.uid not in available for pod in new)
    room = max(0, len(new) + len(old) - limits.fewest_available - coming)
    unavailable = [pod for pod in old if pod.metadata.uid not in available][:room]
    # What room is left is the number of available pods beyond the fewest.
    spare = [pod for pod in old if pod.metadata.uid in available][: room - len(unavailable)]
    return [*unavailable, *spare]


def _dispensability(pod: Pod, crowd: Counter[str | None]) -> tuple[bool, bool, int, float]:
    """The pods that will be missed least sort first."""
    created = pod.metadata.creation_timestamp
    return (
        pod.spec.node_name is not None,
        pod.is_ready,
        -crowd[pod.spec.node_name],
        -created.timestamp() if created is not None else 0.0,
    )


def _create(deployment: Deployment, hash_: str, chance: random.Random) -> Create:
    template = deployment.spec.template
    prefix = deployment.metadata.name[:_PREFIX_CHARACTERS].rstrip("-.")
    name = f"{prefix}-{hash_}-{name_suffix(chance)}"
    metadata: JsonObject = {
        "name": name,
        "namespace": deployment.metadata.namespace,
        "labels": {**_template_labels(deployment), TEMPLATE_HASH: hash_},
        "annotations": (template.get("metadata") or {}).get("annotations") or {},
        "ownerReferences": [controlled_by(DEPLOYMENTS, deployment.metadata)],
    }
    return Create(
        resource=PODS,
        namespace=deployment.metadata.namespace,
        body={"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec") or {}},
        subject=reference(DEPLOYMENTS, deployment.metadata),
        notice=Notice("SuccessfulCreate", f"Created pod: {name}"),
        failure_reason="FailedCreate",
    )


def _delete(pod: Pod, deployment: Deployment) -> Delete:
    return Delete(
        resource=PODS,
        metadata=pod.metadata,
        subject=reference(DEPLOYMENTS, deployment.metadata),
        notice=Notice("SuccessfulDelete", f"Deleted pod: {pod.metadata.name}"),
        failure_reason="FailedDelete",
    )


def _release(pod: Pod, deployment: Deployment) -> Patch:
    """Let go of a pod whose labels were changed so that it is not selected any more."""
    return Patch(
        resource=PODS,
        metadata=pod.metadata,
        body=disowned(pod.metadata, deployment.metadata.uid),
        subject=reference(DEPLOYMENTS, deployment.metadata),
        notice=Notice("Released", f"Let go of pod {pod.metadata.name}: it is not selected any more"),
    )


def _told_apart(pods: Iterable[Pod], selector: LabelSelector) -> tuple[list[Pod], list[Pod]]:
    """Those that are not selected (any more) and could be let go, and those that count."""
    released: list[Pod] = []
    kept: list[Pod] = []
    for pod in pods:
        (kept if selects(selector, pod.metadata.labels) or not pod.is_active else released).append(pod)
    return released, kept


def _seconds_until_available(pod: Pod, deployment: Deployment, now: datetime) -> float:
    """How long a ready pod must stay so; 0 for one that is not ready: nobody waits for time alone then."""
    condition = pod.ready_condition
    if not pod.is_ready or condition is None or condition.last_transition_time is None:
        return 0.0
    due = condition.last_transition_time + timedelta(seconds=deployment.spec.min_ready_seconds or 0)
    return (due - now).total_seconds()


def _hash_of(pod: Pod) -> str | None:
    return (pod.metadata.labels or {}).get(TEMPLATE_HASH)


def _template_labels(deployment: Deployment) -> dict[str, str]:
    return (deployment.spec.template.get("metadata") or {}).get("labels") or {}


def _share(value: int | str | None, whole: int) -> float:
    """A number, or a percentage of `whole`; the default one for what is neither."""
    if isinstance(value, int):
        return max(0, value)
    percent = _whole_number(value.removesuffix("%")) if value is not None and value.endswith("%") else None
    return (DEFAULT_PERCENT if percent is None else percent) * whole / 100


def _whole_number(text: str) -> int | None:
    """A number that somebody wrote, unless it is none or longer than any that makes sense."""
    return int(text) if len(text) < 10 and text.isascii() and text.isdecimal() else None
