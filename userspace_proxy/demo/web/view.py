"""What the page draws, worked out from the API's objects and the agents' answers; pure.

A view is items in sections, each under its key: what is alike in two views is not sent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from userspace_proxy.core.answers.endpoints import EndpointAnswer
from userspace_proxy.core.answers.services import ServicePortAnswer
from userspace_proxy.demo.api_resources import JsonObject
from userspace_proxy.demo.kubelet.pod_spec import BLACK_HOLE, READY

View: TypeAlias = dict[str, dict[str, JsonObject]]
Changes: TypeAlias = dict[str, dict[str, JsonObject | None]]
"""What is new or other, by section and key; None is gone."""

_SYSTEM: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})


@dataclass(frozen=True, slots=True)
class Objects:
    """What the API server has."""

    nodes: Iterable[JsonObject] = ()
    pods: Iterable[JsonObject] = ()
    services: Iterable[JsonObject] = ()
    deployments: Iterable[JsonObject] = ()


@dataclass(frozen=True, slots=True)
class AgentReading:
    """What one node's agent answered: all its Service ports, and all endpoints."""

    service_ports: tuple[ServicePortAnswer, ...] = ()
    endpoints: tuple[EndpointAnswer, ...] = ()


Readings: TypeAlias = Mapping[str, AgentReading]
"""By node; an agent that does not answer has none."""


def view_of(objects: Objects, readings: Readings, load: JsonObject) -> View:
    """What the page draws."""
    pods = {_key(pod): _pod(pod) for pod in objects.pods}
    keys = pod_keys(objects.pods)
    services = {_key(service): _service(service) for service in objects.services}
    counters = {name: _counters(name, readings, keys) for name in services}
    for name, service in services.items():
        service["endpoints"] = _endpoints(name, readings, keys)
        service["problems"] = sorted(_problems(name, readings))
    for key, pod in pods.items():
        uses = [use for service in services.values() if (use := service["endpoints"].get(key))]
        pod["mark"], pod["says"] = _appearance(pod, uses)
    return {
        "nodes": {node["metadata"]["name"]: _node(node, readings) for node in objects.nodes},
        "pods": pods,
        "services": services,
        "deployments": {_key(each): _deployment(each) for each in objects.deployments},
        "counters": counters,
        "load": {"load": load},
    }


def changes(before: View, after: View) -> Changes:
    """What makes `after` of `before`."""
    found: Changes = {}
    for section, items in after.items():
        old = before.get(section, {})
        changed: dict[str, JsonObject | None] = {
            key: item for key, item in items.items() if old.get(key) != item
        }
        changed.update((key, None) for key in old if key not in items)
        if changed:
            found[section] = changed
    return found


def pod_keys(pods: Iterable[JsonObject]) -> dict[str, str]:
    """Which pod, as `namespace/name`, has an address; of two the one that is not ending."""
    ordered = sorted(pods, key=lambda pod: not pod["metadata"].get("deletionTimestamp"))
    return {address: _key(pod) for pod in ordered for address in _addresses(pod)}


def target_of(endpoint: str, keys: Mapping[str, str]) -> str:
    """The pod behind `address:port`, or the address where no pod has it."""
    address = endpoint.rpartition(":")[0].strip("[]")
    return keys.get(address, address)


def service_of(service_port: str) -> str:
    """The Service of `namespace/name:port`, as `namespace/name`."""
    return service_port.partition(":")[0]


def _node(node: JsonObject, readings: Readings) -> JsonObject:
    metadata = node["metadata"]
    return {
        "name": metadata["name"],
        "zone": (metadata.get("labels") or {}).get("topology.kubernetes.io/zone", ""),
        "addresses": [
            entry["address"]
            for entry in _status(node).get("addresses") or ()
            if entry.get("type") == "InternalIP"
        ],
        "agentAnswers": metadata["name"] in readings,
    }


def _pod(pod: JsonObject) -> JsonObject:
    metadata, status = pod["metadata"], _status(pod)
    annotations = metadata.get("annotations") or {}
    containers = status.get("containerStatuses") or ()
    state, why = _pod_state(pod, annotations)
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "app": (metadata.get("labels") or {}).get("app", ""),
        "node": pod["spec"].get("nodeName", ""),
        "addresses": _addresses(pod),
        "state": state,
        "why": why,
        "restarts": sum(container.get("restartCount", 0) for container in containers),
        "isMadeUnready": annotations.get(READY) == "false",
        "isBlackHoled": annotations.get(BLACK_HOLE) == "true",
    }


def _addresses(pod: JsonObject) -> list[str]:
    return [entry["ip"] for entry in _status(pod).get("podIPs") or () if entry.get("ip")]


def _pod_state(pod: JsonObject, annotations: Mapping[str, str]) -> tuple[str, str]:
    """One of ready, not-ready, pending, terminating, ended; and why, in words."""
    status = _status(pod)
    phase = status.get("phase", "Pending")
    if pod["metadata"].get("deletionTimestamp"):
        return "terminating", "it is being deleted"
    if phase in ("Succeeded", "Failed"):
        return "ended", "its processes have ended" if phase == "Succeeded" else "its processes have failed"
    conditions = {entry["type"]: entry for entry in status.get("conditions") or ()}
    ready = conditions.get("Ready", {})
    if ready.get("status") == "True":
        return "ready", ""
    if annotations.get(READY) == "false":
        return "not-ready", "somebody made it not ready"
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return "not-ready" if phase == "Running" else "pending", str(waiting["reason"])
        if (container.get("state") or {}).get("terminated"):
            return "not-ready", "its process was killed"
    if phase != "Running":
        return "pending", "it starts" if pod["spec"].get("nodeName") else "no node has it yet"
    return "not-ready", "its readiness probe fails" if _is_probed(pod) else "its container does not run"


def _appearance(pod: JsonObject, uses: Iterable[JsonObject]) -> tuple[str, str]:
    """The mark that the page gives a pod, and what it says in few words, by what matters most of it."""
    if pod["state"] in ("terminating", "ended", "pending"):
        return pod["state"], f"{pod['state']}: {pod['why']}"
    if pod["isBlackHoled"]:
        return "black-holed", "black hole: what is sent to it is lost"
    left_out = next((use for use in uses if use["state"] in ("ejected", "taken-out")), None)
    if pod["state"] == "ready" and left_out is not None:
        return "ejected", f"{left_out['state'].replace('-', ' ')}: {left_out['reason']}"
    return pod["state"], f"not ready: {pod['why']}" if pod["state"] == "not-ready" else "ready"


def _is_probed(pod: JsonObject) -> bool:
    return any(container.get("readinessProbe") for container in pod["spec"].get("containers") or ())


def _service(service: JsonObject) -> JsonObject:
    metadata, spec = service["metadata"], service["spec"]
    status = _status(service)
    ingress = (status.get("loadBalancer") or {}).get("ingress") or ()
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "type": spec.get("type", "ClusterIP"),
        "addresses": [
            *(spec.get("clusterIPs") or ()),
            *(entry["ip"] for entry in ingress if entry.get("ip")),
            *([spec["externalName"]] if spec.get("externalName") else []),
        ],
        "ports": [_port(port) for port in spec.get("ports") or ()],
        "isSystem": metadata["namespace"] in _SYSTEM or _key(service) == "default/kubernetes",
        "takesRequests": any(port.get("protocol", "TCP") == "TCP" for port in spec.get("ports") or ())
        and (spec.get("clusterIP") or "None") != "None",
    }


def _port(port: JsonObject) -> str:
    node_port = f" (node port {port['nodePort']})" if port.get("nodePort") else ""
    return f"{port['port']}/{port.get('protocol', 'TCP')}{node_port}"


def _deployment(deployment: JsonObject) -> JsonObject:
    labels = ((deployment["spec"].get("template") or {}).get("metadata") or {}).get("labels") or {}
    return {
        "namespace": deployment["metadata"]["namespace"],
        "name": deployment["metadata"]["name"],
        "app": labels.get("app", ""),
        "replicas": deployment["spec"].get("replicas", 1),
        "ready": _status(deployment).get("readyReplicas", 0),
    }


def _counters(name: str, readings: Readings, keys: Mapping[str, str]) -> JsonObject:
    targets: dict[str, list[int]] = {}
    for reading in readings.values():
        for endpoint in reading.endpoints:
            if service_of(endpoint.service_port) == name:
                carried = targets.setdefault(target_of(endpoint.endpoint, keys), [0, 0])
                carried[0] += endpoint.opened
                carried[1] += endpoint.failed
    ports = [
        port
        for reading in readings.values()
        for port in reading.service_ports
        if service_of(port.service_port) == name
    ]
    return {
        "opened": sum(port.opened for port in ports),
        "active": sum(port.active for port in ports),
        "failed": sum(port.failed for port in ports),
        "retried": sum(port.retried for port in ports),
        "refused": sum(port.refused for port in ports),
        "bytes": sum(port.bytes_in + port.bytes_out for port in ports),
        "targets": targets,
    }


def _endpoints(name: str, readings: Readings, keys: Mapping[str, str]) -> dict[str, JsonObject]:
    """By pod, or by address where there is none: how many agents use it, and why some do not."""
    by_target: dict[str, dict[str, list[EndpointAnswer]]] = {}
    for node, reading in sorted(readings.items()):
        for endpoint in reading.endpoints:
            if service_of(endpoint.service_port) == name:
                target = target_of(endpoint.endpoint, keys)
                by_target.setdefault(target, {}).setdefault(node, []).append(endpoint)
    return {target: _endpoint(agents) for target, agents in sorted(by_target.items())}


def _endpoint(agents: Mapping[str, list[EndpointAnswer]]) -> JsonObject:
    using = [node for node, answers in agents.items() if all(_state(each)[0] == "used" for each in answers)]
    worst: dict[str, str] = {}
    for answers in agents.values():
        for answer in answers:
            state, reason = _state(answer)
            worst.setdefault(state, reason)
    state = next(each for each in ("taken-out", "ejected", "unused", "used") if each in worst)
    reason = worst[state]
    if state == "ejected":
        by = [node for node, answers in agents.items() if any(_state(each)[0] == state for each in answers)]
        reason = f"{reason}, by the agent of {', '.join(by)}"
    return {
        "state": state,
        "reason": reason,
        "usedBy": len(using),
        "agents": len(agents),
    }


def _state(endpoint: EndpointAnswer) -> tuple[str, str]:
    """How one agent treats an endpoint: used, unused, ejected or taken-out; and why."""
    health = endpoint.health
    if health.taken_out:
        return "taken-out", "an operator took it out"
    if health.ejected_seconds is not None and health.left_out_of:
        return "ejected", f"left out for now: {health.failures} connects in a row failed"
    for use in endpoint.uses:
        if use.is_used:
            return "used", use.reason
    return "unused", next((use.reason for use in endpoint.uses), "no traffic goes to it")


def _problems(name: str, readings: Readings) -> set[str]:
    return {
        problem
        for reading in readings.values()
        for port in reading.service_ports
        if service_of(port.service_port) == name
        for problem in port.problems
    }


def _key(item: JsonObject) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def _status(item: JsonObject) -> dict[str, Any]:
    status: dict[str, Any] = item.get("status") or {}
    return status
