"""A cluster on paper: objects that are changed by what controllers want written, and by what a test does.

Every write has its effect at once, as an API server's answer would have it; what runs in pods is the test's
to say. Times are given.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from userspace_proxy.demo.api_resources import JsonObject, Resource
from userspace_proxy.demo.controllers.objects import PODS, Deployment, Metadata, Node, Pod, Service
from userspace_proxy.demo.controllers.writes import Create, Delete, Patch, Post, Say, Write

START = datetime(2026, 1, 1, tzinfo=UTC)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def struct(type_: type[Any], item: JsonObject) -> Any:
    """An object as the controllers read it."""
    return msgspec.convert(item, type_)


def ready_condition(status: str, since: datetime) -> JsonObject:
    return {"type": "Ready", "status": status, "lastTransitionTime": since.isoformat()}


def pod(
    name: str,
    *,
    labels: dict[str, str] | None = None,
    node: str | None = "node-1",
    ips: Iterable[str] = (),
    is_ready: bool = True,
    is_terminating: bool = False,
    ready_since: datetime = START,
    **fields: Any,
) -> Pod:
    """A pod; `fields` are those of its spec and status, by their JSON names, and `metadata` to merge in."""
    addresses = list(ips)
    metadata: JsonObject = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "labels": labels or {},
        **({"deletionTimestamp": START.isoformat()} if is_terminating else {}),
        **fields.pop("metadata", {}),
    }
    status: JsonObject = {
        "phase": fields.pop("phase", "Running"),
        "conditions": [ready_condition(str(is_ready), ready_since)],
        **({"podIP": addresses[0], "podIPs": [{"ip": ip} for ip in addresses]} if addresses else {}),
    }
    spec = {"nodeName": node, **fields}
    converted: Pod = struct(Pod, {"metadata": metadata, "spec": spec, "status": status})
    return converted


def node(name: str, *, is_ready: bool = True, labels: dict[str, str] | None = None, **spec: Any) -> Node:
    item = {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "labels": labels or {}},
        "spec": spec,
        "status": {"conditions": [{**ready_condition(str(is_ready), START), "lastHeartbeatTime": START}]},
    }
    converted: Node = struct(Node, item)
    return converted


def service(
    name: str, *, metadata: JsonObject | None = None, status: JsonObject | None = None, **spec: Any
) -> Service:
    names = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": "1"}
    item = {"metadata": {**names, **(metadata or {})}, "spec": spec, "status": status or {}}
    converted: Service = struct(Service, item)
    return converted


def deployment(name: str = "web", image: str = "one", replicas: int = 3, **spec: Any) -> JsonObject:
    """A Deployment as JSON, for it is changed."""
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "generation": 1,
            "resourceVersion": "1",
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
            **spec,
        },
    }


class Simulation:
    """One Deployment and its pods, `now`, and what the events said."""

    def __init__(self, deployment: JsonObject) -> None:
        self.item = deployment
        self.pods: dict[str, JsonObject] = {}
        self.now = START
        self.said: list[str] = []
        self.chance = random.Random(1)
        self._version = 1

    @property
    def deployment(self) -> Deployment:
        converted: Deployment = struct(Deployment, self.item)
        return converted

    @property
    def pod_structs(self) -> list[Pod]:
        return [struct(Pod, item) for item in self.pods.values()]

    @property
    def active(self) -> list[Pod]:
        return [pod for pod in self.pod_structs if pod.is_active]

    def change(self, **spec: Any) -> None:
        """What a user does to the Deployment's spec."""
        self.item = merged(self.item, {"spec": spec})
        self.item["metadata"]["generation"] += 1

    def use_image(self, image: str) -> None:
        self.change(template={"spec": {"containers": [{"name": "main", "image": image}]}})

    def set_ready(self, name: str, is_ready: bool = True) -> None:
        self.pods[name]["status"]["conditions"] = [ready_condition(str(is_ready), self.now)]

    def end(self, name: str) -> None:
        """A terminating pod's processes are gone."""
        del self.pods[name]

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def apply(self, writes: Iterable[Write]) -> None:
        for write in writes:
            match write:
                case Create(body=body):
                    self._create(write.resource, body)
                case Patch(metadata=metadata, body=body):
                    self._patch(write.resource, metadata, body)
                case Delete(metadata=metadata):
                    self.pods[metadata.name]["metadata"]["deletionTimestamp"] = self.now.isoformat()
                case Post():
                    raise AssertionError("nothing is bound here")
                case Say(notice=notice):
                    self.said.append(notice.message)
            if not isinstance(write, Say) and write.notice is not None:
                self.said.append(write.notice.message)

    def _create(self, resource: Resource[Any], body: JsonObject) -> None:
        assert resource.kind == PODS.kind
        item = msgspec.json.decode(msgspec.json.encode(body))
        name = item["metadata"]["name"]
        assert name not in self.pods
        identity = {"uid": f"uid-{name}", "resourceVersion": "1", "creationTimestamp": self.now.isoformat()}
        item["metadata"].update(identity)
        item["status"] = {"phase": "Pending"}
        self.pods[name] = item

    def _patch(self, resource: Resource[Any], metadata: Metadata, body: JsonObject) -> None:
        patch = msgspec.json.decode(msgspec.json.encode(body))
        if resource.kind == PODS.kind:
            self.pods[metadata.name] = merged(self.pods[metadata.name], patch)
            return
        assert metadata.resource_version == self.item["metadata"]["resourceVersion"], "a conflict"
        self._version += 1
        self.item = merged(self.item, patch)
        self.item["metadata"]["resourceVersion"] = str(self._version)
