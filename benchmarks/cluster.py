"""A cluster with many Services and endpoints, as objects. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

Object = dict[str, Any]

SERVICE_PORT: Final = 7
PORT_NAME: Final = "echo"
_SERVICES: Final = IPv4Network("10.96.0.0/16")
_ABSENT_ENDPOINTS: Final = IPv4Network("10.128.0.0/12")


def cluster_ip(number: int) -> str:
    """The address of a Service; the first 256 of the network are left to others."""
    return str(_SERVICES[256 + number])


def absent_endpoints(number: int, count: int) -> list[str]:
    """Addresses at which nobody is, different ones for each Service."""
    return [str(_ABSENT_ENDPOINTS[number * count + index]) for index in range(count)]


def service(number: int, *, workers: int = 1) -> Object:
    """The Service of that number, as an API server has it, for so many workers to share."""
    address = cluster_ip(number)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            **_metadata(f"service-{number}", {"app": f"service-{number}"}),
            "annotations": {"userspace-proxy.io/workers": str(workers)},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "selector": {"app": f"service-{number}"},
            "ports": [{"name": PORT_NAME, "port": SERVICE_PORT, "protocol": "TCP", "targetPort": 7007}],
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(number: int, addresses: Sequence[str], port: int) -> Object:
    """Its only slice."""
    labels = {
        "kubernetes.io/service-name": f"service-{number}",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _metadata(f"service-{number}-abcde", labels),
        "addressType": "IPv4",
        "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{int(IPv4Address(address)) % 100}",
                "targetRef": {
                    "kind": "Pod",
                    "namespace": "default",
                    "name": f"service-{number}-7d4b9c6f5-{index:05}",
                    "uid": f"00000000-0000-4000-8000-{number:06}{index:06}",
                },
                "zone": f"zone-{index % 3}",
            }
            for index, address in enumerate(addresses)
        ],
    }


def node(address: str) -> Object:
    """The node that the proxy runs on."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-1", "resourceVersion": "1", "uid": "node-1"},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def _metadata(name: str, labels: dict[str, str]) -> Object:
    return {
        "name": name,
        "namespace": "default",
        "uid": f"uid-of-{name}",
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": labels,
    }
