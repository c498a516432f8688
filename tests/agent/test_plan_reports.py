from __future__ import annotations

import pytest

from tests.support.objects import endpoint_slice, service
from userspace_proxy.agent.plan_reports import PlanReports
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.objects import ApiObject, Kind, Listed, Upserted
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.proxy_plan import ProxyPlan
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.observability.problem_ledger import ProblemLedger

OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"
WEB = service("web", at="10.96.0.10", created=YOUNG)


def load_balanced(health_check_node_port: int) -> ApiObject:
    return service(
        "web",
        type="LoadBalancer",
        external_traffic_policy="Local",
        health_check_node_port=health_check_node_port,
    )


@pytest.mark.parametrize(
    ("items", "said"),
    [
        pytest.param(
            [WEB, service("a", at="10.96.0.10", created=OLD)],
            "10.96.0.10:80/TCP belongs to default/a, which is older",
            id="older",
        ),
        pytest.param(
            [WEB, service("a", created="")],
            "10.96.0.10:80/TCP belongs to default/a, which has no creationTimestamp and so counts as older",
            id="the other without a time",
        ),
        pytest.param(
            [service("web"), service("a")],
            "10.96.0.10:80/TCP belongs to default/a, which is as old and comes first by name",
            id="both without a time",
        ),
        pytest.param(
            [service("web", at="10.96.0.9", external_ips=["10.96.0.10"], created=OLD), service("a")],
            "10.96.0.10:80/TCP belongs to default/a, whose clusterIP it is",
            id="clusterIP",
        ),
        pytest.param(
            [WEB, endpoint_slice(endpoints=["10.96.0.10"], ports=["80"])],
            "endpoint 10.96.0.10:80 is left out, because it is the address of a Service, and so a loop: "
            "let it listen on another port",
            id="loop",
        ),
        pytest.param(
            [WEB, endpoint_slice(endpoints=["10.0.0.1"], ports=["12000"])],
            "endpoint 10.0.0.1:12000 is left out, because it is on this node at a proxy port, where only "
            "redirected traffic is let in: let it listen on another port, or give the proxy another "
            "--proxy-port-range",
            id="proxy port",
        ),
        pytest.param(
            [load_balanced(32000), service("a", at="10.96.0.9", type="NodePort", ports=["80@32000"])],
            "spec.healthCheckNodePort: 32000 is the nodePort of default/a, which gets what is sent there: "
            "health checks are not answered; give one of them another port",
            id="health check at a NodePort",
        ),
        pytest.param(
            [load_balanced(12000)],
            "spec.healthCheckNodePort: 12000 is a proxy port, where only redirected traffic is let in: "
            "health checks are not answered; give the Service another port, or give the proxy another "
            "--proxy-port-range",
            id="health check at a proxy port",
        ),
    ],
)
def test_what_is_left_out_is_named_once_with_its_reason(
    caplog: pytest.LogCaptureFixture, items: list[ApiObject], said: str
) -> None:
    caplog.set_level("INFO")
    state, plan = ClusterState("node-1", PortRange(11000, 29999)), ProxyPlan(frozenset({IPFamily.IPV4}))
    reports = PlanReports(plan, ProblemLedger(), lambda key: f"{key.name}.yaml")
    state.readdress(frozenset({"10.0.0.1"}))
    for item in (*items, *items):
        state.apply(Upserted(item), lambda key: "")
        reports.name_conflicts(plan.update(state, state.take_dirty()).conflicts_changed)
    about_web = [text for text in caplog.messages if "Service default/web" in text]
    assert about_web == [f"Skipped: web.yaml: Service default/web: {said}"]
    caplog.clear()
    state.apply(Listed(Kind.SERVICE, ()), lambda key: "")
    reports.name_conflicts(plan.update(state, state.take_dirty()).conflicts_changed)
    assert [text.partition(" ")[0] for text in caplog.messages] == ["Mended:"]
