"""What operators and load balancers ask an agent over HTTP."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import msgspec
import pytest

from tests.support import objects as builders
from tests.support.clients import ask, udp_client, who_greets
from tests.support.http_answers import Answer, get, scrape, total
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.core.objects import NodeSpec, Taint

HEALTHZ, METRICS = 10256, 10249


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node"), ipv6=True, is_observed=True) as node:
        node.agent.start()
        yield node


def answer(node: ServiceNode, port: int, path: str) -> Answer:
    found = get(node.node, port, path)
    assert found is not None
    return found


def test_healthz_is_what_load_balancers_know(node: ServiceNode) -> None:
    node.serve("greet")
    answer = get(node.network.outside, HEALTHZ, "/healthz", node.node.address)
    assert answer is not None
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    said = json.loads(answer.text)
    assert said["nodeEligible"] and said["healthy"]
    assert said["lastUpdated"] == said["currentTime"]
    assert said["status"].keys() == {"IPv4", "IPv6"}
    assert all(each["healthy"] and each["lastUpdated"] for each in said["status"].values())


def test_a_node_that_is_to_go_gets_no_new_connections_and_lives_on(node: ServiceNode) -> None:
    known = builders.node("node-1", internal_ips=[node.node.address, node.node.address_v6])
    taint = NodeSpec(taints=[Taint("ToBeDeletedByClusterAutoscaler")])
    node.objects.apply(msgspec.structs.replace(known, spec=taint))
    wait_until(lambda: answer(node, HEALTHZ, "/healthz").status == 503)
    assert not json.loads(answer(node, HEALTHZ, "/healthz").text)["nodeEligible"]
    alive = answer(node, HEALTHZ, "/livez")
    assert alive.status == 200
    assert "nodeEligible" not in json.loads(alive.text)
    node.apply_node()
    wait_until(lambda: answer(node, HEALTHZ, "/healthz").status == 200)
    samples = scrape(node.node)
    assert total(samples, "kubeproxy_proxy_healthz_total", code="503") >= 1
    assert total(samples, "kubeproxy_proxy_livez_total", code="200") == 1


def test_the_metrics_port_says_what_kube_proxys_says(node: ServiceNode) -> None:
    assert answer(node, METRICS, "/healthz").text == "ok"
    assert answer(node, METRICS, "/proxyMode").text == "userspace"
    configuration = json.loads(answer(node, METRICS, "/configz").text)["kubeproxy.config.k8s.io"]
    assert configuration["hostnameOverride"] == "node-1"
    metrics = answer(node, METRICS, "/metrics?a=b")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert answer(node, METRICS, "/").status == 404
    assert get(node.network.outside, METRICS, "/metrics", node.node.address) is None


def test_traffic_is_counted_by_service_port_and_endpoint(node: ServiceNode) -> None:
    service = node.serve("greet", "echo")
    assert len(who_greets(node.client, service["greet"], 9)) == 9
    with udp_client(node.client, service["echo"]) as client:
        assert ask(client, b"four") == b"four"

    def counted(name: str, **labels: str) -> float:
        return total(scrape(node.node), f"userspace_proxy_{name}", service=service.name, **labels)

    wait_until(lambda: counted("connections_active", protocol="TCP") == 0)
    web = {"namespace": "default", "port": "greet", "protocol": "TCP", "ip_family": "IPv4"}
    assert counted("connections_total", **web) == 9
    for pod in node.endpoints:
        endpoint = f"{pod.address}:8080"
        assert counted("endpoint_connections_total", endpoint=endpoint) == 3
        assert counted("endpoint_bytes_total", endpoint=endpoint, direction="out") > 0
    assert counted("connect_duration_seconds_count", **web) == 9
    assert counted("connect_duration_seconds_bucket", le="+Inf") == 9
    assert counted("bytes_total", direction="out", **web) == counted(
        "endpoint_bytes_total", direction="out", **web
    )
    assert counted("connections_total", protocol="UDP") == 1
    assert counted("bytes_total", direction="in", protocol="UDP") == 4


def test_syncs_and_changes_are_counted(node: ServiceNode) -> None:
    before = scrape(node.node)
    service = node.serve("greet")
    after = scrape(node.node)
    sync = "kubeproxy_sync_proxy_rules_"
    for name in (
        f"{sync}duration_seconds_count",
        f"{sync}service_changes_total",
        f"{sync}endpoint_changes_total",
    ):
        assert total(after, name, ip_family="IPv4") > total(before, name, ip_family="IPv4")
    assert (
        total(after, f"{sync}iptables_total", table="nat", ip_family="IPv4")
        == len([rule for rule in node.rules() if rule.startswith("-A") and "KUBE" in rule])
        or total(after, f"{sync}iptables_total", table="nat", ip_family="IPv4") > 0
    )
    assert total(after, f"{sync}last_queued_timestamp_seconds") > 0
    node.remove(service)


def test_no_counter_goes_back_when_workers_are_killed(node: ServiceNode) -> None:
    service = node.serve("greet")

    def connections() -> float:
        return total(scrape(node.node), "userspace_proxy_connections_total", service=service.name)

    assert len(who_greets(node.client, service["greet"], 6)) == 6
    assert connections() == 6
    killed = node.agent.worker_pids
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not set(killed) & set(node.agent.worker_pids), 20)
    assert connections() == 6
    assert len(who_greets(node.client, service["greet"], 6)) == 6
    wait_until(lambda: connections() == 12)
    assert total(scrape(node.node), "userspace_proxy_workers_replaced_total") >= 2
