"""Which endpoints an operator has taken out, and who is left then."""

from __future__ import annotations

import pytest

from tests.support.objects import endpoint, endpoint_slice, service
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.manual_ejections import (
    EndpointOf,
    ManualEjections,
    classes_left_with_none,
    endpoints_at,
)
from userspace_proxy.core.objects import ApiObject, Kind, Listed
from userspace_proxy.core.proxy_plan import ProxyPlan
from userspace_proxy.core.service_port import (
    IPFamily,
    Port,
    Protocol,
    ServiceName,
    ServicePortName,
    TrafficPolicy,
)

WEB = ServicePortName(ServiceName("default", "web"), "", Protocol.TCP, IPFamily.IPV4)
DNS = ServicePortName(ServiceName("default", "dns"), "", Protocol.TCP, IPFamily.IPV4)
ONE, TWO, THREE = (Endpoint(f"10.1.0.{number}", Port(80)) for number in (1, 2, 3))


def test_an_endpoint_is_out_until_its_time_is_over_or_it_is_put_back() -> None:
    known = ManualEjections()
    known.take_out(WEB, ONE, until=10.0)
    known.take_out(WEB, TWO, until=None)
    assert known.of(WEB, 9.9) == {ONE: 10.0, TWO: None}
    assert known.of(WEB, 10.0) == {TWO: None}
    assert known.of(DNS, 0.0) == {}
    known.take_out(WEB, ONE, until=None)
    assert known.of(WEB, 1e9) == {ONE: None, TWO: None}
    assert list(known) == [WEB]
    assert known.counts(0.0) == {WEB: 2}
    known.take_out(DNS, ONE, until=1.0)
    assert known.counts(1.0) == {WEB: 2}
    assert known.put_back(DNS, ONE)
    assert known.put_back(WEB, ONE)
    assert not known.put_back(WEB, ONE)
    assert not known.put_back(DNS, ONE)
    assert known.put_back(WEB, TWO)
    assert list(known) == []


def test_endpoints_that_are_listed_no_more_are_forgotten() -> None:
    known = ManualEjections()
    for name, each in ((WEB, ONE), (WEB, TWO), (DNS, ONE)):
        known.take_out(name, each, until=None)
    assert known.keep(WEB, {ONE, THREE}) == (TWO,)
    assert known.of(WEB, 0.0) == {ONE: None}
    assert known.keep(WEB, ()) == (ONE,)
    assert known.keep(WEB, ()) == ()
    assert list(known) == [DNS]


@pytest.fixture
def plan() -> ProxyPlan:
    state = ClusterState("node-1")
    objects: dict[Kind, tuple[ApiObject, ...]] = {
        Kind.SERVICE: (
            service("web", external_traffic_policy="Local", type="NodePort", ports=["80@30080"]),
            service("dns", at="10.96.0.11"),
        ),
        Kind.ENDPOINT_SLICE: (
            endpoint_slice(
                "web-1",
                of="web",
                ports=["80"],
                endpoints=[endpoint("10.1.0.1", node="node-1"), endpoint("10.1.0.2", node="node-2")],
            ),
            endpoint_slice("dns-1", of="dns", ports=["80"], endpoints=["10.1.0.1", "10.1.0.3"]),
        ),
    }
    state.apply(Listed(Kind.NODE, ()), lambda _: "")
    for kind, items in objects.items():
        state.apply(Listed(kind, items), lambda _: "")
    plan = ProxyPlan(frozenset({IPFamily.IPV4}))
    plan.update(state, sorted(state.take_dirty()))
    return plan


@pytest.mark.parametrize(
    ("address", "port", "names"),
    [
        ("10.1.0.1", 80, [DNS, WEB]),
        ("10.1.0.1", None, [DNS, WEB]),
        ("10.1.0.1", 81, []),
        ("10.1.0.2", None, [WEB]),
        ("10.1.0.9", None, []),
    ],
)
def test_which_service_ports_an_endpoint_is_of(
    plan: ProxyPlan, address: str, port: int | None, names: list[ServicePortName]
) -> None:
    found = endpoints_at(plan.service_ports.values(), address, port)
    assert sorted(found, key=lambda each: each.name.key) == [
        EndpointOf(name, Endpoint(address, Port(80))) for name in names
    ]


@pytest.mark.parametrize(
    ("name", "each", "taken_out", "policies"),
    [
        (WEB, ONE, (), [TrafficPolicy.LOCAL]),
        (WEB, TWO, (), []),
        (WEB, TWO, (ONE,), [TrafficPolicy.CLUSTER]),
        (WEB, ONE, (TWO,), [TrafficPolicy.CLUSTER, TrafficPolicy.LOCAL]),
        (DNS, ONE, (), []),
        (DNS, ONE, (ONE,), []),
        (DNS, ONE, (THREE,), [TrafficPolicy.CLUSTER]),
    ],
)
def test_who_would_be_left_with_nobody(
    plan: ProxyPlan,
    name: ServicePortName,
    each: Endpoint,
    taken_out: tuple[Endpoint, ...],
    policies: list[TrafficPolicy],
) -> None:
    assert list(classes_left_with_none(plan.service_ports[name], each, taken_out)) == policies
