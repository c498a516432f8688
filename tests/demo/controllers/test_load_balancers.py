"""Addresses for load balancers on paper: who gets which, who keeps it, and where its traffic goes."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import pytest

from tests.demo.controllers.simulation import node, service, struct
from userspace_proxy.demo.controllers.load_balancers import ASKED_ADDRESSES, announcement, plan_load_balancers
from userspace_proxy.demo.controllers.objects import EndpointSlice, Service
from userspace_proxy.demo.controllers.writes import Patch, Say, Write

POOLS = [ip_network("192.0.2.0/29"), ip_network("2001:db8::/64")]


def balanced(name: str = "web", *addresses: str, **spec: Any) -> Service:
    status = {"loadBalancer": {"ingress": [{"ip": address} for address in addresses]}} if addresses else {}
    return service(name, status=status, **{"type": "LoadBalancer", **spec})


def plan(*services: Service) -> Sequence[Write]:
    return plan_load_balancers(services, POOLS).writes


def given(writes: Sequence[Write]) -> dict[str, list[str]]:
    """The addresses that are written into each Service's status."""
    return {
        write.metadata.name: [entry.ip for entry in write.body["status"]["loadBalancer"]["ingress"] or ()]
        for write in writes
        if isinstance(write, Patch)
    }


def test_each_gets_the_first_free_address_of_each_of_its_families() -> None:
    services = balanced("a"), balanced("b", ipFamilies=["IPv6", "IPv4"]), balanced("c", "192.0.2.2")
    writes = plan(*services)
    assert given(writes) == {"a": ["192.0.2.1"], "b": ["2001:db8::1", "192.0.2.3"]}
    assert all(isinstance(write, Patch) and write.subresource == "status" for write in writes)


def test_an_address_is_kept() -> None:
    assert not plan(balanced("web", "192.0.2.5"))


@pytest.mark.parametrize(
    "asking",
    [
        {"loadBalancerIP": "192.0.2.4"},
        {"metadata": {"annotations": {ASKED_ADDRESSES: "2001:db8::9, 192.0.2.4"}}},
    ],
)
@pytest.mark.parametrize("present", [(), ("192.0.2.1",)])
def test_who_asks_for_an_address_gets_it(asking: Any, present: tuple[str, ...]) -> None:
    assert given(plan(balanced("web", *present, **asking))) == {"web": ["192.0.2.4"]}


@pytest.mark.parametrize(
    ("asked", "other", "message"),
    [
        ("192.0.2.4", "192.0.2.4", "192.0.2.4 is not to be had in 192.0.2.0/29, 2001:db8::/64"),
        ("203.0.113.1", "192.0.2.4", "203.0.113.1 is not to be had in 192.0.2.0/29, 2001:db8::/64"),
    ],
)
def test_who_asks_for_what_is_not_to_be_had_is_told_so(asked: str, other: str, message: str) -> None:
    (write,) = plan(balanced("web", loadBalancerIP=asked), balanced("other", other))
    assert isinstance(write, Say)
    assert (write.notice.reason, write.notice.message) == ("AllocationFailed", message)


def test_an_empty_pool_is_said() -> None:
    (write,) = plan_load_balancers([balanced()], []).writes
    assert isinstance(write, Say)
    assert write.notice.message == "no IPv4 address is left in an empty pool"


def test_no_address_is_given_twice_and_the_eldest_come_first() -> None:
    services = [
        balanced(f"s{number}", metadata={"creationTimestamp": f"2026-01-01T00:00:0{9 - number}Z"})
        for number in range(8)
    ]
    addresses = given(plan(*services))
    assert len({address for each in addresses.values() for address in each}) == len(addresses) == 6
    assert addresses["s7"] == ["192.0.2.1"]
    assert not {"s0", "s1"} & addresses.keys()


def test_of_two_with_one_address_the_younger_gets_another() -> None:
    elder = balanced("z", "192.0.2.1", metadata={"creationTimestamp": "2026-01-01T00:00:00Z"})
    younger = balanced("a", "192.0.2.1", metadata={"creationTimestamp": "2026-01-01T00:00:01Z"})
    assert given(plan(younger, elder)) == {"a": ["192.0.2.2"]}


@pytest.mark.parametrize("spec", [{"type": "ClusterIP"}, {"loadBalancerClass": "example.com/other"}])
def test_addresses_are_taken_back_from_who_needs_none(spec: Any) -> None:
    assert given(plan(balanced("web", "192.0.2.1", **spec))) == {"web": []}


def test_addresses_of_others_stay() -> None:
    assert not plan(balanced("web", "203.0.113.7", loadBalancerClass="example.com/other"))


def test_all_ready_nodes_take_the_traffic() -> None:
    nodes = [
        node("n1"),
        node("n2", is_ready=False),
        node("n3", labels={"node.kubernetes.io/exclude-from-external-load-balancers": ""}),
        node("n4", unschedulable=True),
    ]
    assert announcement([balanced("web", "192.0.2.1", "2001:db8::1"), service("other")], [], nodes) == {
        "192.0.2.1": {"n1", "n4"},
        "2001:db8::1": {"n1", "n4"},
    }


def test_with_the_local_policy_nodes_with_a_ready_endpoint_do() -> None:
    def endpoint(node_name: str, ready: bool | None) -> Any:
        return {"addresses": ["10.0.0.1"], "nodeName": node_name, "conditions": {"ready": ready}}

    slice_ = struct(
        EndpointSlice,
        {
            "metadata": {
                "name": "web-1",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "endpoints": [endpoint("n1", True), endpoint("n2", False), endpoint("n3", True)],
        },
    )
    nodes = [node("n1"), node("n2"), node("n3", is_ready=False)]
    services = [balanced("web", "192.0.2.1", externalTrafficPolicy="Local")]
    assert announcement(services, [slice_], nodes) == {"192.0.2.1": {"n1"}}
    assert announcement(services, [], nodes) == {"192.0.2.1": set()}
