"""The scale of a Deployment, the part of it that `kubectl scale` and autoscalers read and write."""

from __future__ import annotations

from typing import Any

from userspace_proxy.demo.api_server.cells import label_selector_text
from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.statuses import Cause, is_invalid

SCHEMA = "autoscaling.v1.Scale"


def scale_of(deployment: Object) -> Object:
    """A Deployment's scale."""
    metadata = deployment["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in kept},
        "spec": {"replicas": deployment["spec"].get("replicas", 1)},
        "status": {
            "replicas": deployment.get("status", {}).get("replicas", 0),
            "selector": label_selector_text(deployment["spec"]["selector"]),
        },
    }


def scaled(deployment: Object, scale: Object) -> Object:
    """The Deployment with the replicas that a scale says (0 if it says none)."""
    spec = {**deployment["spec"], "replicas": _replicas(scale)}
    return {**deployment, "spec": spec}


def scale_causes(scale: Object) -> list[Cause]:
    """What is wrong with a scale."""
    replicas = _replicas(scale)
    detail = "must be greater than or equal to 0"
    return [is_invalid("spec.replicas", replicas, detail)] if replicas < 0 else []


def _replicas(scale: Object) -> Any:
    return scale.get("spec", {}).get("replicas", 0)
