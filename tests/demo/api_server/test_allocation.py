"""Which addresses and ports a Service is given, and which wishes are refused."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.demo.api_server.allocation import AllocationError, Ranges, allocate, claims
from userspace_proxy.demo.api_server.defaults import put_defaults
from userspace_proxy.demo.api_server.kinds import SERVICES
from userspace_proxy.demo.api_server.objects import Object, copied
from userspace_proxy.demo.api_server.service_changes import carry_over
from userspace_proxy.demo.api_server.validation import causes
from userspace_proxy.demo.api_server.validation.services import needs_cluster_ip, needs_node_ports

DUAL = Ranges.parse(["10.96.0.0/24", "fd00::/112"], range(30000, 30100))
SINGLE = Ranges.parse(["10.96.0.0/24"], range(30000, 30100))


def service(**spec: Any) -> Object:
    ports = [{"port": 80, "protocol": "TCP"}]
    return {"metadata": {"name": "web"}, "spec": {"type": "ClusterIP", "ports": ports, **spec}}


def allocated(
    wanted: Object, *, before: Object | None = None, taken: Collection[str] = (), ranges: Ranges = DUAL
) -> Object:
    """The spec of a Service that got what it needs."""
    item = copied(wanted)
    allocate(item, before, taken, ranges, random.Random(1))
    spec: Object = item["spec"]
    return spec


def refusal(wanted: Object, *, taken: Collection[str] = (), ranges: Ranges = DUAL) -> str:
    with pytest.raises(AllocationError) as refused:
        allocated(wanted, taken=taken, ranges=ranges)
    return str(refused.value.cause)


@pytest.mark.parametrize(
    ("asked", "policy", "families"),
    [
        ({}, "SingleStack", ["IPv4"]),
        ({"ipFamilies": ["IPv6"]}, "SingleStack", ["IPv6"]),
        ({"ipFamilyPolicy": "PreferDualStack"}, "PreferDualStack", ["IPv4", "IPv6"]),
        (
            {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]},
            "RequireDualStack",
            ["IPv6", "IPv4"],
        ),
        ({"clusterIP": "fd00::7"}, "SingleStack", ["IPv6"]),
        ({"clusterIP": "None"}, "RequireDualStack", ["IPv4", "IPv6"]),
        ({"clusterIP": "None", "selector": {"a": "b"}}, "SingleStack", ["IPv4"]),
    ],
)
def test_families(asked: Object, policy: str, families: list[str]) -> None:
    spec = allocated(service(**asked))
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"]) == (policy, families)


def test_prefer_dual_stack_is_content_with_one_family() -> None:
    spec = allocated(service(ipFamilyPolicy="PreferDualStack"), ranges=SINGLE)
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"]) == ("PreferDualStack", ["IPv4"])


def test_each_family_gives_an_address_above_those_kept_for_who_asks() -> None:
    spec = allocated(service(ipFamilyPolicy="RequireDualStack"))
    first, second = spec["clusterIPs"]
    assert spec["clusterIP"] == first
    assert first.startswith("10.96.0.")
    assert int(first.rpartition(".")[2]) > 16
    assert second.startswith("fd00::")


def test_an_address_that_was_asked_for_is_given_in_its_usual_spelling() -> None:
    assert allocated(service(clusterIP="fd00:0::7"))["clusterIPs"] == ["fd00::7"]
    assert allocated(service(clusterIP="10.96.0.9"))["clusterIP"] == "10.96.0.9"


def test_headless_and_external_name_get_nothing() -> None:
    assert allocated(service(clusterIP="None"))["clusterIPs"] == ["None"]
    assert allocated(service(type="ExternalName")) == service(type="ExternalName")["spec"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"clusterIP": "10.96"}, 'spec.clusterIPs[0]: Invalid value: "10.96": must be a valid IP address'),
        (
            {"clusterIP": "10.1.0.1"},
            "the provided IP (10.1.0.1) is not in the valid range. The range of valid IPs",
        ),
        ({"clusterIP": "10.96.0.0"}, "is not in the valid range"),
        ({"clusterIP": "10.96.0.255"}, "is not in the valid range"),
        ({"clusterIP": "10.96.0.5"}, "failed to allocate IP 10.96.0.5: provided IP is already allocated"),
        ({"clusterIPs": ["10.96.0.7", "fd00::7"]}, "when multiple ipFamilies are specified"),
        ({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.8"]}, "first value must match `clusterIP`"),
        ({"clusterIPs": ["None", "fd00::7"]}, "may only hold up to 2 values"),
        (
            {"clusterIP": "10.96.0.7", "ipFamilies": ["IPv6"]},
            "expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        ({"ipFamilies": ["IPv5"]}, 'Unsupported value: "IPv5": supported values: "IPv4", "IPv6"'),
        ({"ipFamilies": ["IPv4", "IPv4"]}, 'spec.ipFamilies[1]: Duplicate value: "IPv4"'),
        ({"ipFamilies": ["IPv4", "IPv6"]}, "when multiple ipFamilies are specified"),
    ],
)
def test_addresses_that_cannot_be(asked: Object, words: str) -> None:
    assert words in refusal(service(**asked), taken=["10.96.0.5"])


def test_a_cluster_of_one_family_has_no_other() -> None:
    for asked in ({"ipFamilies": ["IPv6"]}, {"clusterIP": "fd00::7"}):
        assert "not configured on this cluster" in refusal(service(**asked), ranges=SINGLE)
    said = refusal(service(ipFamilyPolicy="RequireDualStack"), ranges=SINGLE)
    assert said.endswith("this cluster is not configured for dual-stack services")


def test_node_ports_are_given_to_each_port_and_the_same_to_its_protocols() -> None:
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "web", "port": 80, "protocol": "TCP"},
    ]
    given = [port["nodePort"] for port in allocated(service(type="NodePort", ports=ports))["ports"]]
    assert given[0] == given[1] != given[2]
    assert all(port in DUAL.node_ports for port in given)


def test_a_load_balancer_may_do_without_node_ports_but_for_health() -> None:
    wanted = service(type="LoadBalancer", allocateLoadBalancerNodePorts=False, externalTrafficPolicy="Local")
    spec = allocated(wanted)
    assert "nodePort" not in spec["ports"][0]
    assert spec["healthCheckNodePort"] in DUAL.node_ports


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (80, "provided port is not in the valid range. The range of valid ports is 30000-30099"),
        (30007, "spec.ports[0].nodePort: Invalid value: 30007: provided port is already allocated"),
    ],
)
def test_node_ports_that_cannot_be(port: int, words: str) -> None:
    wanted = service(type="NodePort", ports=[{"port": 80, "protocol": "TCP", "nodePort": port}])
    assert words in refusal(wanted, taken=["30007"])


def test_what_it_has_already_is_no_conflict() -> None:
    had = {"metadata": {"name": "web"}, "spec": allocated(service(type="NodePort"))}
    assert allocated(had, before=had, taken=claims(had)) == had["spec"]


def test_claims() -> None:
    spec = {
        "clusterIPs": ["10.96.0.1", "fd00::1"],
        "ports": [{"nodePort": 30001}, {"port": 1}],
        "healthCheckNodePort": 30002,
    }
    assert claims({"spec": spec}) == {"10.96.0.1", "fd00::1", "30001", "30002"}
    assert claims({"spec": {"clusterIPs": ["None"]}}) == frozenset()


@given(seed=st.integers(0, 2**32), reserved=st.sets(st.integers(1, 14), max_size=13))
def test_the_last_free_address_is_found_and_then_the_range_is_full(seed: int, reserved: set[int]) -> None:
    ranges = Ranges.parse(["10.0.0.0/28"], range(30000, 30003))
    taken = {f"10.0.0.{host}" for host in reserved}
    chance = random.Random(seed)
    while len(taken) < 14:
        item = service()
        allocate(item, None, taken, ranges, chance)
        assert item["spec"]["clusterIP"] not in taken
        taken.add(item["spec"]["clusterIP"])
    assert "the range 10.0.0.0/28 is full" in refusal(service(), taken=taken, ranges=ranges)


def test_node_ports_run_out() -> None:
    ranges = Ranges.parse(["10.0.0.0/28"], range(30000, 30001))
    said = refusal(service(type="NodePort"), taken=["30000"], ranges=ranges)
    assert said == "spec.ports[0].nodePort: Invalid value: 0: failed to allocate a nodePort: range is full"


_ADDRESSES = st.sampled_from(["None", "10.96.0.7", "10.96.0.8", "fd00::7", "10.1.0.1", "x"])
_PORTS = st.fixed_dictionaries(
    {"port": st.sampled_from([53, 80]), "protocol": st.sampled_from(["TCP", "UDP"])},
    optional={"nodePort": st.sampled_from([80, 30001, 30002])},
)
_SPECS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
        "ports": st.lists(_PORTS, max_size=2),
    },
    optional={
        "clusterIP": _ADDRESSES,
        "clusterIPs": st.lists(_ADDRESSES, min_size=1, max_size=3),
        "ipFamilies": st.lists(st.sampled_from(["IPv4", "IPv6", "IPv5"]), min_size=1, max_size=3),
        "ipFamilyPolicy": st.sampled_from(["SingleStack", "PreferDualStack", "RequireDualStack"]),
        "externalTrafficPolicy": st.sampled_from(["Local", "Cluster"]),
        "allocateLoadBalancerNodePorts": st.booleans(),
        "healthCheckNodePort": st.sampled_from([80, 30001, 30003]),
        "selector": st.just({"app": "web"}),
    },
)


@given(specs=st.lists(_SPECS, min_size=1, max_size=4), ranges=st.sampled_from([DUAL, SINGLE]))
def test_whatever_is_written_is_refused_or_has_what_nobody_else_has(
    specs: list[Object], ranges: Ranges
) -> None:
    """Each is made, and then changed to be like the next."""
    chance = random.Random(0)
    others = {"10.96.0.8", "30002"}
    before: Object | None = None
    for spec in specs:
        item = copied({"metadata": {"name": "web"}, "spec": spec})
        if before is not None:
            carry_over(before, item)
        put_defaults(SERVICES, item)
        try:
            allocate(item, before, others | (claims(before) if before else set()), ranges, chance)
        except AllocationError:
            continue
        if causes(SERVICES, item, before):
            continue
        assert not claims(item) & others
        if needs_cluster_ip(item["spec"]):
            addresses, families = item["spec"]["clusterIPs"], item["spec"]["ipFamilies"]
            assert addresses == ["None"] or len(addresses) == len(families)
            assert item["spec"]["clusterIP"] == addresses[0]
        if needs_node_ports(item["spec"]):
            assert all(port["nodePort"] in ranges.node_ports for port in item["spec"]["ports"])
        before = item
