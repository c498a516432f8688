"""The package is replaced in place under an agent that runs, and workers die: served is all the same."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import userspace_proxy
from tests.support.clients import connect, greeting, who_greets
from tests.support.kernel_state import descriptors_at_rest
from tests.support.other_version import other_version
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until

IGNORED = shutil.ignore_patterns("__pycache__")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Where a copy of the package stands that may be replaced."""
    folder = tmp_path / "installed"
    shutil.copytree(Path(userspace_proxy.__file__).parent, folder / "userspace_proxy", ignore=IGNORED)
    return folder


@pytest.fixture
def node(tmp_path: Path, installed: Path) -> Iterator[ServiceNode]:
    """Its agent is of the package that is `installed`."""
    with ServiceNode(tmp_path) as node:
        node.agent.start(prefix=("env", "-C", str(installed)))
        yield node


def replace_package(installed: Path, folder: Path) -> None:
    """By another build, with messages of its own."""
    shutil.copytree(
        other_version(folder) / "userspace_proxy", installed / "userspace_proxy", dirs_exist_ok=True
    )


def kill_who_serves(node: ServiceNode) -> int:
    """The only worker that has something to serve."""
    listing = node.node.run("ss", "-Htlnp").stdout
    [pid] = [pid for pid in node.agent.worker_pids if f"pid={pid}," in listing]
    os.kill(pid, signal.SIGKILL)
    return pid


def test_an_agent_whose_package_is_replaced_serves_on_and_becomes_the_new_build(
    node: ServiceNode, installed: Path, tmp_path: Path
) -> None:
    service = node.serve("greet")
    wait_until(lambda: len(node.agent.worker_pids) == 3)  # the spare is there
    pid = node.agent.pid
    held = descriptors_at_rest(pid)
    replace_package(installed, tmp_path / "other")
    kill_who_serves(node)
    who_greets(node.client, service["greet"], 3)  # by the spare, which is of the old build
    with connect(node.client, service["greet"]) as client:
        wait_until(lambda: "to be replaced, workers=" in node.agent.log)
        who_greets(node.client, service["greet"], 3)
        assert greeting(client)
    assert node.agent.lines_with("The package was replaced")
    assert node.agent.pid == pid
    assert node.agent.is_running
    wait_until(lambda: len(node.agent.worker_pids) == 3)
    assert descriptors_at_rest(pid) <= held  # nothing of the old build's is open
    kill_who_serves(node)
    who_greets(node.client, service["greet"], 3)


def test_a_new_build_that_cannot_be_imported_is_not_become(node: ServiceNode, installed: Path) -> None:
    service = node.serve("greet")
    wait_until(lambda: len(node.agent.worker_pids) == 3)
    broken = installed / "userspace_proxy/agent/agent.py"
    whole = broken.read_text()
    broken.write_text("raise ImportError('half of it is missing')\n")
    kill_who_serves(node)
    wait_until(lambda: node.agent.lines_with("cannot be imported", "half of it is missing"))
    who_greets(node.client, service["greet"], 3)
    broken.write_text(whole)
    wait_until(lambda: node.agent.lines_with("again what it was"))
    kill_who_serves(node)
    who_greets(node.client, service["greet"], 3)
    assert not node.agent.lines_with("to be replaced")
