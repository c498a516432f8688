from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.objects import endpoint, endpoint_slice
from userspace_proxy.core.endpoint import Endpoint, EndpointHost, read_endpoint_slice
from userspace_proxy.core.endpoint_selection import (
    Candidate,
    NodeIdentity,
    candidates_of,
    select_endpoints,
)
from userspace_proxy.core.objects import SliceEndpoint
from userspace_proxy.core.plan_conflicts import WhyUndialled
from userspace_proxy.core.selection_reasons import explain_selection
from userspace_proxy.core.service_port import (
    IPFamily,
    Port,
    Protocol,
    ServiceName,
    ServicePortName,
    TrafficPolicy,
)

CLUSTER, LOCAL = TrafficPolicy.CLUSTER, TrafficPolicy.LOCAL
NODE = NodeIdentity("node-1", "a")
WEB = ServicePortName(ServiceName("default", "web"), "", Protocol.TCP, IPFamily.IPV4)
FIRST, SECOND = "10.244.1.1", "10.244.1.2"


def reasons(policy: TrafficPolicy, *entries: SliceEndpoint) -> list[str]:
    checked, problems = read_endpoint_slice(endpoint_slice(endpoints=entries), "test")
    assert checked is not None and not problems
    explained = explain_selection(candidates_of(WEB, [checked]), {}, policy, NODE)
    return [("" if use.is_used else "not: ") + use.reason for use in explained.values()]


@pytest.mark.parametrize(
    ("policy", "entries", "said"),
    [
        pytest.param(
            CLUSTER,
            [endpoint(FIRST, ready=True), endpoint(SECOND, ready=False)],
            ["ready", "not: not ready"],
            id="readiness",
        ),
        pytest.param(
            CLUSTER,
            [endpoint(FIRST, ready=True), endpoint(SECOND, ready=False, serving=True, terminating=True)],
            ["ready", "not: terminating, and others are ready"],
            id="terminating beside a ready one",
        ),
        pytest.param(
            CLUSTER,
            [
                endpoint(FIRST, ready=False, serving=True, terminating=True),
                endpoint(SECOND, ready=False, serving=False, terminating=True),
            ],
            ["terminating, and none is ready", "not: terminating, and serves no more"],
            id="terminating alone",
        ),
        pytest.param(
            LOCAL,
            [endpoint(FIRST, node="node-1"), endpoint(SECOND, node="node-2"), endpoint("10.244.1.3")],
            [
                "ready, and on this node",
                "not: on node-2, and traffic policy Local takes those of this node",
                "not: on no node that is known, and traffic policy Local takes those of this node",
            ],
            id="Local",
        ),
        pytest.param(
            LOCAL,
            [
                endpoint(FIRST, node="node-1", ready=False, serving=True, terminating=True),
                endpoint(SECOND, node="node-2"),
            ],
            [
                "terminating, and none on this node is ready",
                "not: on node-2, and traffic policy Local takes those of this node",
            ],
            id="Local, terminating",
        ),
        pytest.param(
            LOCAL,
            [
                endpoint(FIRST, node="node-1"),
                endpoint(SECOND, node="node-1", ready=False, serving=True, terminating=True),
            ],
            ["ready, and on this node", "not: terminating, and others are ready"],
            id="Local, terminating beside a ready one",
        ),
        pytest.param(
            CLUSTER,
            [endpoint(FIRST, for_zones=["a"]), endpoint(SECOND, for_zones=["c", "b"])],
            [
                "ready, and hinted for this node's zone a",
                "not: hinted for zone b, zone c, and this is node-1 in zone a",
            ],
            id="zones",
        ),
        pytest.param(
            CLUSTER,
            [
                endpoint(FIRST, for_zones=["a"], for_nodes=["node-1"]),
                endpoint(SECOND, for_zones=["a"], for_nodes=["node-2"]),
            ],
            [
                "ready, and hinted for this node",
                "not: hinted for node-2, zone a, and this is node-1 in zone a",
            ],
            id="nodes",
        ),
        pytest.param(
            CLUSTER,
            [endpoint(FIRST, for_zones=["a"]), endpoint(SECOND)],
            ["ready", "ready"],
            id="hints that not all have",
        ),
    ],
)
def test_each_endpoint_has_a_reason(
    policy: TrafficPolicy, entries: list[SliceEndpoint], said: list[str]
) -> None:
    assert reasons(policy, *entries) == said


def test_what_would_lead_back_to_us_says_so_and_the_rest_is_chosen_without_it() -> None:
    host = EndpointHost(FIRST, True, True, False, "node-1", frozenset(), frozenset())
    endpoints = [Endpoint(FIRST, Port(port)) for port in (80, 81, 82)]
    undialled = {endpoints[0]: WhyUndialled.OWN_FRONTEND, endpoints[1]: WhyUndialled.PROXY_PORT}
    explained = explain_selection(
        [Candidate(each, host) for each in endpoints], undialled, CLUSTER, NodeIdentity("node-1")
    )
    assert [(use.is_used, use.reason) for use in explained.values()] == [
        (False, "the address of a Service, and so a loop"),
        (False, "at a proxy port of this node, where only redirected traffic is let in"),
        (True, "ready"),
    ]


hosts = st.builds(
    EndpointHost,
    address=st.sampled_from([FIRST, SECOND, "10.244.1.3", "10.244.1.4"]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
    node_name=st.sampled_from([None, "node-1", "node-2"]),
    hint_nodes=st.frozensets(st.sampled_from(["node-1", "node-2"])),
    hint_zones=st.frozensets(st.sampled_from(["a", "b"])),
)


@given(
    st.lists(hosts, unique_by=lambda host: host.address),
    st.sampled_from(TrafficPolicy),
    st.sampled_from([None, "a", "c"]),
)
def test_what_is_said_to_be_used_is_what_is_selected(
    found: list[EndpointHost], policy: TrafficPolicy, zone: str | None
) -> None:
    node = NodeIdentity("node-1", zone)
    candidates = [Candidate(Endpoint(host.address, Port(80)), host) for host in found]
    explained = explain_selection(candidates, {}, policy, node)
    assert {each for each, use in explained.items() if use.is_used} == {
        *select_endpoints(candidates, policy, node).endpoints
    }
    assert all(use.reason for use in explained.values())
