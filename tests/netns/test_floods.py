"""Clients that take all they can get: the others, and the other Services, are served meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support import objects
from tests.support.clients import ask, connect, greeting, sockets, udp_clients, who_greets
from tests.support.floods import flood_datagrams, flood_syns
from tests.support.kernel_state import descriptors
from tests.support.loopback import reset
from tests.support.service_node import ENDPOINT_PORTS, PORTS, ServedService, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace

DESCRIPTORS = 1024
ROOM = DESCRIPTORS * 3 // 4
"""What is left beside the reserve for listeners to come."""
IDLE_CONNECTIONS = 3000
ADDRESSES = 8
IDLE_BESIDE_OTHERS = 80
MAX_GROWTH_KIB = 16 * 1024


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServiceNode]:
    """A node with one worker, so that all Services share it, which may have few descriptors."""
    with ServiceNode(tmp_path, "--workers", "1") as node:
        node.agent.start(prefix=("prlimit", f"--nofile={DESCRIPTORS}"))
        yield node


@pytest.fixture
def good(node: ServiceNode) -> Namespace:
    """A pod of clients that behave."""
    return node.network.add_pod("good")


def connect_idly(where: Namespace, service: ServedService, count: int, source: str = "") -> ExitStack:
    """Connect and say nothing; whoever is refused does not mind."""
    with ExitStack() as stack:
        clients = sockets(where, count, source=source)
        for client in clients:
            stack.callback(reset, client)
        for client in clients:
            with suppress(ConnectionResetError):
                client.connect(service["greet"])
        return stack.pop_all()


def hold(stack: ExitStack, where: Namespace, service: ServedService, count: int) -> bool:
    stack.enter_context(connect_idly(where, service, count))
    return True


def is_served(stack: ExitStack, where: Namespace, service: ServedService) -> bool:
    """Whether a new client is; it stays until `stack` is closed."""
    [client] = sockets(where, 1)
    stack.callback(reset, client)
    try:
        client.connect(service["greet"])
        return bool(greeting(client))
    except ConnectionResetError:
        return False


def annotate(node: ServiceNode, service: ServedService, **annotations: str) -> None:
    """Say this of the Service, which has one port."""
    node.objects.apply(
        objects.service(
            service.name,
            at=service.cluster_ip,
            ports=[f"greet:{PORTS['greet']}/TCP"],
            annotations={f"userspace-proxy.io/{name}": text for name, text in annotations.items()},
        )
    )


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def most_resident_kib(node: ServiceNode) -> int:
    return max(resident_kib(pid) for pid in node.agent.worker_pids)


def most_descriptors(node: ServiceNode) -> int:
    return max(descriptors(pid) for pid in node.agent.worker_pids)


def expect_service(where: Namespace, service: ServedService, count: int = 50) -> None:
    assert len(who_greets(where, service["greet"], count)) == count


def test_idle_connections_of_one_client_leave_room_for_its_services_other_clients(
    node: ServiceNode, good: Namespace
) -> None:
    service, other = node.serve("greet"), node.serve("greet")
    before = most_resident_kib(node)
    with connect(good, service["greet"]) as established:
        greeting(established)
        with connect_idly(node.client, service, IDLE_CONNECTIONS):
            expect_service(good, service)
            expect_service(good, other)
            assert most_descriptors(node) < ROOM
            assert most_resident_kib(node) - before < MAX_GROWTH_KIB
        established.sendall(b"still here")
        assert established.recv(100) == b"still here"
    wait_until(lambda: most_descriptors(node) < 100)
    expect_service(node.client, service)
    [line] = node.agent.lines_with("Connections are refused", f"default/{service.name}:greet")
    assert "--max-connections-per-client" in line


def test_idle_connections_of_many_clients_leave_room_for_other_services(
    node: ServiceNode, good: Namespace
) -> None:
    service, other, third = (node.serve("greet") for _ in range(3))
    addresses = [f"10.244.1.{number}" for number in range(200, 200 + ADDRESSES)]
    node.client.ip(*(f"addr add {address}/24 dev eth0" for address in addresses))
    with ExitStack() as stack:
        for address in addresses:
            stack.enter_context(connect_idly(node.client, service, IDLE_BESIDE_OTHERS, address))
        held = [stack.enter_context(connect(good, other["greet"])) for _ in range(20)]
        for client in held:
            greeting(client)
        expect_service(good, other)
        expect_service(good, third)
        assert most_descriptors(node) < ROOM
    wait_until(lambda: most_descriptors(node) < 100)
    expect_service(good, service)
    [line] = node.agent.lines_with("Connections are refused", f"default/{service.name}:greet")
    assert "too little room" in line


def test_one_client_without_a_limit_of_its_own_leaves_room_for_other_services(
    node: ServiceNode, good: Namespace
) -> None:
    other, service = node.serve("greet"), node.serve("greet")
    annotate(node, service, **{"max-connections-per-client": "none"})
    with ExitStack() as stack:
        # Until the worker knows the annotation, it refuses at a quarter.
        wait_until(lambda: hold(stack, node.client, service, 50) and most_descriptors(node) > ROOM // 2)
        stack.enter_context(connect_idly(node.client, service, IDLE_CONNECTIONS))
        expect_service(good, other)
        assert most_descriptors(node) < ROOM
    wait_until(lambda: most_descriptors(node) < 100)
    expect_service(good, service)


def test_a_service_says_how_many_connections_one_client_may_have(node: ServiceNode, good: Namespace) -> None:
    service = node.serve("greet")
    annotate(node, service, **{"max-connections": "3", "max-connections-per-client": "2"})

    def held() -> int:
        with ExitStack() as stack:
            return sum(is_served(stack, node.client, service) for _ in range(4))

    wait_until(lambda: held() == 2)
    with ExitStack() as stack:
        wait_until(lambda: is_served(stack, node.client, service))
        wait_until(lambda: is_served(stack, node.client, service))
        assert is_served(stack, good, service)
        assert not is_served(stack, good, service)


def test_half_open_connections_reach_no_worker(node: ServiceNode, good: Namespace) -> None:
    service = node.serve("greet")
    before = most_descriptors(node)
    for _ in range(5):
        flood_syns(node.network.outside, service["greet"], 4000)
        assert node.node.run("ss", "-Htn", "state", "syn-recv").stdout
        expect_service(good, service)
    wait_until(lambda: most_descriptors(node) <= before + 2)


@pytest.mark.parametrize("is_answered", [True, False])
def test_datagrams_from_made_up_addresses_displace_themselves(
    node: ServiceNode, good: Namespace, is_answered: bool
) -> None:
    flooded, other = node.serve("name"), node.serve("echo")
    if not is_answered:
        port = str(ENDPOINT_PORTS["name"])
        for pod in node.endpoints:
            pod.run("iptables", "-A", "INPUT", "-p", "udp", "--dport", port, "-j", "DROP")
    before = most_resident_kib(node)
    with ExitStack() as stack:
        clients = [stack.enter_context(client) for client in udp_clients(good, other["echo"], 50)]
        for client in clients:
            assert ask(client, b"before") == b"before"
        for number in range(20):
            flood_datagrams(node.network.outside, flooded["name"], 500, start=500 * number)
            for client in clients:
                assert ask(client, b"during") == b"during"
        assert most_descriptors(node) < ROOM
        assert most_resident_kib(node) - before < MAX_GROWTH_KIB
        assert node.agent.lines_with("UDP flows end early", f"default/{flooded.name}:name")
        assert not node.agent.lines_with("UDP flows end early", f"default/{other.name}:echo")
        for client in udp_clients(good, other["echo"], 50):
            with client:
                assert ask(client, b"late") == b"late"
