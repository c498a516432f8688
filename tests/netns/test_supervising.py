"""`userspace-proxy supervise`: what a container runs, as its first process or under another one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.agent import START_SECONDS, STOP_SECONDS, USERSPACE_PROXY, userspace_proxy
from tests.support.clients import connect, greeting, who_greets
from tests.support.container import FIRST_OF_A_PID_NAMESPACE, SERVING, Container
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until


def started(
    node: ServiceNode, log_file: Path, runtime: Sequence[str] = FIRST_OF_A_PID_NAMESPACE
) -> Container:
    container = Container(node.node, log_file, *node.agent.flags, runtime=runtime)
    container.start()
    return container


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path) as node:
        yield node


@pytest.mark.parametrize("runtime", [(), FIRST_OF_A_PID_NAMESPACE])
def test_an_agent_that_dies_is_started_again_and_the_end_waits_for_the_workers(
    node: ServiceNode, tmp_path: Path, runtime: tuple[str, ...]
) -> None:
    container = started(node, tmp_path / "container.log", runtime)
    service = node.serve("greet", "digest")
    with connect(node.client, service["digest"]) as client:
        client.sendall(b"?")
        os.kill(container.pid, signal.SIGKILL)
        who_greets(node.client, service["greet"], 3)
        container.wait_for(2, SERVING)
        assert "adopted, workers=2" in container.log
        container.end()
        container.wait_for(1, "Stopped:")
        who_greets(node.client, service["greet"], 3)
        assert container.exit_status is None
        assert userspace_proxy(node.node, "cleanup").returncode == 0  # else they go on for a minute
        wait_until(lambda: container.exit_status == 0)
    wait_until(lambda: node.node.pids() == [])


def test_kube_proxy_as_the_first_process_supervises_itself(node: ServiceNode, tmp_path: Path) -> None:
    """kubeadm's DaemonSet starts /usr/local/bin/kube-proxy, and nothing else."""
    container = Container(node.node, tmp_path / "container.log", *node.agent.flags)
    container.start(program=[str(Path(sys.executable).parent / "kube-proxy")], verbs=())
    service = node.serve("greet")
    os.kill(container.pid, signal.SIGKILL)
    who_greets(node.client, service["greet"], 3)
    container.wait_for(2, SERVING)
    assert container.exit_status is None
    container.kill_everything()


def test_a_replaced_container_hands_over_and_stays_until_it_is_told_to_end(
    node: ServiceNode, tmp_path: Path
) -> None:
    """As `maxSurge: 1` has it: the new pod starts beside the old one, in a pid namespace of its own."""
    old = started(node, tmp_path / "old.log")
    service = node.serve("greet")
    old_workers = set(node.agent.worker_pids)
    with connect(node.client, service["greet"]) as client:
        new = started(node, tmp_path / "new.log")
        assert "to be replaced, workers=1" in new.log  # the other had nothing to serve, and ended
        assert greeting(client)
        who_greets(node.client, service["greet"], 3)
    wait_until(lambda: not old_workers & set(node.agent.worker_pids))
    assert old.exit_status is None
    who_greets(node.client, service["greet"], 3)
    old.end()
    wait_until(lambda: old.exit_status == 0)
    new.kill_everything()


def test_a_wrong_flag_ends_it(node: ServiceNode) -> None:
    completed = userspace_proxy(node.node, "supervise", "--", "run", "--workers", "0")
    assert completed.returncode == 2
    assert "--workers" in completed.stderr


def test_a_privilege_that_is_missing_ends_it(node: ServiceNode) -> None:
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    completed = userspace_proxy(node.node, "supervise", "--", "run", *node.agent.flags, prefix=without)
    assert completed.returncode == 77
    assert "lacks CAP_NET_ADMIN" in completed.stderr
    assert "started again" not in completed.stderr


def test_what_keeps_failing_is_tried_again_after_a_while(node: ServiceNode, tmp_path: Path) -> None:
    node.agent.start()
    log_file = tmp_path / "supervisor.log"
    with log_file.open("w") as log:
        supervisor = node.node.popen(
            *USERSPACE_PROXY, "supervise", "--", "run", *node.agent.flags, "--no-take-over", stderr=log
        )
    wait_until(lambda: log_file.read_text().count("started again") == 2, 2 * START_SECONDS)
    assert "in_seconds=0.0" in log_file.read_text()
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(STOP_SECONDS) == 0
    assert node.agent.is_running
