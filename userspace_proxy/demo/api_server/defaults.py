"""What is meant where nothing is said: each kind's defaults, put into objects that were just read.

Source: the field descriptions at https://kubernetes.io/docs/reference/kubernetes-api/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from userspace_proxy.demo.api_server.kinds import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    NAMESPACES,
    PODS,
    SERVICES,
    Resource,
)
from userspace_proxy.demo.api_server.objects import Object

AFFINITY_SECONDS: Final = 10_800


def put_defaults(resource: Resource, item: Object) -> None:
    """Complete an object of any kind."""
    if rule := _RULES.get(resource):
        rule(item)


def _service(item: Object) -> None:
    spec = item.setdefault("spec", {})
    kind = spec.setdefault("type", "ClusterIP")
    affinity = spec.setdefault("sessionAffinity", "None")
    if affinity == "None":
        spec.pop("sessionAffinityConfig", None)
    elif affinity == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {})
        config.setdefault("clientIP", {}).setdefault("timeoutSeconds", AFFINITY_SECONDS)
    if kind != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    for port in spec.get("ports", ()):
        port.setdefault("protocol", "TCP")
        if port.get("targetPort") in (None, 0, "") and "port" in port:
            port["targetPort"] = port["port"]
    item.setdefault("status", {}).setdefault("loadBalancer", {})


def _pod(item: Object) -> None:
    spec = item.setdefault("spec", {})
    _pod_spec(spec)
    status = item.setdefault("status", {})
    status.setdefault("phase", "Pending")
    status.setdefault("qosClass", _quality(spec))


def _pod_spec(spec: Object) -> None:
    for field, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"),
    ):
        spec.setdefault(field, value)
    spec.setdefault("securityContext", {})
    for container in spec.get("initContainers", []) + spec.get("containers", []):
        _container(container)


def _container(container: Object) -> None:
    container.setdefault("imagePullPolicy", "IfNotPresent" if _has_fixed_tag(container) else "Always")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    resources = container.setdefault("resources", {})
    for name, limit in resources.get("limits", {}).items():
        resources.setdefault("requests", {}).setdefault(name, limit)
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        if field in container:
            _probe(container[field])


def _has_fixed_tag(container: Object) -> bool:
    image = container.get("image", "").rpartition("/")[2]
    return "@" in image or (":" in image and not image.endswith(":latest"))


def _probe(probe: Object) -> None:
    for field, value in (
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ):
        if not probe.get(field):
            probe[field] = value
    if "httpGet" in probe:
        probe["httpGet"].setdefault("path", "/")
        probe["httpGet"].setdefault("scheme", "HTTP")


def _quality(spec: Object) -> str:
    """The pod's class of service; see https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/"""
    resources = [container.get("resources", {}) for container in spec.get("containers", ())]
    if not any(asked.get("requests") or asked.get("limits") for asked in resources):
        return "BestEffort"
    guaranteed = all(
        {"cpu", "memory"} <= asked.get("limits", {}).keys() and asked["limits"] == asked.get("requests")
        for asked in resources
    )
    return "Guaranteed" if guaranteed else "Burstable"


def _deployment(item: Object) -> None:
    spec = item.setdefault("spec", {})
    for field, value in (("replicas", 1), ("revisionHistoryLimit", 10), ("progressDeadlineSeconds", 600)):
        spec.setdefault(field, value)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    _pod_spec(template.setdefault("spec", {}))
    item.setdefault("status", {})


def _endpoint_slice(item: Object) -> None:
    item.setdefault("endpoints", [])
    for port in item.setdefault("ports", []):
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def _endpoints(item: Object) -> None:
    for subset in item.get("subsets", ()):
        for port in subset.get("ports", ()):
            port.setdefault("protocol", "TCP")


def _namespace(item: Object) -> None:
    metadata = item["metadata"]
    metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata.get("name", "")
    item.setdefault("spec", {})
    item.setdefault("status", {}).setdefault("phase", "Active")


_RULES: Final[dict[Resource, Callable[[Object], None]]] = {
    DEPLOYMENTS: _deployment,
    ENDPOINT_SLICES: _endpoint_slice,
    ENDPOINTS: _endpoints,
    NAMESPACES: _namespace,
    PODS: _pod,
    SERVICES: _service,
}
