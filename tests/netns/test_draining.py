"""`userspace-proxy drain`: what runs may finish, nothing begins."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import STOP_SECONDS, USERSPACE_PROXY, userspace_proxy
from tests.support.clients import connect, expect_refusal, received_to_the_end, sockets, udp_client
from tests.support.service_node import ENDPOINT_PORTS, ServiceNode
from tests.support.waiting import wait_until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path) as node:
        yield node


def test_what_runs_finishes_and_then_everything_ends(node: ServiceNode) -> None:
    node.agent.start()
    service = node.serve("greet", "name", "digest")
    rules = node.rules()
    with connect(node.client, service["digest"]) as client:
        client.sendall(b"first half, ")
        draining = node.node.popen(*USERSPACE_PROXY, "drain")
        wait_until(lambda: node.agent.lines_with("Draining"))
        wait_until(lambda: not node.node.run("ss", "-Htuln").stdout)
        expect_refusal(node.client, service["greet"], service["name"])
        again = node.node.popen(*USERSPACE_PROXY, "drain")
        wait_until(lambda: askers(node) == 2)
        with pytest.raises(subprocess.TimeoutExpired):
            again.wait(1)  # who asks again waits like the first
        assert draining.poll() is None
        client.sendall(b"second half")
        client.shutdown(socket.SHUT_WR)
        assert received_to_the_end(client)
    assert draining.wait(STOP_SECONDS) == again.wait(STOP_SECONDS) == 0
    wait_until(lambda: node.agent.exit_status == 0)
    wait_until(lambda: node.node.pids() == [])
    assert node.rules() == rules


def test_who_waits_for_an_answer_over_udp_still_gets_it(node: ServiceNode) -> None:
    node.agent.start()
    pod = node.network.add_pod("slow")
    service = node.serve("name", endpoints=[pod.address])
    with (
        sockets(pod, 1, socket.SOCK_DGRAM)[0] as endpoint,
        udp_client(node.client, service["name"]) as waiting,
        udp_client(node.client, service["name"]) as answered,
    ):
        endpoint.bind((pod.address, ENDPOINT_PORTS["name"]))
        answered.send(b"?")
        endpoint.sendto(b"at once", endpoint.recvfrom(100)[1])
        assert answered.recv(100) == b"at once"
        waiting.send(b"?")
        _, flow = endpoint.recvfrom(100)
        draining = node.node.popen(*USERSPACE_PROXY, "drain")
        wait_until(lambda: udp_flows(node) == 1)
        assert draining.poll() is None
        endpoint.sendto(b"in the end", flow)
        assert waiting.recv(100) == b"in the end"
        assert draining.wait(10) == 0
    wait_until(lambda: node.node.pids() == [])


def udp_flows(node: ServiceNode) -> int:
    """Sockets of the node that are connected to an endpoint."""
    return len(node.node.run("ss", "-Hun", "state", "established").stdout.splitlines())


def askers(node: ServiceNode) -> int:
    """Who has asked the agent for something, and waits for it to end."""
    connected = node.node.run("ss", "-Hx", "state", "connected").stdout.splitlines()
    return sum("@userspace-proxy/agent" in line for line in connected)


def test_it_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    with ServiceNode(tmp_path, "--drain-seconds", "1") as node:
        node.agent.start()
        service = node.serve("digest")
        with connect(node.client, service["digest"]) as client:
            client.sendall(b"and then silence")
            completed = userspace_proxy(node.node, "drain")
            assert completed.returncode == 0, completed.stderr
            assert str(node.agent.pid) in completed.stdout
            with pytest.raises(ConnectionResetError):
                client.recv(100)
        wait_until(lambda: node.node.pids() == [])


def test_with_nobody_there_is_nothing_to_drain(node: ServiceNode) -> None:
    completed = userspace_proxy(node.node, "drain")
    assert completed.returncode == 1
    assert completed.stderr.startswith("userspace-proxy: no agent serves")
