from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.objects import endpoint, endpoint_slice
from userspace_proxy.core import objects
from userspace_proxy.core.endpoint import CheckedSlice, Endpoint, EndpointHost, read_endpoint_slice
from userspace_proxy.core.endpoint_selection import (
    Candidate,
    NodeIdentity,
    Outcome,
    candidates_of,
    select_endpoints,
)
from userspace_proxy.core.service_port import (
    IPFamily,
    Port,
    Protocol,
    ServiceName,
    ServicePortName,
    TrafficPolicy,
)

CLUSTER, LOCAL = TrafficPolicy.CLUSTER, TrafficPolicy.LOCAL
SERVE, REFUSE, DROP = Outcome.SERVE, Outcome.REFUSE, Outcome.DROP
HERE, ELSEWHERE = "node-1", "node-2"
HTTP = ServicePortName(ServiceName("default", "web"), "http", Protocol.TCP, IPFamily.IPV4)


def checked(item: objects.EndpointSlice) -> CheckedSlice:
    read, problems = read_endpoint_slice(item, "test")
    assert read is not None and not problems
    return read


def candidates(*slices: objects.EndpointSlice) -> list[str]:
    return [str(candidate.endpoint) for candidate in candidates_of(HTTP, map(checked, slices))]


def test_the_slices_of_a_service_are_united_and_each_brings_its_own_port_number() -> None:
    assert candidates(
        endpoint_slice(endpoints=["10.244.1.3", "10.244.1.2"], ports=["http:8080"]),
        endpoint_slice(endpoints=["10.244.1.4"], ports=["http:9090"]),
    ) == ["10.244.1.2:8080", "10.244.1.3:8080", "10.244.1.4:9090"]


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(endpoint_slice(ports=["metrics:8080"]), id="another name"),
        pytest.param(endpoint_slice(ports=["8080"]), id="no name"),
        pytest.param(endpoint_slice(ports=["http:8080/UDP"]), id="another protocol"),
        pytest.param(
            endpoint_slice(endpoints=["fd00::a"], address_type="IPv6", ports=["http:8080"]),
            id="another family",
        ),
    ],
)
def test_endpoints_of_another_port_or_family_are_not_candidates(item: objects.EndpointSlice) -> None:
    assert candidates(item) == []


def test_an_endpoint_listed_twice_counts_once() -> None:
    assert candidates(*[endpoint_slice(ports=["http:8080"])] * 2) == ["10.244.1.2:8080"]


def test_of_an_endpoint_listed_twice_the_entry_that_is_not_terminating_wins() -> None:
    going = endpoint("10.244.1.2", ready=False, serving=True, terminating=True)
    staying = endpoint("10.244.1.2", ready=True)
    for said in permutations([going, staying, going]):
        (candidate,) = candidates_of(
            HTTP, [checked(endpoint_slice(endpoints=[entry], ports=["http:8080"])) for entry in said]
        )
        assert candidate.host.ready and not candidate.host.terminating


def selected(
    policy: TrafficPolicy,
    *said: objects.SliceEndpoint,
    node: NodeIdentity = NodeIdentity(HERE, "zone-a"),  # noqa: B008 (a frozen value)
) -> tuple[str, list[int]]:
    """The outcome, and which of the entries (by number) are used."""
    entries = [
        objects.SliceEndpoint([f"10.244.1.{number}"], entry.conditions, entry.hints, entry.node_name)
        for number, entry in enumerate(said)
    ]
    slices = [checked(endpoint_slice(endpoints=entries, ports=["http:8080"]))]
    selection = select_endpoints(candidates_of(HTTP, slices), policy, node)
    return selection.outcome.value, [int(item.address.rpartition(".")[2]) for item in selection.endpoints]


READY = endpoint(node=ELSEWHERE)
READY_HERE = endpoint(node=HERE)
NOT_READY = endpoint(ready=False, node=ELSEWHERE)
GOING = endpoint(ready=False, serving=True, terminating=True, node=ELSEWHERE)
GOING_HERE = endpoint(ready=False, serving=True, terminating=True, node=HERE)
GONE = endpoint(ready=False, serving=False, terminating=True, node=HERE)
UNREADY_SERVING = endpoint(ready=False, serving=True, node=HERE)


@pytest.mark.parametrize(
    ("policy", "said", "outcome"),
    [
        pytest.param(CLUSTER, [], ("refuse", []), id="no endpoint at all"),
        pytest.param(CLUSTER, [READY, READY_HERE], ("serve", [0, 1]), id="ready ones, wherever"),
        pytest.param(CLUSTER, [READY, NOT_READY, GOING], ("serve", [0]), id="ready before terminating"),
        pytest.param(CLUSTER, [NOT_READY, GOING, GONE], ("serve", [1]), id="fallback to terminating"),
        pytest.param(CLUSTER, [NOT_READY, GONE, UNREADY_SERVING], ("refuse", []), id="none usable"),
        pytest.param(LOCAL, [], ("refuse", []), id="local: none anywhere"),
        pytest.param(LOCAL, [NOT_READY], ("refuse", []), id="local: none usable anywhere"),
        pytest.param(LOCAL, [READY, READY_HERE], ("serve", [1]), id="local: only this node's"),
        pytest.param(LOCAL, [READY], ("drop", []), id="local: elsewhere only"),
        pytest.param(LOCAL, [GOING], ("drop", []), id="local: terminating elsewhere only"),
        pytest.param(LOCAL, [endpoint()], ("drop", []), id="local: on a node that is not said"),
        pytest.param(LOCAL, [READY, GOING_HERE], ("serve", [1]), id="local: terminating here"),
        pytest.param(LOCAL, [READY, GONE], ("drop", []), id="local: gone here"),
        pytest.param(LOCAL, [READY_HERE, GOING_HERE], ("serve", [0]), id="local: ready before terminating"),
    ],
)
def test_which_endpoints_a_policy_may_use(
    policy: TrafficPolicy, said: list[objects.SliceEndpoint], outcome: tuple[str, list[int]]
) -> None:
    assert selected(policy, *said) == outcome


BY_NODE_HERE = endpoint(for_nodes=[HERE])
BY_NODE_ELSEWHERE = endpoint(for_nodes=[ELSEWHERE])
ZONE_A = endpoint(for_zones=["zone-a"])
ZONE_B = endpoint(for_zones=["zone-b"])
NODE_AND_ZONE = endpoint(for_nodes=[ELSEWHERE], for_zones=["zone-a"])
BOTH_HERE = endpoint(for_nodes=[HERE], for_zones=["zone-b"])
NO_HINT = endpoint()


@pytest.mark.parametrize(
    ("said", "used"),
    [
        pytest.param([ZONE_A, ZONE_B], [0], id="own zone"),
        pytest.param([endpoint(for_zones=["zone-b", "zone-a"]), ZONE_B], [0], id="several zones"),
        pytest.param([ZONE_A, NO_HINT], [0, 1], id="one without a hint: all"),
        pytest.param([ZONE_B, ZONE_B], [0, 1], id="no hint for here: all"),
        pytest.param([BY_NODE_HERE, BY_NODE_ELSEWHERE], [0], id="own node"),
        pytest.param([BY_NODE_HERE, NO_HINT], [0, 1], id="one without a node: all"),
        pytest.param([NODE_AND_ZONE, BOTH_HERE], [1], id="node before zone"),
        pytest.param([NODE_AND_ZONE, ZONE_B], [0], id="not every one has a node: zone"),
        pytest.param(
            [NODE_AND_ZONE, endpoint(for_nodes=[ELSEWHERE], for_zones=["zone-b"])],
            [0],
            id="no node is this one: zone",
        ),
        pytest.param([ZONE_A, ZONE_B, endpoint(ready=False)], [0], id="what is not ready needs no hint"),
        pytest.param(
            [
                endpoint(ready=False, serving=True, terminating=True, for_zones=["zone-a"]),
                endpoint(ready=False, serving=True, terminating=True, for_zones=["zone-b"]),
            ],
            [0, 1],
            id="not among the terminating",
        ),
    ],
)
def test_hints_narrow_what_cluster_traffic_uses(said: list[objects.SliceEndpoint], used: list[int]) -> None:
    assert selected(CLUSTER, *said) == ("serve", used)


def test_hints_do_not_narrow_policy_local() -> None:
    said = [
        endpoint(node=HERE, for_zones=["zone-a"], for_nodes=[HERE]),
        endpoint(node=HERE, for_zones=["zone-b"], for_nodes=[ELSEWHERE]),
    ]
    assert selected(LOCAL, *said) == ("serve", [0, 1])


def test_a_node_without_a_zone_uses_all() -> None:
    assert selected(CLUSTER, ZONE_A, ZONE_B, node=NodeIdentity(HERE)) == ("serve", [0, 1])


NAMES = st.sampled_from([HERE, ELSEWHERE, "zone-a"])
HOSTS = st.builds(
    EndpointHost,
    address=st.sampled_from([f"10.244.1.{number}" for number in range(4)]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
    node_name=st.none() | NAMES,
    hint_nodes=st.frozensets(NAMES, max_size=2),
    hint_zones=st.frozensets(NAMES, max_size=2),
)


@given(st.lists(HOSTS, unique_by=lambda host: host.address), st.sampled_from(TrafficPolicy))
def test_an_outcome_and_its_endpoints_agree_whatever_the_endpoints_say(
    hosts: list[EndpointHost], policy: TrafficPolicy
) -> None:
    offered = [Candidate(Endpoint(host.address, Port(80)), host) for host in hosts]
    selection = select_endpoints(offered, policy, NodeIdentity(HERE, "zone-a"))
    by_endpoint = {candidate.endpoint: candidate.host for candidate in offered}
    used = [by_endpoint[item] for item in selection.endpoints]
    usable = [host for host in hosts if host.ready or (host.serving and host.terminating)]
    assert bool(used) is (selection.outcome is SERVE)
    assert (selection.outcome is REFUSE) is (not usable)
    assert all(host in usable for host in used)
    if policy is LOCAL:
        assert all(host.node_name == HERE for host in used)
        assert (selection.outcome is DROP) is (
            bool(usable) and not any(host.node_name == HERE for host in usable)
        )
    else:
        assert selection.outcome is not DROP
