"""Nodes that are not heard of any more, and what becomes of the pods on them.

A node's heartbeat is in its Ready condition or its Lease. Without one for a while its conditions are unknown;
a node that is not ready is tainted, its pods are not ready either, and after some minutes they are asked to
end, so that others are made elsewhere. Source: "Nodes" and "Taints and Tolerations" in the documentation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from userspace_proxy.demo.controllers.objects import (
    NODES,
    PODS,
    Condition,
    Lease,
    Node,
    Pod,
    Taint,
    condition_of,
)
from userspace_proxy.demo.controllers.scheduler import UNSCHEDULABLE, is_tolerated
from userspace_proxy.demo.controllers.writes import Delete, Patch, Plan, Write, reference
from userspace_proxy.demo.notices import Notice

NOT_READY: Final = "node.kubernetes.io/not-ready"
UNREACHABLE: Final = "node.kubernetes.io/unreachable"
LEASE_NAMESPACE: Final = "kube-node-lease"
_KUBELETS_CONDITIONS: Final = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


@dataclass(frozen=True, slots=True)
class NodePatience:
    """How long a node may be silent; and how long its pods are kept then, unless their tolerations say."""

    grace_seconds: float = 40.0
    eviction_seconds: float = 300.0


DEFAULT_PATIENCE: Final = NodePatience()


def plan_node_lifecycle(
    nodes: Iterable[Node],
    leases: Mapping[tuple[str, str], Lease],
    pods: Iterable[Pod],
    now: datetime,
    watched_since: datetime,
    patience: NodePatience,
) -> Plan:
    """What is due for all nodes and the pods on them.

    Nobody is silent for longer than somebody listens, `watched_since`: a cluster that comes back finds
    heartbeats from before it went.
    """
    on_node: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        if pod.spec.node_name:
            on_node[pod.spec.node_name].append(pod)
    writes: list[Write] = []
    waits: list[float] = []
    for node in nodes:
        lease = leases.get((LEASE_NAMESPACE, node.metadata.name))
        left = patience.grace_seconds - _silent_seconds(node, lease, watched_since, now)
        if left <= 0:
            writes.extend(_lost(node, now))
        else:
            waits.append(left)
        writes.extend(_taint(node, now))
        for pod in on_node[node.metadata.name]:
            if not node.is_ready:
                writes.extend(_not_ready(pod, node, now))
            kept_seconds = _kept_seconds(pod, node, now, patience.eviction_seconds)
            if kept_seconds is not None and kept_seconds <= 0:
                writes.append(_evict(pod))
            elif kept_seconds is not None:
                waits.append(kept_seconds)
    return Plan(writes, min(waits, default=None))


def _silent_seconds(node: Node, lease: Lease | None, watched_since: datetime, now: datetime) -> float:
    """Since when nothing was heard of it; a new node was heard of when it was made."""
    condition = condition_of(node.status.conditions, "Ready")
    moments = [
        moment
        for moment in (
            watched_since,
            node.metadata.creation_timestamp,
            condition.last_heartbeat_time if condition is not None else None,
            lease.spec.renew_time if lease is not None else None,
        )
        if moment is not None
    ]
    return (now - max(moments)).total_seconds()


def _lost(node: Node, now: datetime) -> Iterator[Write]:
    conditions = {condition.type: condition for condition in node.status.conditions or ()}
    ready = conditions.get("Ready")
    if ready is not None and ready.status == "Unknown":
        return
    for type_ in _KUBELETS_CONDITIONS:
        before = conditions.get(type_)
        if before is not None:
            conditions[type_] = msgspec.structs.replace(
                before,
                status="Unknown",
                reason="NodeStatusUnknown",
                message="Kubelet stopped posting node status.",
                last_transition_time=now.replace(microsecond=0),
            )
    if ready is None:
        conditions["Ready"] = Condition(
            "Ready",
            "Unknown",
            "NodeStatusNeverUpdated",
            "Kubelet never posted node status.",
            last_transition_time=now.replace(microsecond=0),
        )
    yield Patch(
        resource=NODES,
        metadata=node.metadata,
        body={"status": {"conditions": list(conditions.values())}},
        subject=reference(NODES, node.metadata),
        subresource="status",
        notice=Notice("NodeNotReady", f"Node {node.metadata.name} status is now: NodeNotReady"),
    )


def _taint(node: Node, now: datetime) -> Iterator[Write]:
    """Have its taints say what its conditions and `unschedulable` do."""
    ready = condition_of(node.status.conditions, "Ready")
    status = ready.status if ready is not None else "Unknown"
    due: set[tuple[str, str]] = set()
    if status != "True":
        key = UNREACHABLE if status == "Unknown" else NOT_READY
        due |= {(key, "NoSchedule"), (key, "NoExecute")}
    if node.spec.unschedulable:
        due.add((UNSCHEDULABLE, "NoSchedule"))
    before = node.spec.taints or []
    kept = [
        taint
        for taint in before
        if taint.key not in (NOT_READY, UNREACHABLE, UNSCHEDULABLE) or (taint.key, taint.effect) in due
    ]
    missing = due - {(taint.key, taint.effect) for taint in kept}
    if missing or kept != before:
        added = [Taint(key, effect, time_added=now.replace(microsecond=0)) for key, effect in sorted(missing)]
        yield Patch(
            resource=NODES,
            metadata=node.metadata,
            body={"spec": {"taints": [*kept, *added] or None}},
            subject=reference(NODES, node.metadata),
        )


def _not_ready(pod: Pod, node: Node, now: datetime) -> Iterator[Write]:
    """What a pod said before its node was lost does not count; if it says so since, somebody is there."""
    said, lost = pod.ready_condition, condition_of(node.status.conditions, "Ready")
    if said is None or said.status != "True":
        return
    said_at = said.last_transition_time
    lost_at = lost.last_transition_time if lost is not None else None
    if said_at is not None and lost_at is not None and said_at >= lost_at:
        return
    conditions = [
        msgspec.structs.replace(
            condition,
            status="False",
            reason="NodeNotReady",
            last_transition_time=now.replace(microsecond=0),
        )
        if condition.type == "Ready"
        else condition
        for condition in pod.status.conditions or ()
    ]
    yield Patch(
        resource=PODS,
        metadata=pod.metadata,
        body={"status": {"conditions": conditions}},
        subject=reference(PODS, pod.metadata),
        subresource="status",
        notice=Notice("NodeNotReady", "Node is not ready", is_warning=True),
    )


def _kept_seconds(pod: Pod, node: Node, now: datetime, eviction_seconds: float) -> float | None:
    """How long the pod may stay in spite of the node's taints; None: for ever."""
    if pod.is_terminating:
        return None
    left: list[float] = []
    for taint in node.spec.taints or ():
        if taint.effect != "NoExecute":
            continue
        tolerations = [each for each in pod.spec.tolerations or () if is_tolerated(taint, [each])]
        if tolerations:
            limits = [each.toleration_seconds for each in tolerations if each.toleration_seconds is not None]
            if not limits:
                continue
            seconds = float(max(0, min(limits)))
        else:
            seconds = eviction_seconds if taint.key in (NOT_READY, UNREACHABLE) else 0.0
        since = taint.time_added or now
        left.append(seconds - (now - since).total_seconds())
    return min(left, default=None)


def _evict(pod: Pod) -> Delete:
    message = f"Marking for deletion Pod {pod.metadata.namespace}/{pod.metadata.name}"
    return Delete(
        resource=PODS,
        metadata=pod.metadata,
        subject=reference(PODS, pod.metadata),
        notice=Notice("TaintManagerEviction", message),
    )
