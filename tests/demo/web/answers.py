"""Objects and agents' answers, as little of them as the page looks at."""

from __future__ import annotations

from typing import Any

from userspace_proxy.core.answers.endpoints import EndpointAnswer, EndpointHealth, EndpointUse
from userspace_proxy.core.answers.services import ServicePortAnswer

NO_HEALTH = EndpointHealth()


def pod(name: str, address: str, *, ready: bool = True, **other: Any) -> dict[str, Any]:
    """A pod of the app `web` on node-1; `other` are `metadata`, `status` or `spec` to add."""
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "labels": {"app": "web"},
            **other.get("metadata", {}),
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": "web"}], **other.get("spec", {})},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            **other.get("status", {}),
        },
    }


def service(name: str = "web", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "10.96.0.7",
            "clusterIPs": ["10.96.0.7"],
            "ports": [{"port": 80}],
            **spec,
        },
    }


def endpoint(
    address: str = "10.244.1.2:8080",
    *,
    opened: int = 0,
    failed: int = 0,
    is_used: bool = True,
    reason: str = "ready",
    health: EndpointHealth = NO_HEALTH,
) -> EndpointAnswer:
    return EndpointAnswer(
        service_port="default/web:http",
        protocol="TCP",
        family="IPv4",
        endpoint=address,
        ready=True,
        serving=True,
        terminating=False,
        node="node-1",
        hint_nodes=(),
        hint_zones=(),
        slices=("web-1",),
        uses=(EndpointUse(policy="Cluster", is_used=is_used, reason=reason),),
        opened=opened,
        active=0,
        failed=failed,
        bytes_in=0,
        bytes_out=0,
        ejections=0,
        health=health,
    )


def service_port(*, opened: int = 0, retried: int = 0, problems: tuple[str, ...] = ()) -> ServicePortAnswer:
    return ServicePortAnswer(
        service_port="default/web:http",
        protocol="TCP",
        family="IPv4",
        frontends=(),
        listeners=(),
        workers=(),
        internal_traffic_policy="Cluster",
        external_traffic_policy="Cluster",
        affinity_timeout_seconds=None,
        health_check_node_port=None,
        balancing="round-robin",
        max_connections=None,
        max_connections_per_client=None,
        drain_removed_seconds=None,
        sends_proxy_protocol=False,
        ready_endpoints=1,
        listed_endpoints=1,
        ejected_endpoints=0,
        active=0,
        opened=opened,
        failed=0,
        retried=retried,
        refused=0,
        bytes_in=3,
        bytes_out=4,
        problems=problems,
    )
