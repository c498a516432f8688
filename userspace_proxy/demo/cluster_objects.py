"""The API objects that a demo cluster begins with: Services of the cluster itself, and their endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, TypeAlias

Object: TypeAlias = dict[str, Any]

SERVICE_CIDR: Final = "10.96.0.0/16"
SERVICE_CIDR_V6: Final = "fd00:10:96::/112"
API_ADDRESSES: Final = ("10.96.0.1", "fd00:10:96::1")
DNS_ADDRESSES: Final = ("10.96.0.10", "fd00:10:96::a")
LOAD_BALANCER_POOLS: Final = (IPv4Network("198.51.100.0/24"), IPv6Network("2001:db8:100::/120"))
"""Nobody's addresses, for documentation; RFC 5737 and 3849. The host outside is told who has them."""

API_PORT: Final = 6443
DNS_PORT: Final = 53
CLUSTER_DOMAIN: Final = "cluster.local"
OUTSIDE_NAME: Final = "outside.example"
"""A name of the host outside, for an ExternalName to point at."""

_MANAGED_BY: Final = {"endpointslice.kubernetes.io/managed-by": "userspace-proxy-demo"}


def resolv_conf(namespace: str, ipv6: bool) -> str:
    """Whom the pods of a namespace ask for names; resolv.conf(5)."""
    servers = "".join(f"nameserver {address}\n" for address in _of_families(DNS_ADDRESSES, ipv6))
    domains = " ".join(f"{prefix}{CLUSTER_DOMAIN}" for prefix in (f"{namespace}.svc.", "svc.", ""))
    return f"{servers}search {domains}\noptions ndots:5\n"


def api_service(ipv6: bool) -> Object:
    """The Service `kubernetes`, by which pods reach the API server."""
    port = {"name": "https", "protocol": "TCP", "port": 443, "targetPort": API_PORT}
    return _service("default", "kubernetes", _of_families(API_ADDRESSES, ipv6), [port], {})


def dns_service(ipv6: bool) -> Object:
    """The Service by which pods ask for names."""
    ports = [
        {"name": name, "protocol": protocol, "port": DNS_PORT, "targetPort": DNS_PORT}
        for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]
    labels = {"k8s-app": "kube-dns"}
    return _service("kube-system", "kube-dns", _of_families(DNS_ADDRESSES, ipv6), ports, labels)


def endpoint_slices(service: Object, addresses: Sequence[str], node: str | None = None) -> list[Object]:
    """EndpointSlices for a Service without a selector: one endpoint, by an address of each family."""
    metadata = service["metadata"]
    ports = [
        {"name": port["name"], "protocol": port["protocol"], "port": port["targetPort"]}
        for port in service["spec"]["ports"]
    ]
    endpoint = {"conditions": {"ready": True}, **({"nodeName": node} if node else {})}
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{metadata['name']}-{'ipv6' if ':' in address else 'ipv4'}",
                "namespace": metadata["namespace"],
                "labels": {"kubernetes.io/service-name": metadata["name"], **_MANAGED_BY},
            },
            "addressType": "IPv6" if ":" in address else "IPv4",
            "endpoints": [{"addresses": [address], **endpoint}],
            "ports": ports,
        }
        for address in addresses
    ]


def _service(
    namespace: str, name: str, addresses: Sequence[str], ports: list[Object], labels: dict[str, str]
) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses[0],
            "clusterIPs": list(addresses),
            "ipFamilies": ["IPv6" if ":" in address else "IPv4" for address in addresses],
            "ipFamilyPolicy": "RequireDualStack" if len(addresses) > 1 else "SingleStack",
            "ports": ports,
        },
    }


def _of_families(addresses: tuple[str, str], ipv6: bool) -> tuple[str, ...]:
    return addresses if ipv6 else addresses[:1]
