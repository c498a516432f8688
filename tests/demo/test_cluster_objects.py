"""The objects of the cluster itself, in one family and in both."""

from __future__ import annotations

from userspace_proxy.demo.cluster_objects import api_service, dns_service, endpoint_slices, resolv_conf


def test_the_services_have_fixed_addresses_of_each_family() -> None:
    spec = api_service(True)["spec"]
    assert spec["clusterIPs"] == ["10.96.0.1", "fd00:10:96::1"]
    assert spec["ipFamilies"] == ["IPv4", "IPv6"]
    assert spec["ipFamilyPolicy"] == "RequireDualStack"
    alone = dns_service(False)["spec"]
    assert (alone["clusterIPs"], alone["ipFamilyPolicy"]) == (["10.96.0.10"], "SingleStack")
    assert [(port["protocol"], port["port"]) for port in alone["ports"]] == [("UDP", 53), ("TCP", 53)]


def test_each_family_has_a_slice_with_the_endpoint_on_its_node() -> None:
    v4, v6 = endpoint_slices(dns_service(True), ["10.244.1.2", "fd00:10:244:1::2"], "node-1")
    assert (v4["metadata"]["name"], v4["addressType"]) == ("kube-dns-ipv4", "IPv4")
    assert (v6["metadata"]["name"], v6["addressType"]) == ("kube-dns-ipv6", "IPv6")
    assert v6["metadata"]["labels"]["kubernetes.io/service-name"] == "kube-dns"
    assert v6["endpoints"] == [
        {"addresses": ["fd00:10:244:1::2"], "conditions": {"ready": True}, "nodeName": "node-1"}
    ]
    [slice_] = endpoint_slices(api_service(False), ["192.0.2.2"])
    assert slice_["endpoints"] == [{"addresses": ["192.0.2.2"], "conditions": {"ready": True}}]
    assert slice_["ports"] == [{"name": "https", "protocol": "TCP", "port": 6443}]


def test_pods_search_their_own_namespace_first() -> None:
    assert resolv_conf("shop", ipv6=True) == (
        "nameserver 10.96.0.10\n"
        "nameserver fd00:10:96::a\n"
        "search shop.svc.cluster.local svc.cluster.local cluster.local\n"
        "options ndots:5\n"
    )
    assert "fd00" not in resolv_conf("shop", ipv6=False)
