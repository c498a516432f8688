"""healthCheckNodePort: what a load balancer is told, and when that changes."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.clients import PATIENCE_SECONDS
from tests.support.exposed_service import ExposedService, wire_external_addresses
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace

HERE, ELSEWHERE = "node-1", "node-2"
PORT = 32001
LOCAL = {"external_traffic_policy": "Local", "health_check_node_port": PORT}
SERVICE = ExposedService("checked", 1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node"), ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.agent.start()
        yield node


def get(where: Namespace, address: str, port: int = PORT, path: str = "/") -> http.client.HTTPResponse | None:
    """The answer, with its body read; None if nobody listens, or not for long enough to answer."""
    connection = http.client.HTTPConnection(address, port, timeout=PATIENCE_SECONDS)
    try:
        connection.sock = where.call(lambda: socket.create_connection((address, port), PATIENCE_SECONDS))
        connection.request("GET", path)
        response = connection.getresponse()
        response.text = response.read().decode()  # type: ignore[attr-defined]
        return response
    except ConnectionError:
        return None
    finally:
        connection.close()


def status(node: ServiceNode, address: str = "", port: int = PORT) -> int | None:
    response = get(node.network.outside, address or node.node.address, port)
    return None if response is None else response.status


def test_it_says_how_many_endpoints_are_ready_here(node: ServiceNode) -> None:
    web_1, web_2, web_3 = node.endpoints
    assert status(node) is None
    node.objects.apply(SERVICE.manifest(**LOCAL))
    node.apply_endpoints("checked", node.endpoint_on(web_1, HERE), node.endpoint_on(web_2, ELSEWHERE))
    wait_until(lambda: status(node) == 200)
    for address in (node.node.address, node.node.address_v6, "192.0.2.11"):
        for path in ("/", "/healthz", "/any/path?at=all"):
            response = get(node.network.outside, address, path=path)
            assert response is not None
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/json"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["X-Load-Balancing-Endpoint-Weight"] == "1"
            assert json.loads(response.text) == {  # type: ignore[attr-defined]
                "service": {"namespace": "default", "name": "checked"},
                "localEndpoints": 1,
                "serviceProxyHealthy": True,
            }
    node.apply_endpoints("checked", *(node.endpoint_on(pod, HERE) for pod in node.endpoints))
    wait_until(lambda: weight(node) == "3")
    node.apply_endpoints("checked", node.endpoint_on(web_2, ELSEWHERE))
    wait_until(lambda: status(node) == 503)
    assert weight(node) == "0"
    ending = {"ready": False, "serving": True, "terminating": True}
    node.apply_endpoints("checked", node.endpoint_on(web_3, HERE, **ending))
    wait_until(lambda: weight(node) == "0")
    assert status(node) == 503  # who ends serves those that still come, and no balancer may send more
    node.apply_endpoints("checked", node.endpoint_on(web_1, HERE))
    wait_until(lambda: status(node) == 200)


def weight(node: ServiceNode) -> str | None:
    response = get(node.network.outside, node.node.address)
    return None if response is None else response.headers["X-Load-Balancing-Endpoint-Weight"]


def test_it_follows_the_service(node: ServiceNode) -> None:
    node.apply_endpoints("checked", node.endpoint_on(node.endpoints[0], HERE))
    node.objects.apply(SERVICE.manifest(**LOCAL))
    wait_until(lambda: status(node) == 200)
    node.objects.apply(SERVICE.manifest(**LOCAL | {"health_check_node_port": 32002}))
    wait_until(lambda: status(node, port=32002) == 200)
    wait_until(lambda: status(node) is None)
    node.objects.apply(SERVICE.manifest())
    wait_until(lambda: status(node, port=32002) is None)
    node.objects.apply(SERVICE.manifest(**LOCAL))
    wait_until(lambda: status(node) == 200)
    node.objects.delete(SERVICE.manifest())
    wait_until(lambda: status(node) is None)


def test_pods_ask_too(node: ServiceNode) -> None:
    node.apply_endpoints("checked", node.endpoint_on(node.endpoints[0], HERE))
    node.objects.apply(SERVICE.manifest(**LOCAL))
    wait_until(lambda: status(node) == 200)
    for where, address in ((node.client, node.node.address), (node.node, "::1"), (node.node, "127.0.0.1")):
        response = get(where, address)
        assert response is not None
        assert response.status == 200


def test_a_port_that_somebody_has_is_named_and_opened_when_it_is_free(node: ServiceNode) -> None:
    service = ExposedService("late", 2)
    with node.node.call(lambda: socket.create_server(("0.0.0.0", 32009))):
        node.objects.apply(service.manifest(**LOCAL | {"health_check_node_port": 32009}))
        node.apply_endpoints("late", node.endpoint_on(node.endpoints[0], HERE))
        wait_until(lambda: node.agent.lines_with("default/late", "32009"))
    wait_until(lambda: status(node, port=32009) == 200)
