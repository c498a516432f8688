"""Whoever is the agent answers at the admin socket, and nobody does in place of one that is gone."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import STOP_SECONDS, USERSPACE_PROXY, Agent, userspace_proxy
from tests.support.clients import connect, received_to_the_end
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path, endpoints=1) as node:
        yield node


def status(node: ServiceNode) -> Any:
    done = userspace_proxy(node.node, "status", "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_present_agent_answers_and_cleanup_removes_what_a_crash_left(
    node: ServiceNode, tmp_path: Path
) -> None:
    node.agent.start()
    second = Agent(node.node, tmp_path / "second.log", *node.agent.flags)
    second.start()
    wait_until(lambda: node.agent.exit_status is not None)
    assert status(node)["pid"] == second.pid
    second.kill_everything()
    left = userspace_proxy(node.node, "status")
    assert left.returncode == 3 and "no agent runs here: nobody answers at" in left.stderr
    assert userspace_proxy(node.node, "cleanup").returncode == 0
    assert not node.state_folder.exists()
    assert not (node.state_folder.parent / "admin.sock").is_symlink()


def test_an_agent_that_drains_says_so(node: ServiceNode) -> None:
    node.agent.start()
    service = node.serve("digest")
    with connect(node.client, service["digest"]) as client:
        client.sendall(b"first half, ")
        draining = node.node.popen(*USERSPACE_PROXY, "drain")
        wait_until(lambda: node.agent.lines_with("Draining"))
        wait_until(lambda: status(node)["leavingWorkers"])
        said = status(node)
        assert said["isDraining"] and not said["isNodeEligible"] and said["workers"] == []
        client.shutdown(socket.SHUT_WR)
        assert received_to_the_end(client)
    assert draining.wait(STOP_SECONDS) == 0
