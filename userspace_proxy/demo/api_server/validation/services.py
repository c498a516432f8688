"""What a Service may say. Its addresses and ports have been allocated before; see `allocation`.

Source: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.statuses import (
    Cause,
    is_duplicate,
    is_forbidden,
    is_invalid,
    is_required,
    is_unsupported,
)
from userspace_proxy.demo.api_server.validation import names
from userspace_proxy.demo.api_server.validation.metadata import label_causes

TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
MOST_AFFINITY_SECONDS: Final = 86_400

_CHOICES: Final = {
    "type": TYPES,
    "sessionAffinity": ("ClientIP", "None"),
    "ipFamilyPolicy": ("PreferDualStack", "RequireDualStack", "SingleStack"),
    "internalTrafficPolicy": ("Cluster", "Local"),
    "externalTrafficPolicy": ("Cluster", "Local"),
    "trafficDistribution": ("PreferClose", "PreferSameNode", "PreferSameZone"),
}


def service_causes(item: Object) -> Iterator[Cause]:
    """What is wrong with a Service."""
    spec = item.get("spec", {})
    for field, values in _CHOICES.items():
        if field in spec and spec[field] not in values:
            yield is_unsupported(f"spec.{field}", spec[field], values)
    yield from _port_causes(spec)
    yield from label_causes(spec.get("selector", {}), "spec.selector")
    yield from _affinity_causes(spec)
    yield from _address_causes(spec)
    yield from _type_causes(spec)


def _port_causes(spec: Object) -> Iterator[Cause]:
    ports = spec.get("ports", [])
    is_headless = spec.get("clusterIP") == "None"
    if not ports and not is_headless and spec.get("type") != "ExternalName":
        yield is_required("spec.ports")
    seen_names: set[str] = set()
    seen_ports: set[tuple[object, object]] = set()
    seen_node_ports: set[tuple[object, object]] = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        name = port.get("name", "")
        if not name and len(ports) > 1:
            yield is_required(f"{path}.name")
        elif name:
            if wrong := names.dns_label(name):
                yield is_invalid(f"{path}.name", name, wrong)
            if name in seen_names:
                yield is_duplicate(f"{path}.name", name)
            seen_names.add(name)
        number = port.get("port", 0)
        if wrong := names.port_number(number):
            yield is_invalid(f"{path}.port", number, wrong)
        protocol = port.get("protocol")
        if protocol not in PROTOCOLS:
            yield is_unsupported(f"{path}.protocol", protocol, PROTOCOLS)
        target = port.get("targetPort")
        wrong = names.port_name(target) if isinstance(target, str) else names.port_number(target)
        if wrong and target is not None and target != number:
            yield is_invalid(f"{path}.targetPort", target, wrong)
        if "appProtocol" in port and (wrong := names.qualified_name(port["appProtocol"])):
            yield is_invalid(f"{path}.appProtocol", port["appProtocol"], wrong)
        if (number, protocol) in seen_ports:
            yield is_duplicate(path, {"protocol": protocol, "port": number})
        seen_ports.add((number, protocol))
        if node_port := port.get("nodePort"):
            if spec.get("type") in ("ClusterIP", "ExternalName"):
                detail = f"may not be used when `type` is '{spec.get('type')}'"
                yield is_forbidden(f"{path}.nodePort", detail)
            if (node_port, protocol) in seen_node_ports:
                yield is_duplicate(f"{path}.nodePort", node_port)
            seen_node_ports.add((node_port, protocol))


def _affinity_causes(spec: Object) -> Iterator[Cause]:
    seconds = spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds")
    if seconds is not None and not 0 < seconds <= MOST_AFFINITY_SECONDS:
        detail = f"must be greater than 0 and less than {MOST_AFFINITY_SECONDS}"
        yield is_invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, detail)


def _address_causes(spec: Object) -> Iterator[Cause]:
    for index, address in enumerate(spec.get("externalIPs", ())):
        if wrong := names.reachable_ip(address):
            yield is_invalid(f"spec.externalIPs[{index}]", address, wrong)
    for index, source in enumerate(spec.get("loadBalancerSourceRanges", ())):
        if wrong := names.cidr(source.strip()):
            yield is_invalid(f"spec.loadBalancerSourceRanges[{index}]", source, wrong)


def _type_causes(spec: Object) -> Iterator[Cause]:
    kind = spec.get("type")
    is_headless = spec.get("clusterIP") == "None"
    if kind == "ExternalName":
        external = spec.get("externalName", "")
        if not external:
            yield is_required("spec.externalName")
        elif wrong := names.dns_subdomain(external.removesuffix(".")):
            yield is_invalid("spec.externalName", external, wrong)
        for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get(field):
                yield is_forbidden(f"spec.{field}", "may not be set for ExternalName services")
    if is_headless and kind in ("NodePort", "LoadBalancer"):
        detail = f"may not be set to 'None' for {kind} services"
        yield is_invalid("spec.clusterIPs[0]", "None", detail)
    if kind != "LoadBalancer":
        if spec.get("loadBalancerSourceRanges"):
            yield is_forbidden(
                "spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'"
            )
        for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if field in spec:
                yield is_forbidden(f"spec.{field}", "may only be used when `type` is 'LoadBalancer'")
    is_exposed = kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs")
    if "externalTrafficPolicy" in spec and not is_exposed:
        detail = "may only be set for externally-accessible services"
        yield is_invalid("spec.externalTrafficPolicy", spec["externalTrafficPolicy"], detail)
    if spec.get("healthCheckNodePort") and not needs_health_check_node_port(spec):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield is_invalid("spec.healthCheckNodePort", spec["healthCheckNodePort"], detail)


def service_change_causes(before: Object, after: Object) -> Iterator[Cause]:
    """What of a Service may not change so."""
    old, new = before.get("spec", {}), after.get("spec", {})
    if needs_cluster_ip(old) and needs_cluster_ip(new):
        yield from _cluster_ip_change_causes(old, new)
    checked = needs_health_check_node_port(old) and needs_health_check_node_port(new)
    if checked and old.get("healthCheckNodePort") != new.get("healthCheckNodePort"):
        yield is_forbidden("spec.healthCheckNodePort", "field is immutable")
    is_balanced = old.get("type") == new.get("type") == "LoadBalancer"
    if is_balanced and (name := new.get("loadBalancerClass")) != old.get("loadBalancerClass"):
        yield is_invalid("spec.loadBalancerClass", name, "may not change once set")


def _cluster_ip_change_causes(old: Object, new: Object) -> Iterator[Cause]:
    were, are = old.get("clusterIPs", []), new.get("clusterIPs", [])
    for index, (was, now) in enumerate(zip(were, are, strict=False)):
        if was != now:
            yield is_invalid(f"spec.clusterIPs[{index}]", are, "may not change once set")
    if were and not are:
        yield is_invalid("spec.clusterIPs[0]", are, "primary clusterIP can not be unset")
    had, has = old.get("ipFamilies", []), new.get("ipFamilies", [])
    if had and has and had[0] != has[0]:
        yield is_invalid("spec.ipFamilies[0]", has[0], "may not change once set")


def needs_cluster_ip(spec: Object) -> bool:
    """Whether a Service of this type has addresses inside the cluster."""
    return spec.get("type") in ("ClusterIP", "LoadBalancer", "NodePort")


def needs_node_ports(spec: Object) -> bool:
    """Whether each port gets one of the nodes' ports."""
    if spec.get("type") == "LoadBalancer":
        return spec.get("allocateLoadBalancerNodePorts") is not False
    return spec.get("type") == "NodePort"


def needs_health_check_node_port(spec: Object) -> bool:
    """Whether load balancers ask the nodes for their health on a port of its own."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"
