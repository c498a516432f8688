"""What a changed Service keeps, and what goes with its type."""

from __future__ import annotations

from typing import Any

import pytest

from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.service_changes import carry_over

ADDRESSES: Object = {
    "clusterIP": "10.96.0.1",
    "clusterIPs": ["10.96.0.1"],
    "ipFamilies": ["IPv4"],
    "ipFamilyPolicy": "SingleStack",
}
PORT: Object = {"port": 80, "protocol": "TCP"}
NODE_PORT: Object = PORT | {"nodePort": 30001}


def changed(old: Object, new: Object) -> Any:
    """The spec of a Service that was `old` and is written as `new`."""
    after = {"spec": dict(new)}
    carry_over({"spec": old}, after)
    return after["spec"]


def test_addresses_and_ports_are_kept_where_nothing_is_said() -> None:
    old = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", **ADDRESSES, "ports": [NODE_PORT]}
    old["healthCheckNodePort"] = 30002
    new = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [dict(PORT)]}
    assert changed(old, new) == old


def test_a_port_that_moved_gets_another_node_port() -> None:
    old = {"type": "NodePort", **ADDRESSES, "ports": [NODE_PORT]}
    new = {"type": "NodePort", "ports": [{"port": 81, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}]}
    assert all("nodePort" not in port for port in changed(old, new)["ports"])


def test_a_node_port_that_is_asked_for_elsewhere_is_not_kept() -> None:
    old = {"type": "NodePort", **ADDRESSES, "ports": [NODE_PORT]}
    new = {"type": "NodePort", "ports": [dict(PORT), {"port": 81, "protocol": "TCP", "nodePort": 30001}]}
    assert "nodePort" not in changed(old, new)["ports"][0]


@pytest.mark.parametrize(
    ("old", "new_type", "gone"),
    [
        ({"type": "NodePort", "externalTrafficPolicy": "Cluster"}, "ClusterIP", "externalTrafficPolicy"),
        (
            {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": True},
            "NodePort",
            "allocateLoadBalancerNodePorts",
        ),
        ({"type": "LoadBalancer", "loadBalancerClass": "x/y"}, "ClusterIP", "loadBalancerClass"),
        ({"type": "ClusterIP", **ADDRESSES}, "ExternalName", "clusterIPs"),
        ({"type": "ClusterIP", "internalTrafficPolicy": "Cluster"}, "ExternalName", "internalTrafficPolicy"),
        ({"type": "ExternalName", "externalName": "example.com"}, "ClusterIP", "externalName"),
        (
            {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30002},
            "NodePort",
            "healthCheckNodePort",
        ),
    ],
)
def test_what_belongs_to_a_type_goes_with_it(old: Object, new_type: str, gone: str) -> None:
    assert gone not in changed(old, {**old, "type": new_type})


def test_node_ports_go_with_the_type_unless_they_are_asked_for_anew() -> None:
    old = {"type": "NodePort", **ADDRESSES, "ports": [NODE_PORT]}
    assert changed(old, {**old, "type": "ClusterIP", "ports": [dict(NODE_PORT)]})["ports"] == [PORT]
    asked = [PORT | {"nodePort": 30009}]
    assert changed(old, {**old, "type": "ClusterIP", "ports": asked})["ports"] == asked  # to be refused


def test_the_policy_stays_for_external_addresses() -> None:
    old = {"type": "NodePort", "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"]}
    assert changed(old, {**old, "type": "ClusterIP"})["externalTrafficPolicy"] == "Local"


def test_clusterip_speaks_for_both() -> None:
    old = {"type": "ClusterIP", **ADDRESSES}
    assert changed(old, {**old, "clusterIP": "10.96.0.2"})["clusterIPs"] == ["10.96.0.2"]
    gone = changed(old, {**old, "type": "ExternalName", "clusterIP": ""})
    assert "clusterIPs" not in gone
