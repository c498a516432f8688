"""A live agent is asked over its admin socket, by its own commands and by others' programs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.agent import userspace_proxy
from tests.support.service_node import ServiceNode
from userspace_proxy.demo.namespaces import Namespace


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node"), ipv6=True) as node:
        node.agent.start()
        yield node


def answer(where: Namespace, *arguments: str) -> str:
    """What a command says that succeeds."""
    done = userspace_proxy(where, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_status_says_how_the_agent_does(node: ServiceNode) -> None:
    said = json.loads(answer(node.node, "status", "-o", "json"))
    assert said["pid"] == node.agent.pid
    assert said["node"] == "node-1"
    assert {worker["pid"] for worker in said["workers"]} < {*node.agent.worker_pids}
    assert f"{node.agent.pid}" in answer(node.node, "status")


def test_where_no_agent_runs_that_is_said_in_a_sentence(node: ServiceNode) -> None:
    done = userspace_proxy(node.client, "status")
    assert done.returncode == 3
    assert done.stderr.startswith("userspace-proxy: no agent runs here: there is no /run/userspace-proxy/")
