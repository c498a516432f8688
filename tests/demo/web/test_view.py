"""What the page draws of objects and agents' answers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.demo.web.answers import endpoint, pod, service, service_port
from userspace_proxy.core.answers.endpoints import EndpointHealth
from userspace_proxy.demo.kubelet.pod_spec import BLACK_HOLE, READY
from userspace_proxy.demo.web.view import AgentReading, Objects, View, changes, pod_keys, target_of, view_of

EJECTED = EndpointHealth(failures=3, ejected_seconds=4.0, left_out_of=("Cluster",))
WAITING = {"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 4}]}


@pytest.mark.parametrize(
    ("made", "mark", "says"),
    [
        (pod("a", "10.0.0.1"), "ready", "ready"),
        (pod("a", "10.0.0.1", ready=False), "not-ready", "not ready: its container does not run"),
        (
            pod("a", "10.0.0.1", ready=False, spec={"containers": [{"readinessProbe": {"tcpSocket": {}}}]}),
            "not-ready",
            "not ready: its readiness probe fails",
        ),
        (
            pod("a", "10.0.0.1", ready=False, metadata={"annotations": {READY: "false"}}),
            "not-ready",
            "not ready: somebody made it not ready",
        ),
        (pod("a", "10.0.0.1", ready=False, status=WAITING), "not-ready", "not ready: CrashLoopBackOff"),
        (
            pod(
                "a",
                "10.0.0.1",
                ready=False,
                status={"containerStatuses": [{"state": {"terminated": {"exitCode": 137}}}]},
            ),
            "not-ready",
            "not ready: its process was killed",
        ),
        (
            pod("a", "10.0.0.1", ready=False, status={"phase": "Pending"}),
            "pending",
            "pending: it starts",
        ),
        (
            pod("a", "10.0.0.1", ready=False, status={"phase": "Pending"}, spec={"nodeName": ""}),
            "pending",
            "pending: no node has it yet",
        ),
        (
            pod("a", "10.0.0.1", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
            "terminating",
            "terminating: it is being deleted",
        ),
        (pod("a", "10.0.0.1", status={"phase": "Failed"}), "ended", "ended: its processes have failed"),
        (
            pod("a", "10.0.0.1", metadata={"annotations": {BLACK_HOLE: "true"}}),
            "black-holed",
            "black hole: what is sent to it is lost",
        ),
    ],
)
def test_a_pod_says_how_it_is_and_why(made: dict[str, Any], mark: str, says: str) -> None:
    drawn = view_of(Objects(pods=[made]), {}, {})["pods"]["default/a"]
    assert (drawn["mark"], drawn["says"]) == (mark, says)


@pytest.mark.parametrize(
    ("answers", "state", "reason", "used_by"),
    [
        ((endpoint(), endpoint()), "used", "ready", 2),
        (
            (endpoint(is_used=False, reason="not ready"), endpoint(is_used=False, reason="not ready")),
            "unused",
            "not ready",
            0,
        ),
        (
            (endpoint(), endpoint(health=EJECTED)),
            "ejected",
            "left out for now: 3 connects in a row failed, by the agent of node-2",
            1,
        ),
        # All are ejected, so that this one is used all the same.
        ((endpoint(health=EndpointHealth(failures=3, ejected_seconds=4.0)),), "used", "ready", 1),
        ((endpoint(health=EndpointHealth(taken_out=True)),), "taken-out", "an operator took it out", 0),
    ],
)
def test_an_endpoint_says_who_uses_it_and_why_others_do_not(
    answers: tuple[Any, ...], state: str, reason: str, used_by: int
) -> None:
    readings = {f"node-{number}": AgentReading((), (answer,)) for number, answer in enumerate(answers, 1)}
    view = view_of(Objects(pods=[pod("a", "10.244.1.2")], services=[service()]), readings, {})
    assert view["services"]["default/web"]["endpoints"] == {
        "default/a": {"state": state, "reason": reason, "usedBy": used_by, "agents": len(answers)}
    }


def test_a_pod_that_an_agent_leaves_out_looks_ejected() -> None:
    readings = {"node-1": AgentReading((), (endpoint(health=EJECTED),))}
    view = view_of(Objects(pods=[pod("a", "10.244.1.2")], services=[service()]), readings, {})
    assert view["pods"]["default/a"]["mark"] == "ejected"
    assert "node-1" in view["pods"]["default/a"]["says"]


def test_counters_are_those_of_all_agents() -> None:
    one = AgentReading((service_port(opened=5, retried=1),), (endpoint(opened=5, failed=1),))
    other = AgentReading((service_port(opened=7, problems=("odd",)),), (endpoint(opened=7),))
    view = view_of(
        Objects(pods=[pod("a", "10.244.1.2")], services=[service()]), {"node-1": one, "node-2": other}, {}
    )
    assert view["counters"]["default/web"] == {
        "opened": 12,
        "active": 0,
        "failed": 0,
        "retried": 1,
        "refused": 0,
        "bytes": 14,
        "targets": {"default/a": [12, 1]},
    }
    assert view["services"]["default/web"]["problems"] == ["odd"]


@pytest.mark.parametrize(
    ("spec", "takes_requests", "ports"),
    [
        ({}, True, ["80/TCP"]),
        ({"clusterIP": "None"}, False, ["80/TCP"]),
        ({"ports": [{"port": 53, "protocol": "UDP"}]}, False, ["53/UDP"]),
        ({"ports": [{"port": 80, "nodePort": 30080}]}, True, ["80/TCP (node port 30080)"]),
        ({"clusterIP": "", "ports": None}, False, []),
    ],
)
def test_a_service_says_whether_requests_can_be_sent_to_it(
    spec: dict[str, Any], takes_requests: bool, ports: list[str]
) -> None:
    drawn = view_of(Objects(services=[service(**spec)]), {}, {})["services"]["default/web"]
    assert (drawn["takesRequests"], drawn["ports"]) == (takes_requests, ports)


def test_nodes_and_deployments_are_drawn() -> None:
    node = {
        "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "a"}},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "192.0.2.11"},
                {"type": "Hostname", "address": "n"},
            ]
        },
    }
    deployment = {
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"replicas": 3, "template": {"metadata": {"labels": {"app": "web"}}}},
        "status": {"readyReplicas": 2},
    }
    view = view_of(
        Objects(nodes=[node], deployments=[deployment]), {"node-1": AgentReading()}, {"perSecond": 0}
    )
    assert view["nodes"] == {
        "node-1": {"name": "node-1", "zone": "a", "addresses": ["192.0.2.11"], "agentAnswers": True}
    }
    assert view["deployments"]["default/web"]["ready"] == 2
    assert view["load"] == {"load": {"perSecond": 0}}


def test_changes_name_what_is_new_other_and_gone() -> None:
    before: View = {"pods": {"a": {"n": 1}, "b": {"n": 1}, "c": {"n": 1}}, "nodes": {"x": {}}}
    after: View = {"pods": {"a": {"n": 1}, "b": {"n": 2}, "d": {"n": 1}}, "nodes": {"x": {}}}
    assert changes(before, after) == {"pods": {"b": {"n": 2}, "d": {"n": 1}, "c": None}}
    assert changes(after, after) == {}


def test_an_address_belongs_to_the_pod_that_stays() -> None:
    leaving = pod("old", "10.0.0.1", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    keys = pod_keys([pod("new", "10.0.0.1"), leaving])
    assert keys == {"10.0.0.1": "default/new"}
    assert pod_keys([pod("odd", "10.0.0.2", status={"podIPs": [{}]})]) == {}
    assert target_of("10.0.0.1:80", keys) == "default/new"
    assert target_of("[fd00::1]:80", {"fd00::1": "default/six"}) == "default/six"
    assert target_of("192.0.2.2:6443", keys) == "192.0.2.2"
