"""A changed Service: what it keeps of addresses and ports unsaid, and what its new type gives back.

Source: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/
"""

from __future__ import annotations

from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.validation.services import (
    needs_cluster_ip,
    needs_health_check_node_port,
    needs_node_ports,
)


def carry_over(before: Object, after: Object) -> None:
    """Put into a changed Service what it keeps without saying so, and take out what its new type has not."""
    old, new = before.get("spec", {}), after.get("spec", {})
    if needs_cluster_ip(old) and needs_cluster_ip(new):
        if not new.get("clusterIP") and not new.get("clusterIPs"):
            for field in ("clusterIP", "clusterIPs"):
                if field in old:
                    new[field] = old[field]
        for field in ("ipFamilies", "ipFamilyPolicy"):
            if field in old:
                new.setdefault(field, old[field])
    if needs_node_ports(old) and needs_node_ports(new):
        _keep_node_ports(old, new)
    if needs_health_check_node_port(old) and needs_health_check_node_port(new):
        new.setdefault("healthCheckNodePort", old.get("healthCheckNodePort"))
    _follow_cluster_ip(old, new)
    _drop_unneeded(old, new)


def _keep_node_ports(old: Object, new: Object) -> None:
    kept = {
        (p.get("protocol"), p.get("port")): p["nodePort"] for p in old.get("ports", ()) if "nodePort" in p
    }
    asked = {port["nodePort"] for port in new.get("ports", ()) if "nodePort" in port}
    for port in new.get("ports", ()):
        former = kept.get((port.get("protocol"), port.get("port")))
        if "nodePort" not in port and former is not None and former not in asked:
            port["nodePort"] = former


def _follow_cluster_ip(old: Object, new: Object) -> None:
    """Who changes clusterIP alone means clusterIPs too."""
    if new.get("clusterIP") != old.get("clusterIP") and new.get("clusterIPs") == old.get("clusterIPs"):
        if new.get("clusterIP"):
            new["clusterIPs"] = [new["clusterIP"]]
        else:
            new.pop("clusterIPs", None)


def _drop_unneeded(old: Object, new: Object) -> None:
    """What belongs to a type goes with it, unless somebody asks for it anew."""

    def drop(spec: Object, *fields: str) -> None:
        for field in fields:
            if spec.get(field) == old.get(field):
                spec.pop(field, None)

    if needs_cluster_ip(old) and not needs_cluster_ip(new):
        drop(new, "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy")
    if needs_node_ports(old) and not needs_node_ports(new):
        given = {port.get("nodePort") for port in old.get("ports", ())}
        for port in new.get("ports", ()):
            if port.get("nodePort") in given:
                port.pop("nodePort", None)
    if needs_health_check_node_port(old) and not needs_health_check_node_port(new):
        drop(new, "healthCheckNodePort")
    if old.get("type") == "LoadBalancer" != new.get("type"):
        drop(new, "allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerSourceRanges")
    exposed = ("LoadBalancer", "NodePort")
    if old.get("type") in exposed and new.get("type") not in exposed and not new.get("externalIPs"):
        drop(new, "externalTrafficPolicy")
    if old.get("type") == "ExternalName" != new.get("type"):
        drop(new, "externalName")
