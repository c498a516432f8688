from __future__ import annotations

import pytest

from tests.support.objects import endpoint_slice, service
from userspace_proxy.core.answers.trace import (
    CandidateAnswer,
    candidate_answers,
    conclude_served,
    explain_not_captured,
    explain_source_ranges,
    origin_of,
    read_frontend,
)
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import NOT_LIVE, LiveClass, LiveEndpoint, LiveServicePort
from userspace_proxy.core.local_traffic import LocalTraffic
from userspace_proxy.core.objects import Upserted
from userspace_proxy.core.proxy_plan import ProxyPlan
from userspace_proxy.core.selection_reasons import Use
from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, TrafficPolicy

FIRST, SECOND = Endpoint("10.244.1.2", Port(80)), Endpoint("10.244.1.3", Port(80))


@pytest.mark.parametrize(
    ("text", "frontend"),
    [
        ("10.96.0.10:80", "10.96.0.10:80/TCP"),
        ("10.96.0.10:53/udp", "10.96.0.10:53/UDP"),
        ("[fd00:0::1]:80/TCP", "[fd00::1]:80/TCP"),
        ("0.0.0.0:30080", "0.0.0.0:30080/TCP"),
        ("default/web:http", None),
        ("web", None),
        ("", None),
    ],
)
def test_an_address_with_a_port_is_a_frontend_and_all_else_a_name(text: str, frontend: str | None) -> None:
    assert str(read_frontend(text)) == str(frontend)


@pytest.mark.parametrize(
    "text",
    [
        "10.96.0.10",
        "fd00::a",
        "[fd00::a]",
        "10.96.0.10:0",
        "10.96.0.10:65536",
        "10.96.0.10:http",
        "10.96.0.10:80/sctp",
    ],
)
def test_an_address_without_a_port_is_not_taken_for_a_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no frontend: that is an address with a port"):
        read_frontend(text)


PODS = [LocalTraffic(source="10.244.0.0/16"), LocalTraffic(in_interface="cali+"), LocalTraffic()]


@pytest.mark.parametrize(
    ("client", "interface", "is_inside", "said"),
    [
        ("192.0.2.10", None, True, "192.0.2.10 is this node itself, which counts as inside"),
        (
            "10.244.1.2",
            "cni0",
            True,
            "10.244.1.2 comes in by cni0, and is in the pods' 10.244.0.0/16: inside",
        ),
        ("10.9.9.9", "cali12", True, "10.9.9.9 comes in by cali12, as this node's pods do: inside"),
        ("10.9.9.9", "eth0", False, "10.9.9.9 comes in by eth0, and is no pod of this cluster: outside"),
    ],
)
def test_where_a_client_comes_from_makes_it_inside_or_outside(
    client: str, interface: str | None, is_inside: bool, said: str
) -> None:
    origin = origin_of(client, interface, PODS)
    assert (origin.address, origin.came_in_by, origin.is_inside, origin.sentence) == (
        client,
        interface,
        is_inside,
        said,
    )


def test_an_interface_is_named_in_full_or_by_how_it_begins() -> None:
    assert origin_of("10.9.9.9", "cni0", [LocalTraffic(in_interface="cni0")]).is_inside
    assert not origin_of("10.9.9.9", "cni01", [LocalTraffic(in_interface="cni0")]).is_inside


def test_anybody_outside_is_called_that() -> None:
    assert origin_of("203.0.113.1", "eth0", (), is_anybody=True).sentence == (
        "somebody outside, such as 203.0.113.1, comes in by eth0, and is no pod of this cluster: outside"
    )


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        (("fd00::/8", "198.51.100.0/24"), "198.51.100.7 is in 198.51.100.0/24, and so let in"),
        (("192.0.2.0/24", "10.0.0.0/8"), "198.51.100.7 is in none of 192.0.2.0/24, 10.0.0.0/8"),
        ((), "198.51.100.7 is in none of none"),
    ],
)
def test_source_ranges_let_in_or_not(ranges: tuple[str, ...], said: str) -> None:
    assert explain_source_ranges(ranges, "198.51.100.7") == said


@pytest.mark.parametrize(
    ("frontend", "said"),
    [
        (
            Frontend("10.96.0.10", Protocol.TCP, Port(80)),
            "No rule captures it yet: 10.96.0.10:80/TCP is default/web's; rules are to follow.",
        ),
        (
            Frontend("10.96.0.10", Protocol.UDP, Port(80)),
            "No Service has that port: 10.96.0.10 has 80/TCP (default/web).",
        ),
        (
            Frontend("192.0.2.10", Protocol.TCP, Port(30081)),
            "No Service has the NodePort 30081/TCP: the node itself gets it.",
        ),
        (
            Frontend("192.0.2.10", Protocol.TCP, Port(30080)),
            "The NodePort 30080/TCP of default/web is not open there: see --nodeport-addresses.",
        ),
        (
            Frontend("10.9.9.9", Protocol.TCP, Port(80)),
            "No Service has the address 10.9.9.9: it is routed on, unless it is this node's.",
        ),
    ],
)
def test_what_is_not_captured_has_a_reason(frontend: Frontend, said: str) -> None:
    state, plan = ClusterState("node-1"), ProxyPlan(frozenset({IPFamily.IPV4}))
    for item in (service("web", ports=["80@30080"], type="NodePort"), endpoint_slice(of="web")):
        state.apply(Upserted(item), lambda key: "test")
    plan.update(state, state.take_dirty())
    assert explain_not_captured(frontend, plan.portals, {"192.0.2.10"}) == said


def test_candidates_are_left_out_or_next_as_the_workers_say() -> None:
    uses = {FIRST: Use(True, "ready"), SECOND: Use(True, "ready")}
    live = LiveServicePort(
        {FIRST: LiveEndpoint(is_taken_out=True)},
        {TrafficPolicy.CLUSTER: LiveClass(frozenset({FIRST}), (SECOND,))},
    )
    first, second = candidate_answers(uses, live, TrafficPolicy.CLUSTER)
    assert (first.endpoint, first.is_used, first.reason) == ("10.244.1.2:80", True, "ready")
    assert (first.is_left_out, first.is_next, first.health.taken_out) == (True, False, True)
    assert second == CandidateAnswer(endpoint="10.244.1.3:80", is_used=True, reason="ready", is_next=True)
    for unknown in (
        candidate_answers(uses, live, TrafficPolicy.LOCAL),
        candidate_answers(uses, NOT_LIVE, TrafficPolicy.CLUSTER),
    ):
        assert not any(each.is_next or each.is_left_out for each in unknown)


@pytest.mark.parametrize(
    ("following", "end"),
    [
        ((), "no worker says which of them would be next."),
        ((FIRST,), "10.244.1.2:80 is next."),
        ((FIRST, SECOND), "one of 10.244.1.2:80, 10.244.1.3:80 is next."),
    ],
)
def test_who_is_next_is_said(following: tuple[Endpoint, ...], end: str) -> None:
    said = conclude_served("default/web", "Cluster", 11234, following)
    assert (
        said
        == f"default/web takes it at proxy port 11234, with the endpoints of traffic policy Cluster; {end}"
    )
