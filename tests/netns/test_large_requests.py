"""Requests that are larger than a packet, a buffer or a page come back whole, in both families."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from random import Random

import pytest

from tests.support import objects
from tests.support.clients import Address, ask, connect, greeting, udp_client
from tests.support.exposed_service import (
    FAMILIES,
    ExposedService,
    meet,
    place_of,
    wire_external_addresses,
)
from tests.support.service_node import ENDPOINT_PORTS, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.pods import start_server

SERVICE = ExposedService("large", 1)
PORTS = {"greet": 80, "web": 81, "echo": 84}
NODE_PORTS = {name: 30000 + number for name, number in PORTS.items()}
WEB_PORT = 9080
LARGEST_DATAGRAM = {"IPv4": 65507, "IPv6": 65527}
"""A packet's length has 16 bits; IPv4 counts its header in, IPv6 does not: RFC 791, RFC 8200."""

TABLE = [
    pytest.param(place, kind, family, id=f"{place}-{kind}-{family}")
    for place in ("pod", "node", "outside")
    for kind in ("clusterIP", "own", "ingress")
    for family in FAMILIES
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    folder = tmp_path_factory.mktemp("node")
    with ServiceNode(folder, ipv6=True, second_node_address=True, endpoints=1) as node:
        wire_external_addresses(node)
        [pod] = node.endpoints
        start_server(pod, "--bind=0.0.0.0", "--bind=::", f"--http={WEB_PORT}")
        ports = [f"{name}:{PORTS[name]}@{NODE_PORTS[name]}" for name in ("greet", "web")]
        node.objects.apply(SERVICE.manifest(ports=[*ports, f"echo:{PORTS['echo']}@{NODE_PORTS['echo']}/UDP"]))
        for family, address in (("IPv4", pod.address), ("IPv6", pod.address_v6)):
            node.objects.apply(
                objects.endpoint_slice(
                    f"large-{family.lower()}",
                    of="large",
                    ports=[
                        f"greet:{ENDPOINT_PORTS['greet']}",
                        f"web:{WEB_PORT}",
                        f"echo:{ENDPOINT_PORTS['echo']}/UDP",
                    ],
                    endpoints=[address],
                    address_type=family,
                )
            )
        node.agent.start()
        frontends = [("TCP", address_of(node, "ingress", family, "greet")) for family in FAMILIES]
        frontends.append(("UDP", ("::1", NODE_PORTS["echo"])))
        wait_until(lambda: meet(node.node, frontends, 1) == [{"web-1"}, {"web-1"}, {"?"}])
        yield node


def address_of(node: ServiceNode, kind: str, family: str, port_name: str) -> Address:
    address, _ = SERVICE.frontend(node, kind, family, "TCP")
    return address, (NODE_PORTS if kind == "own" else PORTS)[port_name]


@pytest.mark.parametrize(("place", "kind", "family"), TABLE)
def test_a_request_with_20_kb_of_headers_is_answered(
    node: ServiceNode, place: str, kind: str, family: str
) -> None:
    address = address_of(node, kind, family, "web")
    connection = http.client.HTTPConnection(*address)
    connection.sock = connect(place_of(node, place), address)
    try:
        for _ in range(2):
            connection.request("GET", "/", headers={f"X-Large-{number}": "42" * 1000 for number in range(10)})
            response = connection.getresponse()
            assert response.status == 200
            assert response.read() == b"web-1\n"
    finally:
        connection.close()


@pytest.mark.parametrize("size", [20_000, 4_000_000])
@pytest.mark.parametrize(("place", "kind", "family"), TABLE)
def test_what_is_sent_comes_back_whole(
    node: ServiceNode, place: str, kind: str, family: str, size: int
) -> None:
    sent = Random(size).randbytes(size)
    with connect(place_of(node, place), address_of(node, kind, family, "greet")) as client:
        assert greeting(client) == "web-1"
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        received = bytearray()
        while len(received) < size and (chunk := client.recv(1 << 18)):
            received += chunk
        sender.join()
        assert received == sent


@pytest.mark.parametrize("size", [1, 1232, 20_000, 0])
@pytest.mark.parametrize(("place", "kind", "family"), TABLE)
def test_a_datagram_comes_back_whole(
    node: ServiceNode, place: str, kind: str, family: str, size: int
) -> None:
    """0 stands for the largest that there is."""
    datagram = Random(size).randbytes(size or LARGEST_DATAGRAM[family])
    with udp_client(place_of(node, place), address_of(node, kind, family, "echo")) as client:
        assert ask(client, datagram) == datagram
