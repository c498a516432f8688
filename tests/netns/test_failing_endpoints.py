"""Endpoints that refuse or fall silent cost their clients a moment, never a connection."""

from __future__ import annotations

import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.support.clients import greeting, sockets, udp_clients, who_answers, who_greets
from tests.support.service_node import ENDPOINT_PORTS, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace

CLIENTS_AT_ONCE = 32


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node")) as node:
        node.agent.start()
        yield node


@pytest.fixture(scope="module")
def refusing(node: ServiceNode) -> list[str]:
    """Nine addresses of a pod where nothing listens."""
    pod = node.network.add_pod("refusing")
    more = [f"10.244.1.{number}" for number in range(101, 109)]
    pod.ip(*(f"addr add {address}/32 dev eth0" for address in more))
    # An answer to every datagram: the kernel would send 50 port unreachables, then one a second; icmp(7).
    pod.sysctl("net.ipv4.icmp_ratelimit", "0")
    pod.sysctl("net.ipv4.icmp_msgs_burst", "10000")
    return [pod.address, *more]


@pytest.fixture(scope="module")
def silent(node: ServiceNode) -> Namespace:
    """A pod whose servers run, and which swallows every packet to them."""
    pod = node.network.add_pod("silent")
    node.start_servers(pod)
    pod.run("iptables", "-A", "INPUT", "-j", "DROP")
    return pod


def test_one_of_three_refuses_and_no_connection_fails(node: ServiceNode, refusing: list[str]) -> None:
    service = node.serve("greet", endpoints=[*node.endpoint_addresses[:2], refusing[0]])
    names = Counter(who_greets(node.client, service["greet"], 300))
    assert names.keys() == {"web-1", "web-2"}
    assert names.total() == 300
    assert min(names.values()) >= 90


def test_nine_of_ten_refuse_and_no_connection_fails(node: ServiceNode, refusing: list[str]) -> None:
    service = node.serve("greet", endpoints=[*refusing, node.endpoints[0].address])
    assert who_greets(node.client, service["greet"], 300) == ["web-1"] * 300


def test_one_of_four_is_silent_and_no_connection_fails(node: ServiceNode, silent: Namespace) -> None:
    service = node.serve("greet", endpoints=[*node.endpoint_addresses, silent.address])
    count = 400
    clients = iter(sockets(node.client, count))

    def wait_for_greeting(_: int) -> float:
        with next(clients) as client:
            began = time.monotonic()
            client.connect(service["greet"])
            assert greeting(client) != "silent"
            return time.monotonic() - began

    with ThreadPoolExecutor(CLIENTS_AT_ONCE) as threads:
        seconds = sorted(threads.map(wait_for_greeting, range(count)))
    median, late = statistics.median(seconds), seconds[int(0.99 * count)]
    print(f"{CLIENTS_AT_ONCE} clients: p50 {median * 1e3:.0f} ms, p99 {late * 1e3:.0f} ms")
    assert len(seconds) == count
    assert median < 0.2, "who has a good endpoint waits for somebody else's bad one"
    assert late < 1.5, "who has a silent endpoint waits for longer than one patience"


def test_the_only_endpoint_restarts_and_its_clients_wait_for_it(node: ServiceNode) -> None:
    pod = node.network.add_pod("restarting")
    service = node.serve("greet", endpoints=[pod.address])
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(who_greets, node.client, service["greet"]) for _ in range(4)]
        wait_until(lambda: established(node.client, service["greet"]) == 4)
        node.start_servers(pod)
        assert [client.result() for client in waiting] == [["restarting"]] * 4


def established(where: Namespace, address: tuple[str, int]) -> int:
    listed = where.run("ss", "-Htn", "state", "established", "dst", f"{address[0]}:{address[1]}").stdout
    return len(listed.splitlines())


def test_nobody_answers_and_the_client_is_reset_in_the_end(node: ServiceNode, refusing: list[str]) -> None:
    service = node.serve("greet", endpoints=refusing)
    with sockets(node.client, 1)[0] as client:
        client.settimeout(10)
        client.connect(service["greet"])
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_udp_flows_leave_endpoints_that_refuse_and_no_datagram_is_lost(
    node: ServiceNode, refusing: list[str]
) -> None:
    service = node.serve("name", endpoints=[*refusing[:8], node.endpoints[0].address])
    with ExitStack() as stack:
        clients = [stack.enter_context(client) for client in udp_clients(node.client, service["name"], 90)]
        assert who_answers(clients) == ["web-1"] * 90


def test_a_udp_flow_moves_when_its_endpoint_dies(node: ServiceNode) -> None:
    """By the first datagram that meets a closed port, which is sent once more; no client repeats anything."""
    pod = node.network.add_pod("dying")
    node.start_servers(pod)
    service = node.serve("name", endpoints=[pod.address, node.endpoints[0].address])
    with ExitStack() as stack:
        clients = [stack.enter_context(client) for client in udp_clients(node.client, service["name"], 4)]
        assert sorted(who_answers(clients)) == ["dying", "dying", "web-1", "web-1"]
        node.network.remove_pod("dying")
        node.node.ip(f"route add unreachable {pod.address}/32")
        wait_until(lambda: all_answer(clients, "web-1"))


def test_a_udp_client_that_repeats_itself_is_moved_from_a_silent_endpoint(
    node: ServiceNode, silent: Namespace
) -> None:
    service = node.serve("name", endpoints=[silent.address, node.endpoints[0].address])
    with ExitStack() as stack:
        clients = [stack.enter_context(client) for client in udp_clients(node.client, service["name"], 2)]
        for client in clients:
            client.settimeout(1.5)
        assert [all_answer([client], "web-1") for client in clients].count(False) == 1
        wait_until(lambda: all(all_answer([client], "web-1") for client in clients))


def all_answer(clients: list[socket.socket], name: str) -> bool:
    try:
        return set(who_answers(clients)) == {name}
    except TimeoutError:
        return False


def test_the_ports_that_the_tests_of_refusal_count_on_are_closed(
    node: ServiceNode, refusing: list[str]
) -> None:
    for address in refusing:
        with sockets(node.node, 1)[0] as sock, pytest.raises(ConnectionRefusedError):
            sock.connect((address, ENDPOINT_PORTS["greet"]))
