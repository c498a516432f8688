from __future__ import annotations

import msgspec
import pytest

from tests.support.objects import endpoint, endpoint_slice, service
from userspace_proxy.core.answers.endpoints import EndpointAnswer, EndpointHealth, describe_endpoints
from userspace_proxy.core.answers.services import (
    ServicePortAnswer,
    ServingWorker,
    describe_service_port,
    named_services,
    services_beginning,
)
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import LiveClass, LiveEndpoint, LiveServicePort
from userspace_proxy.core.objects import ApiObject, Upserted
from userspace_proxy.core.proxy_plan import ProxyPlan
from userspace_proxy.core.service_port import IPFamily, Port, ProxyPort, ServicePortName, TrafficPolicy
from userspace_proxy.core.traffic_counters import EndpointCounters, ServicePortCounters, summed


def planned(*items: ApiObject) -> tuple[ClusterState, ProxyPlan]:
    state, plan = ClusterState("node-1"), ProxyPlan(frozenset(IPFamily))
    for item in items:
        state.apply(Upserted(item), lambda key: "test")
    plan.update(state, state.take_dirty())
    return state, plan


def described(name: str, *items: ApiObject, counters: ServicePortCounters | None = None) -> ServicePortAnswer:
    _, plan = planned(*items)
    (found,) = named_services(name, plan.service_ports.values())
    return describe_service_port(
        plan.service_ports[found],
        lost=plan.lost_claims.get(found, ()),
        proxy_ports={TrafficPolicy.CLUSTER: ProxyPort(11234)},
        workers=[ServingWorker(number=0, pid=4711)],
        counters=counters or ServicePortCounters(),
        ready_endpoints=1,
        listed_endpoints=2,
        problems=["something"],
        endpoints=None,
    )


SHOP = service(
    "shop",
    at="10.96.0.11",
    ports=["http:80@30080"],
    type="LoadBalancer",
    external_traffic_policy="Local",
    external_ips=["198.51.100.7"],
    ingress=["203.0.113.10"],
    source_ranges=["192.0.2.0/24"],
    health_check_node_port=32000,
)
SLICE = endpoint_slice(
    of="shop", ports=["http:8080"], endpoints=[endpoint("10.244.1.2", node="node-1"), "10.244.2.2"]
)


def test_every_way_to_reach_it_is_there_with_its_field_and_policies() -> None:
    answer = described("shop", SHOP, SLICE)
    assert [
        (each.frontend, each.kind, each.outside, each.inside, each.source_ranges) for each in answer.frontends
    ] == [
        ("10.96.0.11:80/TCP", "clusterIP", "Cluster", "Cluster", None),
        ("203.0.113.10:80/TCP", "loadBalancer", "Local", "Cluster", ("192.0.2.0/24",)),
        ("198.51.100.7:80/TCP", "externalIP", "Local", "Cluster", None),
        ("0.0.0.0:30080/TCP", "nodePort", "Local", "Cluster", None),
    ]
    assert [
        (each.policy, each.proxy_port, each.outcome, each.usable_endpoints) for each in answer.listeners
    ] == [
        ("Cluster", 11234, "serve", 2),
        ("Local", None, "serve", 1),
    ]
    assert answer.health_check_node_port == 32000
    assert answer.workers == (ServingWorker(number=0, pid=4711),)


def test_a_frontend_that_another_has_says_so() -> None:
    thief = service("thief", at="10.96.0.12", external_ips=["10.96.0.11"], ports=["80"])
    answer = described("thief", SHOP, thief)
    assert [(each.frontend, each.captured_by) for each in answer.frontends] == [
        ("10.96.0.12:80/TCP", None),
        ("10.96.0.11:80/TCP", "default/shop:http"),
    ]


@pytest.mark.parametrize(
    ("protocol", "limits", "proxy_protocol"), [("TCP", (5, 2), True), ("UDP", (7, 3), False)]
)
def test_limits_are_those_of_its_protocol(
    protocol: str, limits: tuple[int, int], proxy_protocol: bool
) -> None:
    said = {
        "max-connections": "5",
        "max-connections-per-client": "2",
        "max-udp-flows": "7",
        "max-udp-flows-per-client": "3",
        "proxy-protocol": "v2",
    }
    annotations = {f"userspace-proxy.io/{name}": value for name, value in said.items()}
    answer = described("web", service("web", ports=[f"80/{protocol}"], annotations=annotations))
    assert (answer.max_connections, answer.max_connections_per_client) == limits
    assert answer.sends_proxy_protocol is proxy_protocol


def test_its_counters_are_there_and_fields_are_spelled_as_in_kubernetes() -> None:
    counters = ServicePortCounters(opened=5, active=2, departed_bytes_in=10, ejected=1)
    said = msgspec.to_builtins(described("web", service("web"), counters=counters))
    assert (said["opened"], said["active"], said["bytesIn"], said["ejectedEndpoints"]) == (5, 2, 10, 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["a/web:dns", "a/web:http", "b/web"]),
        ("web", ["a/web:dns", "a/web:http", "b/web"]),
        ("a/web", ["a/web:dns", "a/web:http"]),
        ("a/web:http", ["a/web:http"]),
        ("web:http", ["a/web:http"]),
        ("b/web:80", ["b/web"]),
        ("web:53", ["a/web:dns"]),
        ("c/web", []),
        ("we", []),
        ("/web", []),
    ],
)
def test_a_service_is_named_with_as_much_as_it_takes(text: str, found: list[str]) -> None:
    _, plan = planned(
        service("web", namespace="a", ports=["http:80", "dns:53/UDP"]),
        service("web", namespace="b", at="10.96.0.11"),
    )
    assert [str(each) for each in named_services(text, plan.service_ports.values())] == found


def test_names_begin_with_the_namespace_or_without() -> None:
    _, plan = planned(
        service("web", namespace="shop", ports=["http:80", "https:443"]), service("shop", at="10.96.0.11")
    )
    assert services_beginning("shop", plan.service_ports) == ["default/shop", "shop/web"]
    assert services_beginning("w", plan.service_ports) == ["shop/web"]


def endpoints(*items: ApiObject, counters: dict[tuple[str, int], EndpointCounters]) -> list[EndpointAnswer]:
    state, plan = planned(*items)
    name: ServicePortName
    (name,) = plan.service_ports
    slices = state.slices_by_name(name.service)
    left_out = plan.undialled.get(name, ())
    return [*describe_endpoints(plan.service_ports[name], slices, left_out, state.node, counters)]


def test_an_endpoint_has_its_slices_its_uses_and_what_it_carried() -> None:
    loop = endpoint_slice("shop-2", of="shop", ports=["http:8080"], endpoints=["10.244.2.2"])
    first, second = endpoints(
        SHOP, SLICE, loop, counters={("10.244.1.2", 8080): EndpointCounters(opened=3, bytes_out=9)}
    )
    assert (first.endpoint, first.slices, first.opened, first.bytes_out) == (
        "10.244.1.2:8080",
        ("web-1",),
        3,
        9,
    )
    assert first.is_used and first.node == "node-1"
    assert second.slices == ("shop-2", "web-1") and second.opened == 0
    assert [(use.policy, use.is_used) for use in second.uses] == [("Cluster", True), ("Local", False)]


def test_an_endpoint_that_would_lead_back_says_so() -> None:
    own = endpoint_slice(of="web", endpoints=["10.96.0.10"], ports=["80"])
    (answer,) = endpoints(service("web"), own, counters={})
    assert not answer.is_used
    assert [use.reason for use in answer.uses] == ["the address of a Service, and so a loop"]


def test_what_several_workers_have_carried_is_summed() -> None:
    one = ServicePortCounters(opened=1, active=1, endpoints={("10.244.1.2", 80): EndpointCounters(opened=1)})
    one.connected(0.001)
    two = ServicePortCounters(
        opened=2,
        endpoints={
            ("10.244.1.2", 80): EndpointCounters(opened=1, bytes_in=5),
            ("10.244.1.3", 80): EndpointCounters(opened=1),
        },
    )
    total = summed([one, two])
    assert (total.opened, total.active, total.bytes_in, sum(total.connects)) == (3, 1, 5, 1)
    assert total.at("10.244.1.2", 80) == EndpointCounters(opened=2, bytes_in=5)
    assert one.opened == 1 and total.at("10.244.1.3", 80).opened == 1


ONE, TWO = (Endpoint(f"10.244.1.{number}", Port(8080)) for number in (2, 3))
LIVE = LiveServicePort(
    {
        ONE: LiveEndpoint(failures=3, ejected_seconds=1.23456, is_probed=True),
        TWO: LiveEndpoint(is_taken_out=True, taken_out_seconds=59.9996),
    },
    {TrafficPolicy.CLUSTER: LiveClass(left_out=frozenset({ONE, TWO}), next=(ONE, TWO))},
)


def test_how_workers_find_an_endpoint_is_said() -> None:
    state, plan = planned(service("web"), endpoint_slice(of="web", endpoints=["10.244.1.2", "10.244.1.3"]))
    (served,) = plan.service_ports.values()
    slices = state.slices_by_name(served.name.service)
    one, two = describe_endpoints(served, slices, (), state.node, {}, LIVE)
    assert one.health == EndpointHealth(
        failures=3, ejected_seconds=1.235, probed=True, left_out_of=("Cluster",)
    )
    assert two.health == EndpointHealth(taken_out=True, taken_out_seconds=60.0, left_out_of=("Cluster",))
    unknown, _ = describe_endpoints(served, slices, (), state.node, {})
    assert unknown.health == EndpointHealth()


def test_who_is_next_is_said_where_it_is_known() -> None:
    _, plan = planned(service("web"), endpoint_slice(of="web", endpoints=["10.244.1.2", "10.244.1.3"]))
    (served,) = plan.service_ports.values()
    answer = describe_service_port(
        served,
        lost=(),
        proxy_ports={},
        workers=(),
        counters=ServicePortCounters(),
        ready_endpoints=2,
        listed_endpoints=2,
        problems=(),
        endpoints=None,
        live=LIVE,
        taken_out_endpoints=1,
    )
    assert [listener.next for listener in answer.listeners] == [("10.244.1.2:8080", "10.244.1.3:8080")]
    assert answer.taken_out_endpoints == 1
    assert [listener.next for listener in described("web", service("web")).listeners] == [None]
