"""What `trace` says of a packet is what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.support import objects
from tests.support.agent import userspace_proxy
from tests.support.clients import REFUSED, SILENT, Address, outcome, who_greets
from tests.support.service_node import PORTS, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.admin.client import ask
from userspace_proxy.admin.protocol import AdminError
from userspace_proxy.core.answers.trace import TraceAnswer, TraceQuestion
from userspace_proxy.demo.namespaces import Namespace

EXTERNAL, NODE, NODE_PORT = "10.96.200.10", "192.0.2.10", 30080


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    folder = tmp_path_factory.mktemp("node")
    with ServiceNode(folder, "--cluster-cidr", "10.244.0.0/16", endpoints=2) as node:
        node.agent.start()
        greet = f"greet:{PORTS['greet']}@{NODE_PORT}"
        node.objects.apply(
            objects.service(
                "shop",
                at="10.96.1.10",
                ports=[greet],
                type="LoadBalancer",
                external_traffic_policy="Local",
                ingress=[EXTERNAL],
                source_ranges=["10.244.0.0/16"],
            )
        )
        node.objects.apply(objects.service("empty", at="10.96.1.11", ports=["80"]))
        node.objects.apply(
            objects.endpoint_slice(
                of="shop",
                ports=["greet:8080"],
                endpoints=[objects.endpoint(pod.address, node="node-2") for pod in node.endpoints],
            )
        )
        wait_until(lambda: outcome(node.client, "TCP", ("10.96.1.10", 80)) not in (REFUSED, SILENT))
        yield node


def trace(node: ServiceNode, client: str, frontend: str) -> Any:
    question = TraceQuestion(client=client, frontend=frontend)
    (answer,) = ask(node.state_folder / "admin.sock", "trace", TraceAnswer, question)
    return msgspec.to_builtins(answer)


def senders(node: ServiceNode) -> dict[str, Namespace]:
    return {node.client.address: node.client, node.network.outside.address: node.network.outside}


@pytest.mark.parametrize(
    ("place", "port"),
    [
        ("10.96.1.10", 80),
        ("10.96.1.11", 80),
        (EXTERNAL, 80),
        ("192.0.2.10", NODE_PORT),
        ("192.0.2.10", 11500),
    ],
)
def test_a_packet_ends_where_the_trace_says(node: ServiceNode, place: str, port: int) -> None:
    for client, sender in senders(node).items():
        said = trace(node, client, f"{place}:{port}")
        address: Address = (place, port)
        seen = outcome(sender, "TCP", address)
        assert said["outcome"] == {REFUSED: "refused", SILENT: "dropped"}.get(seen, "served"), (client, said)


def test_who_would_be_next_is_next(node: ServiceNode) -> None:
    by_address = {f"{pod.address}:8080": name for name, pod in node.network.pods.items()}
    for _ in range(3):
        said = trace(node, node.client.address, "default/shop:greet")
        (following,) = (each["endpoint"] for each in said["endpoints"] if each["isNext"])
        assert who_greets(node.client, ("10.96.1.10", 80)) == [by_address[following]]
    assert said["isInside"] and said["trafficPolicy"] == "Cluster"
    assert {worker["pid"] for worker in said["workers"]} < {*node.agent.worker_pids}


def test_a_trace_shows_its_rules_and_why_nobody_is_a_candidate(node: ServiceNode) -> None:
    said = trace(node, "outside", f"{NODE}:{NODE_PORT}")
    assert [step["chain"] for step in said["steps"]] == [
        "PREROUTING",
        "PREROUTING",
        "KUBE-NODEPORT-CONTAINER",
        "INPUT",
        "KUBE-PORTALS-GUARD",
    ]
    assert (said["outcome"], said["trafficPolicy"]) == ("dropped", "Local")
    assert {each["reason"] for each in said["endpoints"]} == {
        "on node-2, and traffic policy Local takes those of this node"
    }
    assert trace(node, "outside", f"0.0.0.0:{NODE_PORT}") == said
    text = userspace_proxy(node.node, "trace", "outside", f"{NODE}:{NODE_PORT}").stdout
    assert "dropped" in text and "KUBE-NODEPORT-CONTAINER" in text


@pytest.mark.parametrize(
    ("client", "frontend", "said"),
    [
        ("nobody", "10.96.1.10:80", "'nobody' is no IP address, and neither outside nor node"),
        ("fd00::1", "10.96.1.10:80", "fd00::1 cannot send to 10.96.1.10:80/TCP, which is IPv4"),
        ("outside", "default/nobody", "no Service port default/nobody is served here: there is no such"),
        ("outside", "10.96.1.10", "10.96.1.10 is no frontend: that is an address with a port"),
        ("fd00::1", "shop", "shop is not served in IPv6"),
        ("outside", "[fd00::1]:80", "the node has no route to 2001:db8::1"),
    ],
)
def test_what_cannot_be_traced_is_said(node: ServiceNode, client: str, frontend: str, said: str) -> None:
    with pytest.raises(AdminError) as raised:
        trace(node, client, frontend)
    assert str(raised.value).startswith(said)
