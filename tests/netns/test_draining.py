"""`userspace-proxy drain`: what runs may finish, nothing begins."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import USERSPACE_PROXY, userspace_proxy
from tests.support.clients import connect, expect_refusal, received_to_the_end
from tests.support.service_node import ServiceNode
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
        with pytest.raises(subprocess.TimeoutExpired):
            again.wait(2)  # who asks again waits like the first
        assert draining.poll() is None
        client.sendall(b"second half")
        client.shutdown(socket.SHUT_WR)
        assert received_to_the_end(client)
    assert draining.wait(10) == again.wait(10) == 0
    wait_until(lambda: node.agent.exit_status == 0)
    wait_until(lambda: node.node.pids() == [])
    assert node.rules() == rules


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
