"""Endpoints of a Service that asks for it are told who the client is, and whom it sent to."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support import objects
from tests.support.clients import Address, connect
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.core.proxy_protocol import header
from userspace_proxy.demo.namespaces import Namespace

ENDPOINT_PORT = 9000
PORT, NODE_PORT = 90, 30090
CLUSTER_IPS = {"IPv4": "10.96.0.90", "IPv6": "fd00:10:96::90"}
PROXY_PROTOCOL = "userspace-proxy.io/proxy-protocol"
NOTHING = b""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node"), ipv6=True, endpoints=1) as node:
        apply(node, "v2")
        [pod] = node.endpoints
        for family, address in (("IPv4", pod.address), ("IPv6", pod.address_v6)):
            node.objects.apply(
                objects.endpoint_slice(
                    f"told-{family.lower()}",
                    of="told",
                    ports=[f"told:{ENDPOINT_PORT}"],
                    endpoints=[address],
                    address_type=family,
                )
            )
        node.agent.start()
        yield node


@pytest.fixture(scope="module")
def endpoint(node: ServiceNode) -> Iterator[socket.socket]:
    [pod] = node.endpoints
    with pod.call(
        lambda: socket.create_server(("::", ENDPOINT_PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    ) as listening:
        listening.settimeout(10)
        yield listening


def apply(node: ServiceNode, proxy_protocol: str) -> None:
    node.objects.apply(
        objects.service(
            "told",
            at=list(CLUSTER_IPS.values()),
            type="NodePort",
            ports=[f"told:{PORT}@{NODE_PORT}"],
            annotations={PROXY_PROTOCOL: proxy_protocol},
        )
    )


def what_the_endpoint_reads(
    endpoint: socket.socket, where: Namespace, frontend: Address
) -> tuple[bytes, bytes]:
    """All that comes before a client's own bytes, and what should."""
    with connect(where, frontend) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        expected = header(client.getsockname()[:2], frontend)
        accepted, _ = endpoint.accept()
        with accepted, accepted.makefile("rb") as reader:
            accepted.settimeout(10)
            read = reader.read()
    assert read.endswith(b"hello")
    return read.removesuffix(b"hello"), expected


@pytest.mark.parametrize("place", ["pod", "node"])
@pytest.mark.parametrize("family", CLUSTER_IPS)
def test_the_client_and_its_frontend_are_named(
    node: ServiceNode, endpoint: socket.socket, family: str, place: str
) -> None:
    where = node.client if place == "pod" else node.node
    node_address = node.node.address if family == "IPv4" else node.node.address_v6
    for frontend in ((CLUSTER_IPS[family], PORT), (node_address, NODE_PORT)):
        wait_until_answered(where, frontend, endpoint)
        read, expected = what_the_endpoint_reads(endpoint, where, frontend)
        assert read == expected


def wait_until_answered(where: Namespace, frontend: Address, endpoint: socket.socket) -> None:
    wait_until(lambda: answers(where, frontend, endpoint), 30)


def answers(where: Namespace, frontend: Address, endpoint: socket.socket) -> bool:
    """Whether the frontend is served by now; that client has left again."""
    try:
        connect(where, frontend).close()
    except OSError:
        return False
    endpoint.accept()[0].close()
    return True


def test_a_change_of_the_annotation_holds_for_the_next_connection(
    node: ServiceNode, endpoint: socket.socket
) -> None:
    frontend = CLUSTER_IPS["IPv4"], PORT
    wait_until_answered(node.client, frontend, endpoint)
    apply(node, "none")
    wait_until(lambda: what_the_endpoint_reads(endpoint, node.client, frontend)[0] == NOTHING)
    apply(node, "v2")
    wait_until(lambda: what_the_endpoint_reads(endpoint, node.client, frontend)[0] != NOTHING)
