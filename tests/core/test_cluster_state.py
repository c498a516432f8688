from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.object_strategies import events
from tests.support.objects import ZONE_LABEL, endpoint_slice, node, service
from userspace_proxy.core.cluster_state import ClusterState, NodeFacts, ObjectId, read_node
from userspace_proxy.core.endpoint_selection import NodeIdentity
from userspace_proxy.core.objects import (
    ApiObject,
    Deleted,
    Event,
    Kind,
    Listed,
    Node,
    NodeSpec,
    ObjectMeta,
    Upserted,
)
from userspace_proxy.core.service_annotations import ServiceSettings
from userspace_proxy.core.service_port import IPFamily, ServiceName

WEB, DNS = ServiceName("default", "web"), ServiceName("default", "dns")


def origin_of(key: ObjectId) -> str:
    return f"{key.name}.yaml"


def state_after(*changes: Event | ApiObject) -> ClusterState:
    """The state that `changes` lead to; an object alone is one that appeared. Nothing in it is dirty."""
    state = ClusterState("node-1")
    apply(state, *changes)
    state.take_dirty()
    return state


def apply(state: ClusterState, *changes: Event | ApiObject) -> None:
    for change in changes:
        event = change if isinstance(change, Listed | Upserted | Deleted) else Upserted(change)
        state.apply(event, origin_of)


def dirtied_by(state: ClusterState, *changes: Event | ApiObject) -> set[ServiceName]:
    apply(state, *changes)
    return state.take_dirty()


def cluster_ips(state: ClusterState, name: ServiceName) -> list[str]:
    return [port.cluster_ip for port in state.service_ports(name)]


def addresses(state: ClusterState, name: ServiceName) -> list[str]:
    return [host.address for checked in state.slices_of(name) for host in checked.hosts]


@pytest.mark.parametrize("order", list(permutations(Kind)))
def test_nothing_is_complete_before_every_kind_was_listed(order: Sequence[Kind]) -> None:
    state = state_after(service(), endpoint_slice(), node())
    for kind in order:
        assert not state.is_complete
        apply(state, Listed(kind, ()))
    assert state.is_complete


def test_a_service_comes_changes_and_goes() -> None:
    state = state_after()
    assert dirtied_by(state, service("web", at="10.96.0.1")) == {WEB}
    assert cluster_ips(state, WEB) == ["10.96.0.1"]
    assert dirtied_by(state, service("web", at="10.96.0.2")) == {WEB}
    assert cluster_ips(state, WEB) == ["10.96.0.2"]
    assert dirtied_by(state, Deleted(Kind.SERVICE, "default", "web")) == {WEB}
    assert cluster_ips(state, WEB) == []


def test_a_slice_comes_changes_and_goes() -> None:
    state = state_after()
    assert dirtied_by(state, endpoint_slice("web-1", endpoints=["10.244.1.2"])) == {WEB}
    assert addresses(state, WEB) == ["10.244.1.2"]
    assert dirtied_by(state, endpoint_slice("web-1", endpoints=["10.244.1.3"])) == {WEB}
    assert addresses(state, WEB) == ["10.244.1.3"]
    assert dirtied_by(state, Deleted(Kind.ENDPOINT_SLICE, "default", "web-1")) == {WEB}
    assert addresses(state, WEB) == []


def test_a_slice_that_moves_to_another_service_changes_both() -> None:
    state = state_after(endpoint_slice("one", of="web"))
    assert dirtied_by(state, endpoint_slice("one", of="dns")) == {WEB, DNS}
    assert (addresses(state, WEB), addresses(state, DNS)) == ([], ["10.244.1.2"])


def test_a_slice_that_loses_its_service_changes_it_once() -> None:
    state = state_after(endpoint_slice("one", of="web"), endpoint_slice("two", of="web", endpoints=[]))
    assert dirtied_by(state, endpoint_slice("one", of=None)) == {WEB}
    assert dirtied_by(state, Deleted(Kind.ENDPOINT_SLICE, "default", "one")) == set()
    assert addresses(state, WEB) == []


def test_slices_have_an_order_that_does_not_depend_on_how_they_came() -> None:
    one, two = (
        endpoint_slice("one", endpoints=["10.244.1.1"]),
        endpoint_slice("two", endpoints=["10.244.1.2"]),
    )
    again = endpoint_slice("one", endpoints=["10.244.1.3"])
    assert addresses(state_after(two, one), WEB) == ["10.244.1.1", "10.244.1.2"]
    assert addresses(state_after(one, two, again), WEB) == ["10.244.1.3", "10.244.1.2"]


def test_objects_of_one_name_in_two_namespaces_are_two() -> None:
    state = state_after(service("web", at="10.96.0.1"), service("web", namespace="shop", at="10.96.0.2"))
    apply(state, Deleted(Kind.SERVICE, "shop", "web"))
    assert cluster_ips(state, WEB) == ["10.96.0.1"]
    assert cluster_ips(state, ServiceName("shop", "web")) == []


def test_a_list_says_all_there_is_of_a_kind_and_nothing_of_another() -> None:
    state = state_after(service("web"), service("dns", at="10.96.0.53"), endpoint_slice(of="web"))
    assert dirtied_by(state, Listed(Kind.SERVICE, (service("web"),))) == {DNS}
    assert cluster_ips(state, DNS) == []
    assert addresses(state, WEB) == ["10.244.1.2"]


def test_what_is_said_again_changes_nothing() -> None:
    said: list[ApiObject] = [service(), endpoint_slice(), node("node-1", zone="a")]
    state = state_after(*said)
    again: list[Event] = [Upserted(item) for item in said]
    again += [Listed(Kind.SERVICE, (said[0],)), Listed(Kind.ENDPOINT_SLICE, (said[1],))]
    for event in again:
        assert state.apply(event, origin_of) == {}
    assert state.take_dirty() == set()


def test_deleting_what_is_not_there_changes_nothing() -> None:
    state = state_after()
    assert state.apply(Deleted(Kind.SERVICE, "default", "web"), origin_of) == {}
    assert state.take_dirty() == set()


def test_dirty_names_are_handed_out_once() -> None:
    state = ClusterState("node-1")
    apply(state, service("web"), service("dns"))
    assert state.take_dirty() == {WEB, DNS}
    assert state.take_dirty() == set()


def test_findings_name_what_is_wrong_until_it_is_mended_or_gone() -> None:
    state = ClusterState("node-1")
    key = ObjectId(Kind.SERVICE, "default", "web")
    (problem,) = state.apply(Upserted(service("web", at="nowhere")), origin_of)[key]
    assert str(problem) == "web.yaml: Service default/web: spec.clusterIP: 'nowhere' is not an IP address"
    assert state.apply(Upserted(service("web", at="10.96.0.1")), origin_of) == {key: ()}
    assert state.apply(Deleted(Kind.SERVICE, "default", "web"), origin_of) == {key: ()}


def test_a_list_has_the_findings_of_what_it_changed() -> None:
    state = state_after(service("web", at="nowhere"), endpoint_slice("kept"))
    gone, new = (ObjectId(Kind.SERVICE, "default", name) for name in ("web", "dns"))
    findings = state.apply(Listed(Kind.SERVICE, (service("dns", ports=["0"]),)), origin_of)
    assert findings.keys() == {gone, new}
    assert findings[gone] == () and [problem.field for problem in findings[new]] == ["spec.ports[0].port"]


def test_an_object_is_named_as_kubectl_would() -> None:
    assert str(ObjectId(Kind.SERVICE, "shop", "web")) == "Service shop/web"
    assert str(ObjectId(Kind.NODE, "", "node-1")) == "Node node-1"


def test_the_own_node_has_a_zone_once_its_object_is_known() -> None:
    state = state_after()
    assert state.node == NodeIdentity("node-1", None)
    apply(state, node("node-1", zone="a"))
    assert state.node == NodeIdentity("node-1", "a")
    apply(state, Listed(Kind.NODE, ()))
    assert state.node == NodeIdentity("node-1", None)


def test_an_empty_zone_is_none() -> None:
    assert state_after(node("node-1", zone="")).node.zone is None


def test_another_node_is_of_no_interest() -> None:
    state = state_after(node("node-1", zone="a"), endpoint_slice())
    assert dirtied_by(state, node("node-2", zone="b"), Deleted(Kind.NODE, "", "node-2")) == set()
    assert state.node.zone == "a"


def test_a_node_has_no_namespace_whatever_its_manifest_says() -> None:
    state = state_after(node("node-1", zone="a"))
    apply(state, Node(ObjectMeta("node-1", "default", labels={ZONE_LABEL: "b"})))
    assert state.node.zone == "b"
    apply(state, Deleted(Kind.NODE, "", "node-1"))
    assert state.node.zone is None


def test_a_change_of_zone_or_address_may_change_every_service_with_slices() -> None:
    state = state_after(node("node-1", zone="a"), endpoint_slice("one", of="web"), service("dns"))
    assert dirtied_by(state, node("node-1", zone="b")) == {WEB}
    addressed = node("node-1", zone="b", internal_ips=["10.0.0.1"])
    assert dirtied_by(state, addressed) == {WEB}
    again = Node(ObjectMeta("node-1", labels={ZONE_LABEL: "b", "more": ""}), None, addressed.status)
    assert dirtied_by(state, again) == set()
    assert dirtied_by(state, Deleted(Kind.NODE, "", "node-1")) == {WEB}


def test_a_service_without_slices_has_no_hints_that_a_zone_could_change() -> None:
    state = state_after(endpoint_slice("one"), Deleted(Kind.ENDPOINT_SLICE, "default", "one"))
    assert dirtied_by(state, node("node-1", zone="a")) == set()


def test_node_addresses_come_by_family_with_the_internal_ones_first() -> None:
    own = node(
        "node-1",
        other_addresses=[("Hostname", "node-1"), ("ExternalIP", "192.0.2.1"), ("ExternalIP", "2001:DB8::1")],
        internal_ips=["10.0.0.1", "fd00::1"],
    )
    state = state_after()
    assert state.node_addresses(IPFamily.IPV4) == ()
    apply(state, own)
    assert state.node_addresses(IPFamily.IPV4) == ("10.0.0.1", "192.0.2.1")
    assert state.node_addresses(IPFamily.IPV6) == ("fd00::1", "2001:db8::1")


def test_a_node_address_is_kept_once_and_only_if_others_can_reach_it() -> None:
    own = node(
        internal_ips=["10.0.0.2", "127.0.0.1", "10.0.0.1", "10.0.0.2", "fe80::1%eth0", "::ffff:10.0.0.3"]
    )
    assert read_node("node-1", own).addresses == ("10.0.0.2", "10.0.0.1")


@pytest.mark.parametrize(
    ("spec", "pod_cidrs"),
    [
        (None, ()),
        (NodeSpec(), ()),
        (NodeSpec(pod_cidr=""), ()),
        (NodeSpec(pod_cidr="10.244.1.0/24"), ("10.244.1.0/24",)),
        (
            NodeSpec(pod_cidr="10.244.1.0/24", pod_cidrs=["10.244.1.0/24", "fd00::/64"]),
            ("10.244.1.0/24", "fd00::/64"),
        ),
    ],
)
def test_a_nodes_pods_have_the_addresses_that_it_says(
    spec: NodeSpec | None, pod_cidrs: tuple[str, ...]
) -> None:
    assert read_node("node-1", Node(ObjectMeta("node-1"), spec)) == NodeFacts(
        NodeIdentity("node-1"), pod_cidrs=pod_cidrs
    )


def test_a_node_that_is_not_known_says_nothing() -> None:
    assert read_node("node-1", None) == NodeFacts(NodeIdentity("node-1"))


def test_pods_have_the_addresses_that_somebody_says_of_the_family_that_is_asked_for() -> None:
    state = ClusterState("node-1", cluster_cidrs=("10.0.0.0/8",))
    apply(state, Node(ObjectMeta("node-1"), NodeSpec(pod_cidrs=["10.244.1.0/24", "fd00::/64"])))
    assert state.pod_cidrs(IPFamily.IPV4) == ("10.0.0.0/8", "10.244.1.0/24")
    assert state.pod_cidrs(IPFamily.IPV6) == ("fd00::/64",)


def test_services_are_found_by_the_addresses_of_their_endpoints() -> None:
    state = state_after(
        endpoint_slice("one", of="web", endpoints=["10.244.1.2", "10.244.1.3"]),
        endpoint_slice("two", of="dns", endpoints=["10.244.1.3", "10.244.1.4"]),
    )
    assert set(state.services_with_endpoint_on({"10.244.1.3"})) == {WEB, DNS}
    assert set(state.services_with_endpoint_on({"10.244.1.4", "10.244.1.5"})) == {DNS}
    assert set(state.services_with_endpoint_on(set())) == set()


@given(st.lists(events(), max_size=6))
def test_whatever_happens_is_folded_and_says_what_is_wrong(happened: list[Event]) -> None:
    state = ClusterState("web")
    for event in happened:
        for key, problems in state.apply(event, origin_of).items():
            assert all((problem.kind, problem.name) == (key.kind.value, key.name) for problem in problems)
    for name in state.take_dirty():
        state.service_ports(name)
        state.slices_of(name)
    for family in IPFamily:
        state.node_addresses(family)


ANNOTATIONS = st.dictionaries(
    st.sampled_from(
        [
            "userspace-proxy.io/workers",
            "userspace-proxy.io/max-connections",
            "userspace-proxy.io/removed-endpoints",
            "userspace-proxy.io/typo",
            "somebody-elses",
        ]
    ),
    st.sampled_from(["2", "none", "reset", "?"]),
)
SETTINGS = st.builds(
    ServiceSettings,
    drain_removed_seconds=st.sampled_from([None, 0.0, 5.0]),
    max_connections=st.sampled_from([None, 10]),
    max_udp_flows=st.sampled_from([None, 10]),
)


@given(
    ANNOTATIONS,
    st.sampled_from([None, "10.96.0.10", ["10.96.0.10", "fd00::a"]]),
    st.sampled_from([[], ["80"], ["a:80", "b:53/UDP", "c:54/UDP"]]),
    st.sampled_from([None, "ClientIP"]),
    SETTINGS,
    SETTINGS,
)
def test_other_settings_are_as_if_they_had_always_been(
    annotations: dict[str, str],
    at: str | list[str] | None,
    ports: list[str],
    affinity: str | None,
    before: ServiceSettings,
    after: ServiceSettings,
) -> None:
    item = service("web", at=at, ports=ports, affinity=affinity, annotations=annotations)
    state, fresh = (
        ClusterState("node-1", default_settings=before),
        ClusterState("node-1", default_settings=after),
    )
    found_before = state.apply(Upserted(item), origin_of)
    found_after = fresh.apply(Upserted(item), origin_of)
    ports_before = state.service_ports(WEB)
    state.take_dirty()
    changed = state.settle_again(after, origin_of)
    assert state.service_ports(WEB) == fresh.service_ports(WEB)
    assert {**found_before, **changed} == found_after
    has_changed = (ports_before, found_before) != (state.service_ports(WEB), found_after)
    assert state.take_dirty() == ({WEB} if has_changed else set())
    assert bool(changed) is has_changed


def test_all_is_planned_again_if_somebody_wants_it() -> None:
    state = state_after(service("web"), service("dns", at="10.96.0.11"), endpoint_slice("web"))
    state.plan_all_again()
    assert state.take_dirty() == {WEB, DNS}
