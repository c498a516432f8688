"""A pod's row: how many containers are ready, and one word for the state of all of them.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/ and
https://kubernetes.io/docs/tasks/debug/debug-application/debug-init-containers/#understanding-pod-status
"""

from __future__ import annotations

from datetime import datetime

from userspace_proxy.demo.api_server.cells import NONE, Cells, age, since
from userspace_proxy.demo.api_server.objects import Object


def pod_cells(item: Object, now: datetime) -> Cells:
    """The cells of a pod."""
    spec, status = item.get("spec", {}), item.get("status", {})
    sidecars = {each.get("name") for each in spec.get("initContainers", ()) if _is_sidecar(each)}
    initial = [each for each in status.get("initContainerStatuses", ()) if each.get("name") in sidecars]
    statuses = [*status.get("containerStatuses", ()), *initial]
    ready = sum(1 for each in statuses if each.get("ready") and "running" in each.get("state", {}))
    gates = spec.get("readinessGates", [])
    true = {c.get("type") for c in status.get("conditions", ()) if c.get("status") == "True"}
    passed = sum(1 for gate in gates if gate.get("conditionType") in true)
    return (
        item["metadata"]["name"],
        f"{ready}/{len(spec.get('containers', ())) + len(sidecars)}",
        pod_reason(item),
        _restarts(statuses, now),
        age(item, now),
        status.get("podIP") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        f"{passed}/{len(gates)}" if gates else NONE,
    )


def pod_reason(item: Object) -> str:
    """What is to be said of a pod in a word: its phase, or what ails a container, or that it is going."""
    status = item.get("status", {})
    if "deletionTimestamp" in item["metadata"]:
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    reason: str = status.get("reason") or status.get("phase", "")
    initial = _initial_reason(item)
    if initial is not None and not _is_true(status, "Initialized"):
        return initial
    has_running = False
    for container in reversed(status.get("containerStatuses", [])):
        state = container.get("state", {})
        if waiting := state.get("waiting", {}).get("reason"):
            reason = waiting
        elif "terminated" in state:
            reason = _end(state["terminated"])
        elif container.get("ready") and "running" in state:
            has_running = True
    if reason == "Completed" and has_running:
        return "Running" if _is_true(status, "Ready") else "NotReady"
    return reason


def _initial_reason(item: Object) -> str | None:
    """How far a pod's init containers have come; None once they are through."""
    containers = item.get("spec", {}).get("initContainers", [])
    sidecars = {each.get("name") for each in containers if _is_sidecar(each)}
    for index, container in enumerate(item.get("status", {}).get("initContainerStatuses", ())):
        state = container.get("state", {})
        if state.get("terminated", {}).get("exitCode") == 0:
            continue
        if container.get("name") in sidecars and container.get("started"):
            continue
        waiting = state.get("waiting", {}).get("reason", "PodInitializing")
        if "terminated" in state:
            return f"Init:{_end(state['terminated'])}"
        return f"Init:{index}/{len(containers)}" if waiting == "PodInitializing" else f"Init:{waiting}"
    return None


def _is_sidecar(container: Object) -> bool:
    return container.get("restartPolicy") == "Always"


def _is_true(status: Object, condition: str) -> bool:
    return any(
        each.get("type") == condition and each.get("status") == "True"
        for each in status.get("conditions", ())
    )


def _end(terminated: Object) -> str:
    signal, code = terminated.get("signal"), terminated.get("exitCode")
    reason: str = terminated.get("reason") or (f"Signal:{signal}" if signal else f"ExitCode:{code}")
    return reason


def _restarts(statuses: list[Object], now: datetime) -> str:
    count = sum(container.get("restartCount", 0) for container in statuses)
    ends = [
        finished
        for container in statuses
        if (finished := container.get("lastState", {}).get("terminated", {}).get("finishedAt"))
    ]
    return f"{count} ({since(max(ends), now)} ago)" if count and ends else str(count)
