"""A node for each pod: among those that may have it, the one with the fewest pods, of its own kind first.

What is looked at: readiness, `unschedulable`, taints and tolerations, the pod's node selector, and how many
pods a node may have. Other resources and affinities are not. Source: "Kubernetes Scheduler" and "Taints and
Tolerations" in the documentation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from userspace_proxy.demo.controllers.label_selectors import is_subset
from userspace_proxy.demo.controllers.objects import (
    PODS,
    Condition,
    Node,
    Pod,
    Taint,
    Toleration,
    condition_of,
)
from userspace_proxy.demo.controllers.writes import Patch, Plan, Post, Write, reference
from userspace_proxy.demo.notices import Notice

SCHEDULER: Final = "default-scheduler"
UNSCHEDULABLE: Final = "node.kubernetes.io/unschedulable"

_Owner: TypeAlias = str


def plan_scheduling(pods: Iterable[Pod], nodes: Iterable[Node], now: datetime) -> Plan:
    """Bind the pods that wait for a node, oldest first; say why of those that none can have."""
    by_name = sorted(nodes, key=lambda node: node.metadata.name)
    on_node: Counter[str] = Counter()
    of_owner: Counter[tuple[_Owner, str]] = Counter()
    waiting = []
    for pod in pods:
        if pod.spec.node_name:
            if not pod.is_finished:
                on_node[pod.spec.node_name] += 1
                of_owner[_owner(pod), pod.spec.node_name] += 1
        elif _is_ours(pod):
            waiting.append(pod)
    writes: list[Write] = []
    for pod in sorted(waiting, key=_age):
        refusals = {node.metadata.name: _refusal(pod, node, on_node[node.metadata.name]) for node in by_name}
        fitting = [name for name, refusal in refusals.items() if refusal is None]
        if not fitting:
            writes.extend(_unschedulable(pod, refusals.values(), now))
            continue
        owner = _owner(pod)
        chosen = min(fitting, key=lambda name: (of_owner[owner, name], on_node[name], name))
        on_node[chosen] += 1
        of_owner[owner, chosen] += 1
        writes.append(_bind(pod, chosen))
    return Plan(writes)


def is_tolerated(taint: Taint, tolerations: Sequence[Toleration] | None) -> bool:
    """Whether a pod with these tolerations does not mind the taint."""
    return any(
        toleration.effect in (None, "", taint.effect)
        and toleration.key in (None, "", taint.key)
        and (toleration.operator == "Exists" or (toleration.value or "") == (taint.value or ""))
        for toleration in tolerations or ()
    )


def _is_ours(pod: Pod) -> bool:
    return (
        pod.is_active
        and not pod.spec.scheduling_gates
        and (pod.spec.scheduler_name or SCHEDULER) == SCHEDULER
    )


def _refusal(pod: Pod, node: Node, pods_there: int) -> str | None:
    """Why the node cannot have the pod, in the words of Kubernetes' scheduler."""
    tolerations = pod.spec.tolerations
    if not is_subset(pod.spec.node_selector, node.metadata.labels):
        return "node(s) didn't match Pod's node affinity/selector"
    if node.spec.unschedulable and not is_tolerated(Taint(UNSCHEDULABLE, "NoSchedule"), tolerations):
        return "node(s) were unschedulable"
    for taint in node.spec.taints or ():
        if taint.effect in ("NoSchedule", "NoExecute") and not is_tolerated(taint, tolerations):
            value = f": {taint.value}" if taint.value else ": "
            return f"node(s) had untolerated taint {{{taint.key}{value}}}"
    if not node.is_ready:
        return "node(s) were not ready"
    if pods_there >= node.most_pods:
        return "Too many pods"
    return None


def _bind(pod: Pod, node: str) -> Post:
    identity = f"{pod.metadata.namespace}/{pod.metadata.name}"
    return Post(
        resource=PODS,
        metadata=pod.metadata,
        subresource="binding",
        body={
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        },
        subject=reference(PODS, pod.metadata),
        notice=Notice("Scheduled", f"Successfully assigned {identity} to {node}"),
        failure_reason="FailedScheduling",
    )


def _unschedulable(pod: Pod, refusals: Iterable[str | None], now: datetime) -> Iterator[Write]:
    """Put why into the pod's status; nothing if that stands there already."""
    reasons = Counter(refusal for refusal in refusals if refusal is not None)
    why = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    message = f"0/{reasons.total()} nodes are available: {why}." if reasons else "no nodes available"
    before = condition_of(pod.status.conditions, "PodScheduled")
    if before is not None and (before.status, before.message) == ("False", message):
        return
    condition = Condition(
        "PodScheduled", "False", "Unschedulable", message, last_transition_time=now.replace(microsecond=0)
    )
    others = [other for other in pod.status.conditions or () if other.type != condition.type]
    yield Patch(
        resource=PODS,
        metadata=pod.metadata,
        body={"status": {"conditions": [*others, condition]}},
        subject=reference(PODS, pod.metadata),
        subresource="status",
        notice=Notice("FailedScheduling", message, is_warning=True),
    )


def _owner(pod: Pod) -> _Owner:
    """Whose pods are spread beside each other."""
    owners = pod.metadata.owner_references or ()
    return next((owner.uid for owner in owners if owner.controller), pod.metadata.uid)


def _age(pod: Pod) -> tuple[float, str]:
    created = pod.metadata.creation_timestamp
    return created.timestamp() if created is not None else 0.0, pod.metadata.name
