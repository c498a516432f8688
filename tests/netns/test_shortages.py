"""What a node runs out of: the agent and its workers go on, say so, and recover by themselves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import objects
from tests.support.agent import STOP_SECONDS, USERSPACE_PROXY
from tests.support.clients import PATIENCE_SECONDS, connect, greeting, outcome, sockets, who_greets
from tests.support.service_node import ENDPOINT_PORTS, ServiceNode
from tests.support.waiting import wait_until

SOURCE_PORTS = 10
AGENT_DESCRIPTORS = 512
LISTENERS = 60
ON_A_SMALL_DISK = """
mkdir -p "$0"
mount -t tmpfs -o size=64k,nr_inodes=2 none "$0"
exec "$@"
"""
"""Room for the state directory and the folder in it, but for no socket."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path, "--workers", "1") as node:
        yield node


@pytest.fixture
def state() -> Iterator[Path]:
    """Where a state directory may be: its path is short enough for sockets in it."""
    with TemporaryDirectory() as folder:
        yield Path(folder) / "state"


def test_without_a_source_port_to_one_endpoint_another_one_is_used(node: ServiceNode) -> None:
    node.agent.start()
    node.node.sysctl("net.ipv4.ip_local_port_range", f"40000 {40000 + SOURCE_PORTS - 1}")
    one, two = node.endpoint_addresses[:2]
    crowded = node.serve("greet", endpoints=[one])
    service = node.serve("greet", endpoints=[one, two])
    with ExitStack() as stack:
        # connect(2) leaves odd ports to bind(2) as long as there are others, and takes them in the end.
        for _ in range(SOURCE_PORTS):
            greeting(stack.enter_context(connect(node.client, crowded["greet"])))
        assert set(who_greets(node.client, service["greet"], 8)) == {"web-2"}
        assert node.agent.lines_with("Out of source ports", one)
        assert not node.agent.lines_with("Endpoint keeps failing", one)
    wait_until(lambda: "web-1" in who_greets(node.client, service["greet"], 2))


def test_who_finds_no_source_port_at_all_waits_for_one(node: ServiceNode) -> None:
    node.agent.start()
    node.node.sysctl("net.ipv4.ip_local_port_range", f"40000 {40000 + SOURCE_PORTS - 1}")
    service = node.serve("greet", endpoints=node.endpoint_addresses[:1])
    with ExitStack() as stack:
        held = [stack.enter_context(connect(node.client, service["greet"])) for _ in range(SOURCE_PORTS)]
        for client in held:
            greeting(client)
        waiting = stack.enter_context(connect(node.client, service["greet"]))
        wait_until(lambda: node.agent.lines_with("Out of source ports"))
        held.pop().close()
        assert greeting(waiting) == "web-1"


def test_a_full_conntrack_table_cuts_nothing_and_who_comes_waits(node: ServiceNode) -> None:
    # nf_conntrack_max is one for all namespaces. So these rules do what the kernel does beyond it.
    node.agent.start()
    service = node.serve("greet")
    rule = ("-m", "conntrack", "--ctstate", "NEW", "-p", "tcp", "-j", "DROP")
    with ExitStack() as stack:
        established = stack.enter_context(connect(node.client, service["greet"]))
        greeting(established)
        for chain in ("PREROUTING", "OUTPUT"):
            node.node.run("iptables", "-t", "mangle", "-A", chain, *rule)
        [waiting] = sockets(node.client, 1)
        stack.enter_context(waiting)
        waiting.setblocking(False)
        waiting.connect_ex(service["greet"])
        established.sendall(b"still here")
        assert established.recv(100) == b"still here"
        for chain in ("PREROUTING", "OUTPUT"):
            node.node.run("iptables", "-t", "mangle", "-D", chain, *rule)
        waiting.settimeout(PATIENCE_SECONDS)
        assert greeting(waiting) in {pod.name for pod in node.endpoints}


def test_listeners_beyond_a_small_limit_are_opened_when_others_close(node: ServiceNode) -> None:
    node.agent.start(prefix=("prlimit", f"--nofile={AGENT_DESCRIPTORS + LISTENERS}"))
    service = node.serve("greet")
    wide = objects.service("wide", ports=[f"p{port}:{port}" for port in range(1000, 1000 + LISTENERS)])
    pods = objects.endpoint_slice(
        "wide-1",
        of="wide",
        ports=[f"p{port}:{ENDPOINT_PORTS['greet']}" for port in range(1000, 1000 + LISTENERS)],
        endpoints=node.endpoint_addresses,
    )
    node.objects.apply(wide, pods)
    wait_until(lambda: node.agent.lines_with("Listener", "not opened"))
    assert len(who_greets(node.client, service["greet"], 20)) == 20
    node.objects.delete(wide, pods)
    late = node.serve("greet")  # refused until the others' listeners are closed
    wait_until(lambda: outcome(node.client, "TCP", late["greet"]).startswith("web-"))
    assert len(who_greets(node.client, late["greet"], 20)) == 20
    assert node.agent.is_running


def test_a_full_disk_for_logs_stops_nothing(node: ServiceNode) -> None:
    with Path("/dev/full").open("w") as full:
        agent = node.node.popen(*USERSPACE_PROXY, "run", *node.agent.flags, stdout=full, stderr=full)
    service = node.serve("greet")
    assert len(who_greets(node.client, service["greet"], 20)) == 20
    node.set_endpoints(service, node.endpoint_addresses[:1])
    wait_until(lambda: set(who_greets(node.client, service["greet"], 3)) == {"web-1"})
    [worker, *_] = node.agent.worker_pids
    os.kill(worker, signal.SIGKILL)
    assert len(who_greets(node.client, service["greet"], 20)) == 20
    agent.send_signal(signal.SIGTERM)
    agent.wait(STOP_SECONDS)


def test_a_full_state_directory_stops_nothing(node: ServiceNode, state: Path) -> None:
    node.agent.flags = (*node.agent.flags, "--state-directory", str(state))
    node.agent.start(prefix=("unshare", "--mount", "sh", "-ec", ON_A_SMALL_DISK, str(state)))
    service = node.serve("greet")
    assert node.agent.lines_with("Worker cannot be handed over", "No space left on device")
    for _ in range(3):
        [worker, *_] = node.agent.worker_pids
        os.kill(worker, signal.SIGKILL)
        assert len(who_greets(node.client, service["greet"], 20)) == 20
    assert node.agent.stop() == 0
