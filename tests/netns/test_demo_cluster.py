"""`userspace-proxy demo`: a whole cluster by one command, what can be done with it, and that it goes away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from userspace_proxy.demo import commands
from userspace_proxy.demo.control import ClusterStatus, RunningCluster
from userspace_proxy.demo.state_directory import VARIABLE

DEMO = (sys.executable, "-m", "userspace_proxy", "demo")
TIMEOUT_SECONDS = 120
MIB = 2**20


class Demo:
    """The command, for the cluster in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, VARIABLE: str(folder), "PYTHONUNBUFFERED": "1"}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*DEMO, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*DEMO, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self, *arguments: str) -> str:
        """What a command that must succeed has printed."""
        completed = self(*arguments)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    def status(self) -> ClusterStatus:
        import msgspec

        return msgspec.json.decode(self.said("status", "-o", "json"), type=ClusterStatus)

    def processes(self) -> list[str]:
        """Every process that was started by this command or by what that has started."""
        mark = f"{VARIABLE}={self.folder}".encode()
        found = []
        for process in Path("/proc").iterdir():
            with suppress(OSError):
                if process.name.isdecimal() and mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(process.name)
        return found

    def running(self) -> RunningCluster:
        cluster = RunningCluster.find(self.folder)
        assert cluster is not None
        cluster.close()
        return cluster


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A cluster of three nodes with what it has by default."""
    demo = Demo(tmp_path_factory.mktemp("demo") / "cluster")
    try:
        said = demo.said("up")
        assert f"export KUBECONFIG={demo.folder}/kubeconfig" in said
        yield demo
    finally:
        down = demo("down")
    assert down.stdout == "The cluster is down.\n"
    assert not demo.folder.exists()
    assert demo.processes() == []


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Demo]:
    """No cluster yet; whatever becomes one is taken down."""
    demo = Demo(tmp_path / "cluster")
    yield demo
    demo("down")


def test_everything_is_up_and_no_more_than_it_may_be(demo: Demo) -> None:
    status = demo.status()
    assert status.kubeconfig == f"{demo.folder}/kubeconfig"
    assert [(node.name, node.zone) for node in status.nodes] == [
        ("node-1", "zone-a"),
        ("node-2", "zone-b"),
        ("node-3", "zone-c"),
    ]
    assert all(node.agent_is_serving for node in status.nodes)
    assert all(pod.is_ready and len(pod.addresses) == 2 for pod in status.pods)
    assert len(status.pods) == 4
    assert {pod.node for pod in status.pods if pod.name != "client"} == {"node-1", "node-2", "node-3"}
    assert status.memory_bytes < 300 * MIB
    assert "node-2  zone-b  192.0.2.12, 2001:db8::12  10.244.2.0/24" in demo.said("status")


def test_the_api_server_is_reached_from_the_machine(demo: Demo) -> None:
    config = json.loads((demo.folder / "kubeconfig").read_text())
    assert (demo.folder / "kubeconfig").stat().st_mode & 0o777 == 0o600
    assert config["clusters"][0]["cluster"]["server"].startswith("https://127.0.0.1:")


def test_pods_reach_each_other_through_a_service(demo: Demo) -> None:
    curl = ("exec", "client", "--", "curl", "-s", "--max-time", "20", "http://web.default.svc.cluster.local/")
    names = {demo.said(*curl).split()[0] for _ in range(3)}
    assert names == {pod.name for pod in demo.status().pods if pod.name != "client"}


def test_pods_reach_the_api_server(demo: Demo) -> None:
    answer = demo.said(
        "exec", "client", "--", "curl", "-sk", "--max-time", "20", "https://kubernetes/version"
    )
    assert json.loads(answer)["reason"] == "Unauthorized"
    config = json.loads(demo.said("exec", "client", "--", "sh", "-c", "cat $KUBECONFIG"))
    assert config["clusters"][0]["cluster"]["server"] == "https://192.0.2.2:6443"


def test_a_command_ends_with_its_own_status(demo: Demo) -> None:
    assert demo("exec", "client", "--", "sh", "-c", "exit 7").returncode == 7
    assert demo("exec", "client", "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    assert demo("exec", "client", "--", "no-such-program").returncode == 127
    assert demo.said("exec", "outside", "hostname") == "outside\n"


def test_a_shell_says_where_one_is(demo: Demo) -> None:
    shell = subprocess.run(
        [*DEMO, "shell", "client"],
        env=demo.environment,
        input="hostname; exit 3\n",
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert shell.returncode == 3
    assert "client" in shell.stdout.split()
    assert "default/client" in shell.stderr


def test_a_place_that_is_none_is_named_with_those_that_are(demo: Demo) -> None:
    completed = demo("exec", "nowhere", "true")
    assert completed.returncode == 2
    assert "there is no 'nowhere' here, but outside, control-plane, node-1" in completed.stderr


def test_logs_are_those_of_pods_and_agents(demo: Demo) -> None:
    web = next(pod.name for pod in demo.status().pods if pod.name != "client")
    assert f"{web} serves HTTP, TCP and UDP on port 8080" in demo.said("logs", web)
    assert "Serving: service_ports=" in demo.said("logs", "node-1")
    for name in ("nosuch", "no such?"):
        missing = demo("logs", name)
        assert (missing.returncode, missing.stderr) == (1, f'userspace-proxy: pods "{name}" not found\n')


def test_there_is_one_at_a_time(demo: Demo) -> None:
    second = demo("up")
    assert second.returncode == 1
    assert "a demo cluster is running already" in second.stderr
    assert all(node.agent_is_serving for node in demo.status().nodes)


def test_an_agent_that_is_killed_is_started_again(demo: Demo) -> None:
    pid = demo.status().nodes[1].agent_pid
    demo.said("exec", "node-2", "--", "kill", "-9", str(pid))

    def is_back() -> bool:
        node = demo.status().nodes[1]
        return node.agent_restarts == 1 and node.agent_is_serving and node.agent_pid != pid

    wait_until(is_back)
    assert "adopted, workers=1" in demo.said("logs", "node-2")


def test_what_was_kept_comes_back_also_after_a_kill(other: Demo) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    other.said("up", "--nodes", "1", "--empty")
    assert len(other.processes()) > 5
    port = int(other.status().server.rpartition(":")[2])
    cluster = other.running()
    os.kill(cluster.pid, signal.SIGKILL)
    assert cluster.wait(TIMEOUT_SECONDS)
    assert other.processes() == []
    assert Path("/proc/self/mounts").read_text() == mounts
    assert_refused(port)
    ended = other("status")
    assert ended.returncode == 1
    assert "one has ended by itself" in ended.stderr

    other.said("up")  # one node, empty, as before
    assert [node.name for node in other.status().nodes] == ["node-1"]
    other.said("down", "--keep")
    assert {path.name.partition("-")[0] for path in other.folder.iterdir()} == {"state.db", "cluster.json"}
    assert "is removed" in other.said("down")
    assert not other.folder.exists()
    assert other.said("down") == "No demo cluster is running.\n"


def test_a_cluster_whose_folder_is_removed_ends(other: Demo) -> None:
    other.said("up", "--nodes", "1", "--empty")
    cluster = other.running()
    shutil.rmtree(other.folder)  # no command can reach it any more
    assert cluster.wait(TIMEOUT_SECONDS)
    assert other.processes() == []


def test_a_cluster_that_does_nothing_any_more_is_taken_down(
    other: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.said("up", "--nodes", "1", "--empty")
    cluster = RunningCluster.find(other.folder)
    assert cluster is not None
    with cluster:
        os.kill(cluster.pid, signal.SIGSTOP)
        cluster.connection.settimeout(0.1)
        monkeypatch.setattr(commands, "_END_SECONDS", 0.1)
        monkeypatch.setenv(VARIABLE, str(other.folder))
        monkeypatch.setattr(RunningCluster, "find", lambda _path: cluster)
        commands.take_down(keep=False)
    assert not other.folder.exists()
    assert other.processes() == []


def test_a_cluster_whose_command_fails_in_the_end_does_not_stay(other: Demo) -> None:
    command = other.started("up", "--nodes", "1", "--empty")
    assert command.stdout is not None and command.stderr is not None
    with command.stderr:
        with command.stdout:
            assert any("API server: " in line for line in command.stdout)
        assert command.wait(TIMEOUT_SECONDS) != 0  # it could not say what there is
    assert not other.folder.exists()
    assert other.processes() == []


def assert_refused(port: int) -> None:
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_cluster_in_the_foreground_ends_with_its_command(other: Demo, number: signal.Signals) -> None:
    command = other.started("up", "--nodes", "1", "--empty", "--foreground")
    assert command.stdout is not None and command.stderr is not None
    with command.stdout, command.stderr:
        assert any(line == "Ctrl-C takes it down.\n" for line in command.stdout)
        cluster = other.running()
        command.send_signal(number)
        said = command.stdout.read()
        status = command.wait(TIMEOUT_SECONDS)
    assert (status, said) == ((0, "The cluster is down.\n") if number == signal.SIGINT else (-number, ""))
    assert cluster.wait(TIMEOUT_SECONDS)
    assert not other.folder.exists()
    assert other.processes() == []


def test_the_log_of_a_cluster_that_ended_by_itself_is_left(other: Demo) -> None:
    command = other.started("up", "--nodes", "1", "--empty", "--foreground")
    assert command.stdout is not None and command.stderr is not None
    with command.stdout, command.stderr:
        assert any(line == "Ctrl-C takes it down.\n" for line in command.stdout)
        os.kill(other.running().pid, signal.SIGKILL)
        assert f"{other.folder}/demo.log may say why" in command.stderr.read()
        assert command.wait(TIMEOUT_SECONDS) == 1
    assert (other.folder / "demo.log").exists()


@pytest.mark.parametrize(
    ("file", "status", "says"),
    [
        ("nodes: 0", 2, "`nodes`: a cluster has 1 to 99 nodes, not 0"),
        ("nodse: 3", 2, "Object contains unknown field `nodse`"),
        ("nodes: 1\nmanifests: [missing.yaml]", 2, "missing.yaml is neither a file nor a folder"),
        ("nodes: 1\nmanifests: [bad.yaml]", 1, "must be no more than 63 bytes"),
    ],
)
def test_a_file_that_is_wrong_is_said_and_leaves_nothing(
    other: Demo, tmp_path: Path, file: str, status: int, says: str
) -> None:
    (tmp_path / "cluster.yaml").write_text(file)
    bad = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x" * 64}}
    (tmp_path / "bad.yaml").write_text(json.dumps(bad))
    completed = other("up", "--file", str(tmp_path / "cluster.yaml"))
    assert completed.returncode == status
    assert says in completed.stderr
    assert not other.folder.exists()
    assert other.processes() == []
