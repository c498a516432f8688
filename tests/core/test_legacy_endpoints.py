from __future__ import annotations

from typing import Any

from userspace_proxy.core.decoding import convert
from userspace_proxy.core.legacy_endpoints import Endpoints, endpoint_slices
from userspace_proxy.core.objects import EndpointConditions, EndpointPort, EndpointSlice, SliceEndpoint


def slices_of(subsets: Any) -> list[EndpointSlice]:
    decoded = convert(
        Endpoints, {"metadata": {"name": "web", "namespace": "shop"}, "subsets": subsets}, "here"
    )
    assert decoded.object is not None
    return endpoint_slices(decoded.object)


def endpoint(address: str, *, ready: bool, node: str | None = None) -> SliceEndpoint:
    return SliceEndpoint([address], conditions=EndpointConditions(ready=ready), node_name=node)


def test_a_subset_becomes_a_slice_for_each_family() -> None:
    ipv4, ipv6 = slices_of(
        [
            {
                "addresses": [{"ip": "10.0.0.1", "nodeName": "a"}, {"ip": "fd00::1"}],
                "notReadyAddresses": [{"ip": "10.0.0.2"}],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            }
        ]
    )
    assert (ipv4.address_type, ipv6.address_type) == ("IPv4", "IPv6")
    assert ipv4.endpoints == [endpoint("10.0.0.1", ready=True, node="a"), endpoint("10.0.0.2", ready=False)]
    assert ipv6.endpoints == [endpoint("fd00::1", ready=True)]
    assert ipv4.ports == ipv6.ports == [EndpointPort(name="http", port=80, protocol="TCP")]


def test_slices_belong_to_the_service_of_that_name_and_have_names_of_their_own() -> None:
    slices = slices_of([{"addresses": [{"ip": "10.0.0.1"}]}, {"addresses": [{"ip": "10.0.0.2"}]}])
    assert [item.metadata.name for item in slices] == ["web.endpoints.0", "web.endpoints.1"]
    assert {item.metadata.namespace for item in slices} == {"shop"}
    assert all(item.metadata.labels == {"kubernetes.io/service-name": "web"} for item in slices)


def test_nothing_becomes_nothing() -> None:
    assert slices_of(None) == []
    assert slices_of([{"ports": [{"port": 80}]}]) == []


def test_a_bad_address_or_port_is_lost_alone() -> None:
    subsets = [{"addresses": [{"ip": 5}, {"ip": "10.0.0.1"}], "ports": [{"port": "x"}, {"port": 80}]}]
    (only,) = slices_of(subsets)
    assert only.endpoints == [endpoint("10.0.0.1", ready=True)]
    assert only.ports == [EndpointPort(port=80)]
