from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import object_strategies
from tests.support.objects import endpoint, endpoint_slice, node, service
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.endpoint_selection import Outcome
from userspace_proxy.core.frontend_claims import Precedence
from userspace_proxy.core.objects import (
    ApiObject,
    Deleted,
    Event,
    Kind,
    Listed,
    Service,
    SliceEndpoint,
    Upserted,
    kind_of,
)
from userspace_proxy.core.plan_conflicts import LostClaim, LostHealthCheck, UndialledEndpoint, WhyUndialled
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.proxy_plan import (
    HealthCheck,
    ListenerName,
    PlanChange,
    PlannedPortal,
    PlannedServicePort,
    ProxyPlan,
)
from userspace_proxy.core.service_port import (
    EVERY_LOCAL_ADDRESS,
    Frontend,
    IPFamily,
    Port,
    Protocol,
    ServiceName,
    ServicePortName,
    TrafficPolicy,
)

OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"
BOTH = frozenset(IPFamily)
IPV4 = frozenset({IPFamily.IPV4})
PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
PROXY_PORTS = PortRange(11000, 29999)
HERE, THERE = endpoint("10.244.1.2", node="node-1"), endpoint("10.244.2.2", node="node-2")


class Cluster:
    """A cluster and the plan for its node-1, which follows each change."""

    def __init__(self, *items: ApiObject, families: frozenset[IPFamily] = IPV4) -> None:
        self.state = ClusterState("node-1", PROXY_PORTS)
        self.plan = ProxyPlan(families)
        self.put(*items)

    def put(self, *items: ApiObject) -> PlanChange:
        return self.after(*(Upserted(item) for item in items))

    def delete(self, kind: Kind, name: str) -> PlanChange:
        return self.after(Deleted(kind, "default", name))

    def after(self, *events: Event) -> PlanChange:
        for event in events:
            self.state.apply(event, lambda key: "test")
        return self.plan.update(self.state, self.state.take_dirty())

    @property
    def portals(self) -> dict[str, str]:
        """Where each frontend leads, as `10.96.0.10:80/TCP` → `default/web Cluster serve`.

        Where it leads the node and its pods elsewhere: `… Local drop, inside Cluster serve`.
        """
        return {str(frontend): described(portal) for frontend, portal in self.plan.portals.items()}

    def endpoints(self, name: str = "web", protocol: Protocol = Protocol.TCP) -> list[str]:
        ((_, selection),) = self.plan.service_ports[port_of(name, protocol)].selections
        return [str(item) for item in selection.endpoints]

    def readdress(self, *addresses: str) -> PlanChange:
        self.state.readdress(frozenset(addresses))
        return self.after()

    def conflicts(self) -> set[ServicePortName]:
        return self.plan.lost_claims.keys() | self.plan.undialled.keys()


def described(portal: PlannedPortal) -> str:
    assert portal.outside.listener.service_port == portal.inside.listener.service_port == portal.owner
    outside, inside = (
        f"{destination.listener.policy.value} {destination.outcome.value}"
        for destination in (portal.outside, portal.inside)
    )
    return f"{portal.owner} {outside}" + ("" if inside == outside else f", inside {inside}")


def port_of(
    name: str, protocol: Protocol = Protocol.TCP, family: IPFamily = IPFamily.IPV4
) -> ServicePortName:
    return ServicePortName(ServiceName("default", name), "", protocol, family)


def changed(change: PlanChange) -> set[ServicePortName]:
    return {planned.name for planned in change.changed}


def test_a_service_with_endpoints_is_served_at_its_cluster_ip() -> None:
    cluster = Cluster()
    change = cluster.put(service("web"), endpoint_slice(of="web", endpoints=["10.244.1.2", "10.244.1.3"]))
    assert changed(change) == {port_of("web")}
    assert change.portals_changed and not change.removed
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/web Cluster serve"}
    assert cluster.endpoints() == ["10.244.1.2:8080", "10.244.1.3:8080"]


def test_another_endpoint_changes_no_portal() -> None:
    cluster = Cluster(service(), endpoint_slice(endpoints=["10.244.1.2"]))
    change = cluster.put(endpoint_slice(endpoints=["10.244.1.3"]))
    assert changed(change) == {port_of("web")}
    assert not change.portals_changed
    assert cluster.endpoints() == ["10.244.1.3:8080"]


def test_a_service_is_refused_until_it_has_an_endpoint() -> None:
    cluster = Cluster(service())
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/web Cluster refuse"}
    assert cluster.put(endpoint_slice()).portals_changed
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/web Cluster serve"}
    assert cluster.delete(Kind.ENDPOINT_SLICE, "web-1").portals_changed
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/web Cluster refuse"}


def test_a_service_of_policy_local_drops_what_only_others_could_serve() -> None:
    cluster = Cluster(
        service(internal_traffic_policy="Local"), endpoint_slice(endpoints=[endpoint("10.244.2.2", node="b")])
    )
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/web Local drop"}
    assert cluster.put(endpoint_slice(endpoints=[endpoint("10.244.1.2", node="node-1")])).portals_changed
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/web Local serve"}


def test_another_policy_is_another_listener() -> None:
    cluster = Cluster(service(), endpoint_slice(endpoints=[endpoint("10.244.1.2", node="node-1")]))
    change = cluster.put(service(internal_traffic_policy="Local"))
    assert change.portals_changed and not change.removed
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/web Local serve"}


def test_another_port_is_another_frontend_of_the_same_service_port() -> None:
    cluster = Cluster(service(ports=["80"]))
    change = cluster.put(service(ports=["8000"]))
    assert change.portals_changed and not change.removed
    assert cluster.portals == {"10.96.0.10:8000/TCP": "default/web Cluster refuse"}


def test_a_service_that_goes_leaves_nothing_behind() -> None:
    cluster = Cluster(service(ports=["80", "80/UDP"]), endpoint_slice())
    change = cluster.delete(Kind.SERVICE, "web")
    assert set(change.removed) == {port_of("web"), port_of("web", Protocol.UDP)}
    assert change.portals_changed and not change.changed
    assert (cluster.plan.service_ports, cluster.plan.portals) == ({}, {})


def test_a_port_that_goes_leaves_the_others() -> None:
    cluster = Cluster(service(ports=["80", "80/UDP"]))
    change = cluster.put(service(ports=["80"]))
    assert change.removed == (port_of("web", Protocol.UDP),)
    assert changed(change) == set()
    assert list(cluster.portals) == ["10.96.0.10:80/TCP"]


def test_a_change_is_planned_for_what_it_touches_alone() -> None:
    cluster = Cluster(service("web"), service("dns", at="10.96.0.53"), endpoint_slice(of="web"))
    change = cluster.put(endpoint_slice("dns-1", of="dns"))
    assert changed(change) == {port_of("dns")}


def test_what_changes_nothing_is_no_change() -> None:
    cluster = Cluster(service(), endpoint_slice())
    assert cluster.after() == PlanChange()
    assert cluster.put(service(created=None, labels={"app": "web"})) == PlanChange()
    assert cluster.delete(Kind.SERVICE, "unknown") == PlanChange()


def test_the_zone_of_the_node_chooses_by_hints() -> None:
    hinted = [endpoint("10.244.1.1", for_zones=["a"]), endpoint("10.244.1.2", for_zones=["b"])]
    cluster = Cluster(service(), endpoint_slice(endpoints=hinted), node(zone="a"))
    assert cluster.endpoints() == ["10.244.1.1:8080"]
    assert not cluster.put(node(zone="b")).portals_changed
    assert cluster.endpoints() == ["10.244.1.2:8080"]


@pytest.mark.parametrize(
    ("families", "frontends"),
    [
        (IPV4, ["10.96.0.10:80/TCP"]),
        (frozenset({IPFamily.IPV6}), ["[fd00::a]:80/TCP"]),
        (BOTH, ["10.96.0.10:80/TCP", "[fd00::a]:80/TCP"]),
    ],
    ids=["IPv4", "IPv6", "dual-stack"],
)
def test_only_the_families_that_are_proxied_are_planned(
    families: frozenset[IPFamily], frontends: list[str]
) -> None:
    cluster = Cluster(service(at=["10.96.0.10", "fd00::a"]), families=families)
    assert sorted(cluster.portals) == frontends
    assert {name.family for name in cluster.plan.service_ports} == families


def test_of_two_services_at_one_address_the_older_has_it() -> None:
    cluster = Cluster(service("young", created=YOUNG))
    change = cluster.put(service("old", created=OLD))
    assert change.portals_changed
    assert change.conflicts_changed == {port_of("young")}
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/old Cluster refuse"}
    frontend = Frontend("10.96.0.10", Protocol.TCP, Port(80))
    lost = LostClaim(frontend, port_of("young"), port_of("old"), Precedence.OLDER)
    assert cluster.plan.lost_claims == {port_of("young"): (lost,)}


def test_an_address_that_its_owner_leaves_is_the_next_ones() -> None:
    cluster = Cluster(
        service("old", created=OLD), service("young", created=YOUNG), endpoint_slice("y", of="young")
    )
    change = cluster.delete(Kind.SERVICE, "old")
    assert change.portals_changed
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/young Cluster serve"}
    assert cluster.plan.lost_claims == {}


def test_a_service_that_lost_its_address_to_another_gets_it_back_when_that_one_moves() -> None:
    cluster = Cluster(service("old", created=OLD), service("young", created=YOUNG))
    cluster.put(service("old", created=OLD, at="10.96.0.11"))
    assert cluster.portals == {
        "10.96.0.10:80/TCP": "default/young Cluster refuse",
        "10.96.0.11:80/TCP": "default/old Cluster refuse",
    }
    assert cluster.plan.lost_claims == {}


def test_one_number_of_two_protocols_is_no_conflict() -> None:
    cluster = Cluster(service("web", ports=["53"]), service("dns", ports=["53/UDP"]))
    assert cluster.portals == {
        "10.96.0.10:53/TCP": "default/web Cluster refuse",
        "10.96.0.10:53/UDP": "default/dns Cluster refuse",
    }
    assert cluster.plan.lost_claims == {}


def test_an_endpoint_that_is_a_frontend_is_left_out_and_named() -> None:
    cluster = Cluster(
        service("web"),
        endpoint_slice(of="web", endpoints=["10.96.0.53", "10.244.1.2"], ports=["53"]),
    )
    assert cluster.endpoints() == ["10.244.1.2:53", "10.96.0.53:53"]
    change = cluster.put(service("dns", at="10.96.0.53", ports=["53"]))
    assert changed(change) == {port_of("web"), port_of("dns")}
    assert cluster.endpoints() == ["10.244.1.2:53"]
    loop = UndialledEndpoint(Endpoint("10.96.0.53", Port(53)), WhyUndialled.OWN_FRONTEND)
    assert cluster.plan.undialled == {port_of("web"): (loop,)}
    cluster.delete(Kind.SERVICE, "dns")
    assert cluster.endpoints() == ["10.244.1.2:53", "10.96.0.53:53"]
    assert cluster.plan.undialled == {}


def test_a_service_whose_only_endpoint_is_itself_is_refused() -> None:
    cluster = Cluster(service(at="10.96.0.10", ports=["80"]))
    cluster.put(endpoint_slice(endpoints=["10.96.0.10"], ports=["80"]))
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/web Cluster refuse"}
    cluster.delete(Kind.SERVICE, "web")
    assert cluster.plan.undialled == {}


@pytest.mark.parametrize("ports", [["81"], ["80/UDP"]], ids=["another port", "another protocol"])
def test_an_endpoint_on_a_frontends_address_alone_is_no_loop(ports: list[str]) -> None:
    cluster = Cluster(
        service("web", ports=["80", "80/UDP"]),
        endpoint_slice(of="web", endpoints=["10.96.0.53"], ports=ports),
        service("dns", at="10.96.0.53", ports=["80"]),
    )
    protocol = Protocol.UDP if ports == ["80/UDP"] else Protocol.TCP
    assert len(cluster.endpoints("web", protocol)) == 1
    assert cluster.plan.undialled == {}


def test_slices_that_disagree_about_an_endpoint_are_settled_the_same_way_in_any_order() -> None:
    ready, unready = (
        endpoint_slice(name, endpoints=[endpoint("10.244.1.2", ready=is_ready)])
        for name, is_ready in (("one", True), ("two", False))
    )
    for first, second in ((ready, unready), (unready, ready)):
        assert Cluster(service(), first, second).endpoints() == ["10.244.1.2:8080"]


def test_the_portals_of_a_service_port_are_those_that_it_owns() -> None:
    cluster = Cluster(service("old", created=OLD), service("young", created=YOUNG))
    ((frontend, portal),) = cluster.plan.portals_of(port_of("old"))
    assert str(frontend) == "10.96.0.10:80/TCP"
    assert portal.outside.listener == ListenerName(port_of("old"), TrafficPolicy.CLUSTER)
    assert list(cluster.plan.portals_of(port_of("young"))) == []


def load_balanced(name: str = "web", policy: str = "Local", **more: Any) -> Service:
    return service(
        name,
        type="LoadBalancer",
        ports=["80@30080"],
        external_ips=["198.51.100.1"],
        ingress=["203.0.113.1"],
        external_traffic_policy=policy,
        health_check_node_port=32000,
        **more,
    )


EXTERNAL = ["203.0.113.1:80/TCP", "198.51.100.1:80/TCP", "0.0.0.0:30080/TCP"]


@pytest.mark.parametrize(
    ("endpoints", "at_cluster_ip", "elsewhere"),
    [
        pytest.param([], "Cluster refuse", "Local refuse, inside Cluster refuse", id="no endpoint"),
        pytest.param(
            [HERE, THERE], "Cluster serve", "Local serve, inside Cluster serve", id="here and elsewhere"
        ),
        pytest.param([THERE], "Cluster serve", "Local drop, inside Cluster serve", id="elsewhere alone"),
    ],
)
def test_under_an_external_policy_local_outsiders_use_this_nodes_endpoints_and_its_pods_all(
    endpoints: list[SliceEndpoint], at_cluster_ip: str, elsewhere: str
) -> None:
    cluster = Cluster(load_balanced(), endpoint_slice(endpoints=endpoints))
    assert cluster.portals == {
        "10.96.0.10:80/TCP": f"default/web {at_cluster_ip}",
        **dict.fromkeys(EXTERNAL, f"default/web {elsewhere}"),
    }
    selections = dict(cluster.plan.service_ports[port_of("web")].selections)
    addresses = {policy: [item.address for item in of.endpoints] for policy, of in selections.items()}
    assert addresses == {
        TrafficPolicy.CLUSTER: [address for entry in endpoints for address in entry.addresses],
        TrafficPolicy.LOCAL: ["10.244.1.2"] if HERE in endpoints else [],
    }


def test_a_policy_nobody_is_under_needs_no_listener() -> None:
    cluster = Cluster(service(external_traffic_policy="Local"), endpoint_slice(endpoints=[THERE]))
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/web Cluster serve"}
    assert [policy for policy, _ in cluster.plan.service_ports[port_of("web")].selections] == [
        TrafficPolicy.CLUSTER
    ]


def test_source_ranges_are_the_load_balancers_alone() -> None:
    cluster = Cluster(load_balanced())
    change = cluster.put(load_balanced(source_ranges=["192.0.2.0/24"]))
    assert change.portals_changed
    limited = {str(frontend): portal.source_ranges for frontend, portal in cluster.plan.portals.items()}
    assert limited == {
        "10.96.0.10:80/TCP": None,
        "203.0.113.1:80/TCP": ("192.0.2.0/24",),
        "198.51.100.1:80/TCP": None,
        "0.0.0.0:30080/TCP": None,
    }


def test_every_frontend_is_there_in_both_families() -> None:
    cluster = Cluster(
        service(
            at=["fd00::a", "10.96.0.10"],
            type="LoadBalancer",
            ports=["80@30080"],
            external_ips=["198.51.100.1", "2001:db8::1"],
            ingress=["203.0.113.1", "2001:db8::2"],
        ),
        endpoint_slice("four"),
        families=BOTH,
    )
    ipv4 = ["10.96.0.10:80/TCP", *EXTERNAL]
    ipv6 = ["[fd00::a]:80/TCP", "[2001:db8::2]:80/TCP", "[2001:db8::1]:80/TCP", "[::]:30080/TCP"]
    assert cluster.portals == {
        **dict.fromkeys(ipv4, "default/web Cluster serve"),
        **dict.fromkeys(ipv6, "default/web Cluster refuse"),
    }


CLUSTER_IP = {"10.96.0.10:80/TCP": "default/web Cluster serve"}
NODE_PORT = {"0.0.0.0:30080/TCP": "default/web Cluster serve"}


@pytest.mark.parametrize(
    ("item", "portals"),
    [
        pytest.param(service(), CLUSTER_IP, id="ClusterIP"),
        pytest.param(service(type="NodePort", ports=["80@30080"]), CLUSTER_IP | NODE_PORT, id="NodePort"),
        pytest.param(service(type="ExternalName", at=None), {}, id="ExternalName"),
        pytest.param(service(type="ExternalName"), {}, id="ExternalName that kept its clusterIP"),
        pytest.param(service(at="None"), {}, id="headless"),
        pytest.param(service(labels={HEADLESS: ""}), {}, id="labelled headless"),
        pytest.param(service(labels={PROXY_NAME: "other"}), {}, id="labelled for another proxy"),
        pytest.param(
            service(type="LoadBalancer", ports=["80@30080"], ingress=["203.0.113.1"]),
            CLUSTER_IP | NODE_PORT | {"203.0.113.1:80/TCP": "default/web Cluster serve"},
            id="LoadBalancer",
        ),
    ],
)
@pytest.mark.parametrize(
    "before",
    [
        pytest.param(service(), id="from ClusterIP"),
        pytest.param(service(type="NodePort", ports=["80@30080"]), id="from NodePort"),
        pytest.param(service(type="ExternalName", at=None), id="from ExternalName"),
        pytest.param(service(labels={PROXY_NAME: "other"}), id="from another proxy"),
        pytest.param(load_balanced(), id="from LoadBalancer"),
    ],
)
def test_a_live_service_may_become_any_other(before: Service, item: Service, portals: dict[str, str]) -> None:
    cluster = Cluster(before, endpoint_slice(endpoints=[HERE]))
    was_served = bool(cluster.plan.service_ports)
    change = cluster.put(item)
    assert cluster.portals == portals
    assert change.removed == ((port_of("web"),) if was_served and not portals else ())
    cluster.put(before)
    assert cluster.plan == Cluster(before, endpoint_slice(endpoints=[HERE])).plan


def test_a_relabelled_service_that_the_watch_takes_away_is_served_again_when_it_is_back() -> None:
    cluster = Cluster(service(), endpoint_slice())
    assert cluster.delete(Kind.SERVICE, "web").removed == (port_of("web"),)
    assert cluster.portals == {}
    cluster.put(service())
    assert cluster.portals == CLUSTER_IP


def test_addresses_that_are_published_though_not_ready_are_used_as_their_slices_say_ready() -> None:
    published = endpoint("10.244.1.2", ready=True, serving=False, terminating=False)
    assert Cluster(service(), endpoint_slice(endpoints=[published])).portals == CLUSTER_IP


def test_a_node_port_that_two_claim_is_the_olders_and_the_youngers_once_it_is_free() -> None:
    old = service("old", type="NodePort", at="10.96.0.1", ports=["80@30080"], created=OLD)
    young = service("young", type="NodePort", at="10.96.0.2", ports=["81@30080"], created=YOUNG)
    cluster = Cluster(old, young)
    own = {
        "10.96.0.1:80/TCP": "default/old Cluster refuse",
        "10.96.0.2:81/TCP": "default/young Cluster refuse",
    }
    assert cluster.portals == own | {"0.0.0.0:30080/TCP": "default/old Cluster refuse"}
    frontend = Frontend("0.0.0.0", Protocol.TCP, Port(30080))
    assert cluster.plan.lost_claims == {
        port_of("young"): (LostClaim(frontend, port_of("young"), port_of("old"), Precedence.OLDER),)
    }
    change = cluster.put(service("old", at="10.96.0.1", created=OLD))
    assert change.conflicts_changed == {port_of("young")} and change.portals_changed
    assert cluster.portals == own | {"0.0.0.0:30080/TCP": "default/young Cluster refuse"}
    assert cluster.plan.lost_claims == {}


@pytest.mark.parametrize("kind", ["external_ips", "ingress"])
def test_an_address_from_outside_that_two_claim_is_the_olders(kind: str) -> None:
    claim: dict[str, Any] = {"type": "LoadBalancer", kind: ["203.0.113.1"]}
    young = service("young", at="10.96.0.2", created=YOUNG, **claim)
    cluster = Cluster(young, service("old", at="10.96.0.1", created=OLD, **claim))
    assert cluster.portals["203.0.113.1:80/TCP"] == "default/old Cluster refuse"
    assert cluster.plan.lost_claims.keys() == {port_of("young")}
    change = cluster.delete(Kind.SERVICE, "old")
    assert change.conflicts_changed == {port_of("young")}
    assert cluster.portals["203.0.113.1:80/TCP"] == "default/young Cluster refuse"


def test_an_address_on_two_ports_or_protocols_is_for_two_services() -> None:
    cluster = Cluster(
        service("tcp", at="10.96.0.1", external_ips=["203.0.113.1"], ports=["80@30080"], type="NodePort"),
        service("udp", at="10.96.0.2", external_ips=["203.0.113.1"], ports=["80@30080/UDP"], type="NodePort"),
        service("more", at="10.96.0.3", external_ips=["203.0.113.1"], ports=["81@30081"], type="NodePort"),
    )
    assert len(cluster.portals) == 9
    assert cluster.conflicts() == set()


def test_an_endpoint_that_is_a_node_port_of_this_node_is_a_loop_whichever_comes_last() -> None:
    items: list[ApiObject] = [
        node(internal_ips=["10.0.0.1"]),
        service("web", at="10.96.0.1"),
        endpoint_slice(of="web", endpoints=["10.0.0.1", "10.0.0.2"], ports=["30080"]),
        service("db", at="10.96.0.2", type="NodePort", ports=["80@30080"]),
    ]
    loop = UndialledEndpoint(Endpoint("10.0.0.1", Port(30080)), WhyUndialled.OWN_FRONTEND)
    for last in items:
        cluster = Cluster(*(item for item in items if item is not last))
        assert cluster.plan.undialled == {}
        change = cluster.put(last)
        assert cluster.plan.undialled == {port_of("web"): (loop,)}
        assert change.conflicts_changed == {port_of("web")}
        assert cluster.endpoints() == ["10.0.0.2:30080"]
    cluster.put(service("db", at="10.96.0.2"))
    assert cluster.plan.undialled == {}
    assert cluster.endpoints() == ["10.0.0.1:30080", "10.0.0.2:30080"]


def test_an_address_of_the_node_is_a_loop_at_a_node_port_though_the_node_object_does_not_state_it() -> None:
    cluster = Cluster(
        service("web", at="10.96.0.1"),
        endpoint_slice(of="web", endpoints=["172.16.0.1", "10.0.0.2"], ports=["30080"]),
        service("db", at="10.96.0.2", type="NodePort", ports=["80@30080"]),
    )
    assert cluster.endpoints() == ["10.0.0.2:30080", "172.16.0.1:30080"]
    change = cluster.readdress("172.16.0.1")
    assert changed(change) == change.conflicts_changed == {port_of("web")}
    assert cluster.endpoints() == ["10.0.0.2:30080"]
    assert cluster.readdress("172.16.0.1", "172.16.0.9") == PlanChange()
    cluster.put(service("db", at="10.96.0.2"))
    assert cluster.plan.undialled == {}
    cluster.put(service("db", at="10.96.0.2", type="NodePort", ports=["80@30080"]))
    assert cluster.endpoints() == ["10.0.0.2:30080"]
    cluster.readdress()
    assert cluster.endpoints() == ["10.0.0.2:30080", "172.16.0.1:30080"]


def test_an_endpoint_of_this_node_at_a_proxy_port_is_left_out_and_named() -> None:
    """Our own guard would drop what is sent there; another node's we cannot know."""
    cluster = Cluster(service(), endpoint_slice(endpoints=["10.0.0.1", "10.0.0.2"], ports=["12000"]))
    assert cluster.plan.undialled == {}
    change = cluster.readdress("10.0.0.1")
    assert change.conflicts_changed == {port_of("web")}
    left_out = UndialledEndpoint(Endpoint("10.0.0.1", Port(12000)), WhyUndialled.PROXY_PORT)
    assert cluster.plan.undialled == {port_of("web"): (left_out,)}
    assert cluster.endpoints() == ["10.0.0.2:12000"]
    cluster.put(endpoint_slice(endpoints=["10.0.0.1"], ports=["10999"]))
    assert cluster.endpoints() == ["10.0.0.1:10999"]


def test_a_service_that_keeps_its_connections_need_not_know_whom_it_does_not_use() -> None:
    unready = endpoint("10.244.1.3", ready=False)
    cluster = Cluster(service(), endpoint_slice(endpoints=["10.244.1.2", unready]))
    assert cluster.plan.service_ports[port_of("web")].idle == ()


def test_who_is_listed_is_not_removed_though_nobody_may_use_it() -> None:
    """Not ready, on another node, or never dialled: its connections are not ours to end."""
    resets = {"userspace-proxy.io/removed-endpoints": "reset"}
    gone = endpoint("10.244.1.3", ready=False, serving=True, terminating=True)
    on_this_node = "10.0.0.1"
    cluster = Cluster(
        service(annotations=resets, internal_traffic_policy="Local"),
        endpoint_slice(endpoints=[HERE, THERE, gone, on_this_node], ports=["12000"]),
    )
    cluster.readdress(on_this_node)
    planned = cluster.plan.service_ports[port_of("web")]
    assert cluster.endpoints() == ["10.244.1.2:12000"]
    assert [str(each) for each in planned.idle] == ["10.0.0.1:12000", "10.244.1.3:12000", "10.244.2.2:12000"]
    assert [each.name for each in cluster.put(endpoint_slice(endpoints=[HERE], ports=["12000"])).changed] == [
        port_of("web")
    ]
    assert cluster.plan.service_ports[port_of("web")].idle == ()


def test_without_proxy_ports_of_its_own_a_node_takes_anything() -> None:
    state, plan = ClusterState("node-1"), ProxyPlan(IPV4)
    state.readdress(frozenset({"10.0.0.1"}))
    for item in (service(), endpoint_slice(endpoints=["10.0.0.1"], ports=["12000"])):
        state.apply(Upserted(item), lambda key: "test")
    plan.update(state, state.take_dirty())
    assert plan.undialled == {}


def test_a_clusterip_is_its_services_though_an_older_one_has_it_as_an_external_ip() -> None:
    thief = service("thief", at="10.96.0.9", external_ips=["10.96.0.10"], created=OLD)
    cluster = Cluster(thief, service("web", at="10.96.0.10", created=YOUNG))
    assert cluster.portals == {
        "10.96.0.9:80/TCP": "default/thief Cluster refuse",
        "10.96.0.10:80/TCP": "default/web Cluster refuse",
    }
    ((lost,),) = cluster.plan.lost_claims.values()
    assert (lost.loser, lost.owner, lost.precedence) == (
        port_of("thief"),
        port_of("web"),
        Precedence.CLUSTER_IP,
    )


def test_a_health_check_port_that_is_a_node_port_is_the_node_ports_until_that_goes() -> None:
    web, number = ServiceName("default", "web"), Port(32000)
    cluster = Cluster(load_balanced(), endpoint_slice(endpoints=[HERE]))
    assert cluster.plan.health_checks == {web: HealthCheck(number, 1)}
    change = cluster.put(service("db", at="10.96.0.2", type="NodePort", ports=["80@32000"]))
    assert change.health_checks_changed and change.conflicts_changed == {web}
    assert cluster.plan.health_checks == {}
    assert cluster.plan.lost_health_checks == {web: LostHealthCheck(number, port_of("db"))}
    assert cluster.put(endpoint_slice(endpoints=[HERE, THERE])).conflicts_changed == set()
    change = cluster.delete(Kind.SERVICE, "db")
    assert change.health_checks_changed and change.conflicts_changed == {web}
    assert cluster.plan.health_checks == {web: HealthCheck(number, 1)}
    assert cluster.plan.lost_health_checks == {}


def test_a_health_check_port_among_the_proxy_ports_is_not_answered() -> None:
    web, number = ServiceName("default", "web"), Port(PROXY_PORTS.last)
    at_the_edge = service(type="LoadBalancer", external_traffic_policy="Local", health_check_node_port=number)
    cluster = Cluster(at_the_edge, endpoint_slice(endpoints=[HERE]))
    assert cluster.plan.health_checks == {}
    assert cluster.plan.lost_health_checks == {web: LostHealthCheck(number, None)}
    change = cluster.put(load_balanced())
    assert change.health_checks_changed and change.conflicts_changed == {web}
    assert cluster.plan.health_checks == {web: HealthCheck(Port(32000), 1)}


def test_a_load_balancer_does_not_hear_of_an_endpoint_that_is_never_dialled() -> None:
    on_this_node = endpoint("10.0.0.1", node="node-1")
    cluster = Cluster(load_balanced(), endpoint_slice(endpoints=[on_this_node, HERE], ports=["12000"]))
    assert cluster.plan.health_checks == {ServiceName("default", "web"): HealthCheck(Port(32000), 2)}
    assert cluster.readdress("10.0.0.1").health_checks_changed
    assert cluster.plan.health_checks == {ServiceName("default", "web"): HealthCheck(Port(32000), 1)}
    # It becomes a loop by what another Service claims.
    elsewhere = Cluster(load_balanced(), endpoint_slice(endpoints=[on_this_node], ports=["80"]))
    assert elsewhere.put(service("db", at="10.0.0.1")).health_checks_changed
    assert elsewhere.plan.health_checks == {ServiceName("default", "web"): HealthCheck(Port(32000), 0)}


def test_an_endpoint_counts_for_a_load_balancer_if_one_of_its_ports_is_dialled() -> None:
    web = service(
        type="LoadBalancer",
        ports=["a:80", "b:81"],
        external_traffic_policy="Local",
        health_check_node_port=32000,
    )
    on_this_node = endpoint("10.0.0.1", node="node-1")
    cluster = Cluster(web, endpoint_slice(endpoints=[on_this_node], ports=["a:12000", "b:8080"]))
    cluster.readdress("10.0.0.1")
    assert len(cluster.plan.undialled) == 1
    assert cluster.plan.health_checks == {ServiceName("default", "web"): HealthCheck(Port(32000), 1)}


def test_a_health_check_port_is_tcp() -> None:
    udp = service("dns", at="10.96.0.2", type="NodePort", ports=["53@32000/UDP"])
    assert Cluster(load_balanced(), udp).plan.lost_health_checks == {}


@pytest.mark.parametrize(
    ("endpoints", "count"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([THERE], 0, id="elsewhere"),
        pytest.param([HERE, THERE], 1, id="here and elsewhere"),
        pytest.param([HERE, endpoint("10.244.1.3", node="node-1")], 2, id="two here"),
        pytest.param([endpoint("10.244.1.2", node="node-1", ready=False)], 0, id="not ready"),
        pytest.param(
            [endpoint("10.244.1.2", node="node-1", ready=False, serving=True, terminating=True)],
            0,
            id="terminating",
        ),
        pytest.param([endpoint("10.244.1.2")], 0, id="nobody knows where"),
    ],
)
def test_a_load_balancer_hears_of_the_ready_endpoints_here(
    endpoints: list[SliceEndpoint], count: int
) -> None:
    cluster = Cluster(load_balanced(), endpoint_slice(endpoints=endpoints))
    assert cluster.plan.health_checks == {ServiceName("default", "web"): HealthCheck(Port(32000), count)}


def test_an_endpoint_counts_once_for_a_load_balancer_whatever_its_ports_slices_and_families() -> None:
    cluster = Cluster(
        service(
            at=["10.96.0.10", "fd00::a"],
            type="LoadBalancer",
            ports=["a:80", "b:81"],
            external_traffic_policy="Local",
            health_check_node_port=32000,
        ),
        endpoint_slice("one", endpoints=[HERE], ports=["a:8080", "b:8081"]),
        endpoint_slice("two", endpoints=[HERE], ports=["b:8081"]),
        endpoint_slice("six", endpoints=[endpoint("fd00::2", node="node-1")], address_type="IPv6"),
        endpoint_slice("portless", endpoints=[endpoint("10.244.1.9", node="node-1")], ports=[]),
        families=BOTH,
    )
    (check,) = cluster.plan.health_checks.values()
    assert check.local_endpoints == 1


def test_health_checks_follow_services_and_endpoints() -> None:
    cluster = Cluster()
    assert cluster.put(load_balanced()).health_checks_changed
    assert cluster.put(endpoint_slice(endpoints=[HERE])).health_checks_changed
    assert not cluster.put(endpoint_slice("more", endpoints=[THERE])).health_checks_changed
    assert cluster.put(load_balanced(policy="Cluster")).health_checks_changed
    assert cluster.plan.health_checks == {}
    assert cluster.put(load_balanced()).health_checks_changed
    assert cluster.delete(Kind.SERVICE, "web").health_checks_changed
    assert cluster.plan.health_checks == {}


# A small world, in which names, addresses and ports collide as often as they can. What comes first and often
# in a list is plain, so that most examples serve something.

SERVICE_NAMES = st.sampled_from(["web", "web", "dns", "db"])
PORTS = st.sampled_from(
    [["80"]] * 2
    + [["80@30080"]] * 3
    + [["80", "80@30080/UDP"], ["80", "a:81@30080"], ["a:80", "b:81/UDP"], ["30080"], ["12000"], ["0"], []]
)
NODES = st.sampled_from(["node-1", "node-2"])
GOING = {"ready": False, "serving": True, "terminating": True}

SMALL_SERVICES = st.builds(
    service,
    name=SERVICE_NAMES,
    at=st.sampled_from(
        ["10.96.0.1", "10.96.0.1", "10.96.0.2", ["10.96.0.2", "fd00::1"], ["fd00::1"], "None", "127.0.0.1"]
    ),
    ports=PORTS,
    type=st.sampled_from(["NodePort"] * 3 + ["LoadBalancer"] * 3 + [None, "ExternalName"]),
    internal_traffic_policy=st.sampled_from([None, None, "Local"]),
    external_traffic_policy=st.sampled_from([None, "Local"]),
    external_ips=st.sampled_from([[], [], ["203.0.113.1"], ["10.96.0.2", "2001:db8::1"]]),
    ingress=st.sampled_from([[], ["203.0.113.1"], ["203.0.113.1", "2001:db8::1"], ["203.0.113.2"]]),
    source_ranges=st.sampled_from([None, None, ["192.0.2.0/24"], ["nowhere"]]),
    health_check_node_port=st.sampled_from([None, 32000, 30080]),
    labels=st.sampled_from([None] * 7 + [{PROXY_NAME: "other"}]),
    affinity=st.sampled_from([None, "ClientIP"]),
    created=st.sampled_from([OLD, YOUNG]),
)
SMALL_ENDPOINTS = st.builds(
    lambda address, conditions, node, zones: endpoint(address, **conditions, node=node, for_zones=zones),
    st.sampled_from(["10.244.1.2", "10.244.1.2", "10.244.1.3", "10.96.0.1", "fd00::1"])
    | st.sampled_from(["10.0.0.1", "203.0.113.1", "2001:db8::1", "fd00::e1"]),
    st.sampled_from([{}, {}, {"ready": False}, GOING]),
    NODES,
    st.sampled_from([[], [], ["zone-a"], ["zone-b"]]),
)
SMALL_SLICES = st.builds(
    endpoint_slice,
    name=st.sampled_from(["one", "two", "three"]),
    of=st.sampled_from(["web", "web", "web", "dns", "db", None]),
    endpoints=st.lists(SMALL_ENDPOINTS, min_size=1, max_size=3),
    ports=PORTS,
    address_type=st.sampled_from(["IPv4", "IPv4", "IPv4", "IPv6"]),
)
SMALL_NODES = st.builds(
    node,
    name=NODES,
    zone=st.sampled_from([None, "zone-a", "zone-b"]),
    internal_ips=st.sampled_from([[], ["10.0.0.1"], ["10.244.1.3", "fd00::e1"]]),
)


def listings(kind: Kind, items: st.SearchStrategy[ApiObject]) -> st.SearchStrategy[Listed]:
    return st.lists(items, min_size=1, max_size=5).map(lambda listed: Listed(kind, tuple(listed)))


LOCAL_ADDRESSES = st.sampled_from([frozenset[str](), frozenset({"10.0.0.1"}), frozenset({"fd00::2"})])
SMALL_EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Upserted, SMALL_SERVICES),
    st.builds(Upserted, SMALL_SLICES),
    st.builds(Upserted, SMALL_SLICES),
    st.builds(Upserted, SMALL_NODES),
    st.builds(Deleted, st.just(Kind.SERVICE), st.just("default"), st.sampled_from(["web", "dns", "db"])),
    st.builds(
        Deleted, st.just(Kind.ENDPOINT_SLICE), st.just("default"), st.sampled_from(["one", "two", "three"])
    ),
    st.builds(Deleted, st.just(Kind.NODE), st.just(""), NODES),
    listings(Kind.SERVICE, SMALL_SERVICES),
    listings(Kind.ENDPOINT_SLICE, SMALL_SLICES),
    listings(Kind.NODE, SMALL_NODES),
)


BEGINNINGS = st.tuples(listings(Kind.SERVICE, SMALL_SERVICES), listings(Kind.ENDPOINT_SLICE, SMALL_SLICES))


class Objects:
    """What a cluster holds after some events, kept in the plainest way."""

    def __init__(self) -> None:
        self._held: dict[tuple[Kind, str], ApiObject] = {}

    def apply(self, event: Event) -> None:
        if isinstance(event, Deleted):
            self._held.pop((event.kind, event.name), None)
            return
        if isinstance(event, Listed):
            self._held = {key: item for key, item in self._held.items() if key[0] is not event.kind}
        items = event.objects if isinstance(event, Listed) else (event.object,)
        self._held |= {(kind_of(item), item.metadata.name): item for item in items}

    def listed(self, kinds: Iterable[Kind]) -> list[Event]:
        """All of it as a fresh list of each kind, the last first."""
        return [
            Listed(kind, tuple(item for key, item in reversed(self._held.items()) if key[0] is kind))
            for kind in kinds
        ]


@settings(max_examples=300)
@given(
    BEGINNINGS.map(list),
    st.lists(st.tuples(LOCAL_ADDRESSES, st.lists(SMALL_EVENTS, max_size=4)), max_size=6),
    st.permutations(list(Kind)),
)
def test_a_plan_that_followed_every_change_is_the_plan_made_of_the_last_state_alone(
    beginning: list[Event], batches: list[tuple[frozenset[str], list[Event]]], order: list[Kind]
) -> None:
    cluster, objects = Cluster(families=BOTH), Objects()
    followed: dict[ServicePortName, PlannedServicePort] = {}
    for addresses, batch in [(frozenset[str](), beginning), *batches]:
        before = deepcopy(cluster.plan)
        cluster.state.readdress(addresses)
        change = cluster.after(*batch)
        for event in batch:
            objects.apply(event)
        plan = cluster.plan
        assert change.portals_changed is (plan.portals != before.portals)
        assert change.health_checks_changed is (plan.health_checks != before.health_checks)
        assert change.conflicts_changed == (
            differing(plan.lost_claims, before.lost_claims)
            | differing(plan.undialled, before.undialled)
            | differing(plan.lost_health_checks, before.lost_health_checks)
        )
        for planned in change.changed:
            assert followed.get(planned.name) != planned
            followed[planned.name] = planned
        for name in change.removed:
            del followed[name]
        assert followed == plan.service_ports
    fresh = Cluster(families=BOTH)
    fresh.state.readdress(addresses)
    fresh.after(*objects.listed(order))
    assert cluster.plan == fresh.plan
    cluster.after(*(Listed(kind, ()) for kind in order))
    assert cluster.plan == ProxyPlan(BOTH)


def differing(one: Mapping[Any, object], other: Mapping[Any, object]) -> set[object]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


@given(st.lists(SMALL_EVENTS, max_size=12))
def test_a_plan_never_leads_astray(events: list[Event]) -> None:
    cluster = Cluster(families=BOTH)
    cluster.after(*events)
    plan = cluster.plan
    for frontend, portal in plan.portals.items():
        planned = plan.service_ports[portal.owner]
        (exposure,) = (item for item in planned.service_port.exposures() if item.frontend == frontend)
        assert portal.source_ranges == exposure.source_ranges
        for destination, policy in ((portal.outside, exposure.outside), (portal.inside, exposure.inside)):
            assert destination.listener == ListenerName(portal.owner, policy)
            selection = dict(planned.selections)[policy]
            assert destination.outcome is selection.outcome
            assert (destination.outcome is Outcome.SERVE) is bool(selection.endpoints)
    for name, planned in plan.service_ports.items():
        every = EVERY_LOCAL_ADDRESS[name.family]
        for _, selection in planned.selections:
            for item in selection.endpoints:
                assert Frontend(item.address, name.protocol, item.port) not in plan.portals
                if item.address in cluster.state.own_addresses:
                    assert Frontend(every, name.protocol, item.port) not in plan.portals
                    assert item.port not in PROXY_PORTS
    wanted = {exposure.frontend for planned in plan.service_ports.values() for exposure in planned.exposures}
    assert plan.portals.keys() == wanted
    owning = {portal.owner for portal in plan.portals.values()}
    assert owning | plan.lost_claims.keys() == plan.service_ports.keys()


@given(st.lists(object_strategies.events(), max_size=6))
def test_whatever_happens_there_is_a_plan(events: list[Event]) -> None:
    cluster = Cluster(families=BOTH)
    for event in events:
        cluster.after(event)
    assert {portal.owner for portal in cluster.plan.portals.values()} <= cluster.plan.service_ports.keys()
