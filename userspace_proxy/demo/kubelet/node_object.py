"""The Node object, as the kubelet makes it and keeps its status; pure.

Source: NodeStatus in the API reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

JsonObject: TypeAlias = dict[str, Any]

MOST_PODS: Final = 110
LEASE_NAMESPACE: Final = "kube-node-lease"
LEASE_SECONDS: Final = 40


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """What the kubelet is told of its node. Addresses and CIDRs are one of each family, in one order."""

    name: str
    addresses: Sequence[str]
    pod_cidrs: Sequence[str]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine says of itself."""

    kernel_version: str
    os_image: str
    architecture: str
    cpus: int
    memory_bytes: int
    version: str
    """Of this package."""


def node_object(node: NodeDescription, machine: Machine) -> JsonObject:
    """The object to create. Its status is written apart."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": machine.architecture,
                **node.labels,
            },
        },
        "spec": {"podCIDR": node.pod_cidrs[0], "podCIDRs": list(node.pod_cidrs)},
    }


def lease(node: NodeDescription, now: str) -> JsonObject:
    """What says that the node lives, oftener than its status does. `now` has microseconds."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node.name, "namespace": LEASE_NAMESPACE},
        "spec": {"holderIdentity": node.name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
    }


def is_said(status: JsonObject, there: JsonObject) -> bool:
    """Whether the object's status `there` says what matters of `status` already."""
    stated = {condition["type"]: condition["status"] for condition in there.get("conditions") or ()}
    return all(there.get(key) == status[key] for key in ("addresses", "nodeInfo")) and all(
        stated.get(condition["type"]) == condition["status"] for condition in status["conditions"]
    )


def node_status(node: NodeDescription, machine: Machine, ready_since: str, now: str) -> JsonObject:
    """The status of a node that is ready. Both moments are as the API spells them."""
    resources = {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory_bytes // 1024}Ki",
        "pods": str(MOST_PODS),
    }
    conditions = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
    return {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            *({"type": "InternalIP", "address": address} for address in node.addresses),
            {"type": "Hostname", "address": node.name},
        ],
        "conditions": [
            {
                "type": type_,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": ready_since,
            }
            for type_, status, reason, message in conditions
        ],
        "nodeInfo": {
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
            "kernelVersion": machine.kernel_version,
            "osImage": machine.os_image,
            "containerRuntimeVersion": f"processes://{machine.version}",
            "kubeletVersion": f"v{machine.version}",
            "kubeProxyVersion": f"v{machine.version}",
            "operatingSystem": "linux",
            "architecture": machine.architecture,
        },
    }
