"""What an operator must see of a running agent is in Events at the API server; nothing depends on that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support import objects
from tests.support.api_servers import RunningApiServer
from tests.support.cluster_objects import ApiServerObjects
from tests.support.fake_api_server import FakeApiServer, running_in_a_thread, write_kubeconfig
from tests.support.fake_events import EventError
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until


@contextmanager
def node_of(server: FakeApiServer, folder: Path, *flags: str) -> Iterator[ServiceNode]:
    """A node that serves what `server` has; the agent is not started."""
    with ExitStack() as stack:
        stack.enter_context(running_in_a_thread(server))
        kubeconfig = write_kubeconfig(folder / "kubeconfig", server.url)
        cluster = ApiServerObjects(RunningApiServer(server.url, kubeconfig))
        node = stack.enter_context(ServiceNode(folder, *flags, endpoints=1, cluster=cluster))
        stack.enter_context(cluster.reachable_inside(node.node))
        yield node


def found(server: FakeApiServer, reason: str) -> list[dict[str, Any]]:
    return [event for event in list(server.events.present.values()) if event["reason"] == reason]


def test_what_is_wrong_is_told_where_it_is_looked_for(tmp_path: Path) -> None:
    server = FakeApiServer(bookmark_seconds=0.2)
    with node_of(server, tmp_path, "--healthz-bind-address=192.0.2.1:10256") as node:
        node.objects.apply(
            objects.service(
                "web",
                at="10.96.1.1",
                ports=["http:80", "sctp:81/SCTP"],
                annotations={"userspace-proxy.io/balancing": "wisest"},
            ),
            objects.endpoint_slice("web-1", of="web", ports=["http:8080"], endpoints=["127.0.0.1"]),
        )
        node.agent.start()
        reasons = ("Starting", "InvalidAnnotation", "ProtocolNotCarried", "InvalidEndpoint")
        wait_until(lambda: all(found(server, reason) for reason in reasons))
        [starting] = found(server, "Starting")
        assert (starting["type"], starting["reportingInstance"]) == ("Normal", "node-1")
        assert starting["regarding"] == {
            "apiVersion": "v1",
            "kind": "Node",
            "name": "node-1",
            "uid": "node-1",
        }
        for reason in reasons[1:]:
            [event] = found(server, reason)
            assert event["regarding"]["kind"] == "Service"
            assert event["metadata"]["namespace"] == "default"
            assert event["metadata"]["name"].startswith("web.")
        [annotation] = found(server, "InvalidAnnotation")
        assert "'wisest' is not one of" in annotation["note"]
        wait_until(lambda: found(server, "FailedToStartProxierHealthcheck"))

        node.node.run("iptables", "-t", "nat", "-F", "KUBE-PORTALS-CONTAINER")
        wait_until(lambda: found(server, "RulesRepaired"))


def test_who_may_not_write_events_serves_all_the_same(tmp_path: Path) -> None:
    server = FakeApiServer(bookmark_seconds=0.2)
    server.events.error = EventError(403, "Forbidden", 'cannot create resource "events"')
    with node_of(server, tmp_path) as node:
        node.agent.start()
        wait_until(lambda: node.agent.lines_with("Event refused", "allow create and patch of events"))
        service = node.serve("greet")
        assert node.rules_of(service)


def test_no_events_are_written_if_none_are_wanted(tmp_path: Path) -> None:
    server = FakeApiServer(bookmark_seconds=0.2)
    with node_of(server, tmp_path, "--events=false") as node:
        node.agent.start()
        node.serve("greet")
        assert server.events.asked == []
