"""The agent is killed in the middle of a sync, at each step of it: the next one puts everything right."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import kill
from tests.support.clients import connect, received_to_the_end, udp_client, who_answers, who_greets
from tests.support.service_node import ServedService, ServiceNode
from tests.support.waiting import wait_until

LISTENER_OPENED = "dataplane.listening_sockets:ListeningSockets.open"
WORKER_TOLD = "dataplane.worker_link:WorkerLink.fetch"
RULES_COMMITTED = "iptables.iptables_restore:IptablesRestore.commit"
ENTRIES_DELETED = "agent.stale_conntrack:StaleConntrack.forget"
LISTENER_CLOSED = "dataplane.listening_sockets:ListeningSockets.close"

STEPS = [
    f"{LISTENER_OPENED}:1:before",
    f"{LISTENER_OPENED}:2:after",
    f"{WORKER_TOLD}:1:before",
    f"{WORKER_TOLD}:1:after",
    f"{RULES_COMMITTED}:1:before",
    f"{RULES_COMMITTED}:1:after",
    f"{ENTRIES_DELETED}:1:before",
    f"{ENTRIES_DELETED}:1:after",
    f"{LISTENER_CLOSED}:1:before",
    f"{LISTENER_CLOSED}:1:after",
]
EVERYBODY = {"web-1", "web-2", "web-3"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path, "--iptables-backend", "nft") as node:
        yield node


@pytest.mark.parametrize("kills_workers", [False, True], ids=["agent", "agent and workers"])
@pytest.mark.parametrize("step", STEPS)
def test_killed(node: ServiceNode, tmp_path: Path, step: str, kills_workers: bool) -> None:
    armed = tmp_path / "armed"
    node.agent.start(program=(sys.executable, "-m", "tests.support.dying_agent", str(armed), step))
    gone, kept = node.serve("greet", "name"), node.serve("greet", "name", "digest")
    with connect(node.client, kept["digest"]) as client:
        client.sendall(b"?")
        armed.touch()
        node.forget(gone)
        new = ServedService("new", "10.96.4.4", ("greet", "name"))
        node.set_endpoints(new, node.endpoint_addresses)
        node.apply(new)
        wait_until(lambda: not node.agent.is_running)
        assert node.agent.exit_status == -signal.SIGKILL
        if kills_workers:
            kill(*node.agent.worker_pids)
            wait_until(lambda: not node.agent.worker_pids)
        else:
            expect_service(node, kept)
        node.agent.start()
        node.wait_for_rules(new)
        for service in (new, kept):
            expect_service(node, service)
        wait_until(lambda: not node.rules_of(gone))
        if not kills_workers:
            client.shutdown(socket.SHUT_WR)
            assert received_to_the_end(client)
    expect_nothing_left_over(node, new, kept)


def expect_service(node: ServiceNode, service: ServedService) -> None:
    assert set(who_greets(node.client, service["greet"], 3)) == EVERYBODY
    with udp_client(node.client, service["name"]) as client:
        assert set(who_answers([client])) <= EVERYBODY


def expect_nothing_left_over(node: ServiceNode, *services: ServedService) -> None:
    """Each Service port has its rules, its port, and a worker; nothing else has any of these."""
    ports = {node.proxy_port(service, name) for service in services for name in service.port_names}
    assert len(ports) == sum(len(service.port_names) for service in services)
    wait_until(lambda: listening(node) == ports)
    assert not [rule for rule in node.rules() if '"default/' in rule and not names_one(rule, services)]
    wait_until(lambda: len(node.agent.worker_pids) == 3)
    wait_until(lambda: len(node.control_sockets) == 3)


def listening(node: ServiceNode) -> set[int]:
    listed = node.node.run("ss", "-Htuln").stdout.splitlines()
    return {int(line.split()[4].rpartition(":")[2]) for line in listed}


def names_one(rule: str, services: tuple[ServedService, ...]) -> bool:
    return any(f'"default/{service.name}:' in rule for service in services)
