from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import object_strategies
from tests.support.objects import endpoint, endpoint_slice, node, service
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.endpoint_selection import Outcome
from userspace_proxy.core.objects import ApiObject, Deleted, Event, Kind, Listed, Upserted, kind_of
from userspace_proxy.core.proxy_plan import (
    ListenerName,
    LostClaim,
    OwnFrontendAsEndpoint,
    PlanChange,
    PlannedServicePort,
    ProxyPlan,
)
from userspace_proxy.core.service_port import (
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


class Cluster:
    """A cluster and the plan for its node-1, which follows each change."""

    def __init__(self, *items: ApiObject, families: frozenset[IPFamily] = IPV4) -> None:
        self.state = ClusterState("node-1")
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
        """Where each frontend leads, as `10.96.0.10:80/TCP` → `default/web Cluster serve`."""
        return {
            str(frontend): f"{portal.listener.service_port} {portal.listener.policy.value} "
            f"{portal.outcome.value}"
            for frontend, portal in self.plan.portals.items()
        }

    def endpoints(self, name: str = "web", protocol: Protocol = Protocol.TCP) -> list[str]:
        ((_, selection),) = self.plan.service_ports[port_of(name, protocol)].selections
        return [str(item) for item in selection.endpoints]


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
    assert cluster.after() == PlanChange((), (), portals_changed=False)
    assert cluster.put(service(created=None, labels={"app": "web"})) == PlanChange((), (), False)
    assert cluster.delete(Kind.SERVICE, "unknown") == PlanChange((), (), portals_changed=False)


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
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/old Cluster refuse"}
    frontend = Frontend("10.96.0.10", Protocol.TCP, Port(80))
    lost = LostClaim(frontend, port_of("young"), port_of("old"))
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
    loop = OwnFrontendAsEndpoint(port_of("web"), Endpoint("10.96.0.53", Port(53)))
    assert cluster.plan.loops == {port_of("web"): (loop,)}
    cluster.delete(Kind.SERVICE, "dns")
    assert cluster.endpoints() == ["10.244.1.2:53", "10.96.0.53:53"]
    assert cluster.plan.loops == {}


def test_a_service_whose_only_endpoint_is_itself_is_refused() -> None:
    cluster = Cluster(service(at="10.96.0.10", ports=["80"]))
    cluster.put(endpoint_slice(endpoints=["10.96.0.10"], ports=["80"]))
    assert cluster.portals == {"10.96.0.10:80/TCP": "default/web Cluster refuse"}
    cluster.delete(Kind.SERVICE, "web")
    assert cluster.plan.loops == {}


@pytest.mark.parametrize("ports", [["81"], ["80/UDP"]], ids=["another port", "another protocol"])
def test_an_endpoint_on_a_frontends_address_alone_is_no_loop(ports: list[str]) -> None:
    cluster = Cluster(
        service("web", ports=["80", "80/UDP"]),
        endpoint_slice(of="web", endpoints=["10.96.0.53"], ports=ports),
        service("dns", at="10.96.0.53", ports=["80"]),
    )
    protocol = Protocol.UDP if ports == ["80/UDP"] else Protocol.TCP
    assert len(cluster.endpoints("web", protocol)) == 1
    assert cluster.plan.loops == {}


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
    assert portal.listener == ListenerName(port_of("old"), TrafficPolicy.CLUSTER)
    assert list(cluster.plan.portals_of(port_of("young"))) == []


# A small world, in which names, addresses and ports collide as often as they can. What comes first and often
# in a list is plain, so that most examples serve something.

SERVICE_NAMES = st.sampled_from(["web", "web", "dns", "db"])
PORTS = st.sampled_from([["80"]] * 5 + [["80", "80/UDP"], ["80", "a:81"], ["a:80", "b:81/UDP"], ["0"], []])
NODES = st.sampled_from(["node-1", "node-2"])
GOING = {"ready": False, "serving": True, "terminating": True}

SMALL_SERVICES = st.builds(
    service,
    name=SERVICE_NAMES,
    at=st.sampled_from(
        ["10.96.0.1", "10.96.0.1", "10.96.0.2", ["10.96.0.2", "fd00::1"], ["fd00::1"], "None", "127.0.0.1"]
    ),
    ports=PORTS,
    type=st.sampled_from([None] * 5 + ["ExternalName"]),
    internal_traffic_policy=st.sampled_from([None, None, "Local"]),
    affinity=st.sampled_from([None, "ClientIP"]),
    created=st.sampled_from([OLD, YOUNG]),
)
SMALL_ENDPOINTS = st.builds(
    lambda address, conditions, node, zones: endpoint(address, **conditions, node=node, for_zones=zones),
    st.sampled_from(["10.244.1.2", "10.244.1.2", "10.96.0.1", "10.96.0.2", "fd00::1"]),
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
SMALL_NODES = st.builds(node, name=NODES, zone=st.sampled_from([None, "zone-a", "zone-b"]))


def listings(kind: Kind, items: st.SearchStrategy[ApiObject]) -> st.SearchStrategy[Listed]:
    return st.lists(items, min_size=1, max_size=5).map(lambda listed: Listed(kind, tuple(listed)))


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


def facts(plan: ProxyPlan) -> tuple[object, ...]:
    return plan.service_ports, plan.portals, plan.lost_claims, plan.loops


@settings(max_examples=300)
@given(
    BEGINNINGS.map(list),
    st.lists(st.lists(SMALL_EVENTS, max_size=4), max_size=6),
    st.permutations(list(Kind)),
)
def test_a_plan_that_followed_every_change_is_the_plan_made_of_the_last_state_alone(
    beginning: list[Event], batches: list[list[Event]], order: list[Kind]
) -> None:
    cluster, objects = Cluster(families=BOTH), Objects()
    followed: dict[ServicePortName, PlannedServicePort] = {}
    for batch in [beginning, *batches]:
        portals = dict(cluster.plan.portals)
        change = cluster.after(*batch)
        for event in batch:
            objects.apply(event)
        assert change.portals_changed is (cluster.plan.portals != portals)
        for planned in change.changed:
            assert followed.get(planned.name) != planned
            followed[planned.name] = planned
        for name in change.removed:
            del followed[name]
        assert followed == cluster.plan.service_ports
    fresh = Cluster(families=BOTH)
    fresh.after(*objects.listed(order))
    assert facts(cluster.plan) == facts(fresh.plan)


@given(st.lists(SMALL_EVENTS, max_size=12))
def test_a_plan_never_leads_astray(events: list[Event]) -> None:
    cluster = Cluster(families=BOTH)
    cluster.after(*events)
    plan = cluster.plan
    for frontend, portal in plan.portals.items():
        planned = plan.service_ports[portal.listener.service_port]
        selection = dict(planned.selections)[portal.listener.policy]
        assert frontend.address == planned.service_port.cluster_ip
        assert (portal.outcome is Outcome.SERVE) is bool(selection.endpoints)
    for name, planned in plan.service_ports.items():
        for _, selection in planned.selections:
            frontends = {Frontend(item.address, name.protocol, item.port) for item in selection.endpoints}
            assert not frontends & plan.portals.keys()
    owning = {portal.listener.service_port for portal in plan.portals.values()}
    assert owning | plan.lost_claims.keys() == plan.service_ports.keys()


@given(st.lists(object_strategies.events(), max_size=6))
def test_whatever_happens_there_is_a_plan(events: list[Event]) -> None:
    cluster = Cluster(families=BOTH)
    for event in events:
        cluster.after(event)
    assert {portal.listener.service_port for portal in cluster.plan.portals.values()} <= (
        cluster.plan.service_ports.keys()
    )
