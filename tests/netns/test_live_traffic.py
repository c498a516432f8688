"""A live agent says what goes on in its workers, and takes endpoints out as an operator says."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.agent import USERSPACE_PROXY, Agent, userspace_proxy
from tests.support.clients import connect, sockets, who_greets
from tests.support.other_version import other_version
from tests.support.service_node import ServedService, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.admin.client import ask
from userspace_proxy.admin.protocol import AdminError
from userspace_proxy.core.answers.connections import ConnectionAnswer, ConnectionsAnswer, ConnectionsQuestion
from userspace_proxy.core.answers.ejections import Ejection, EjectParameters, UnejectParameters
from userspace_proxy.core.answers.services import ServicePortAnswer, ServicesQuestion

SECONDS = 30.0
OBEYING_CTRL_C = ("env", "--default-signal=INT")
"""Whoever is started in a shell's background ignores it, and so does what it starts."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node")) as node:
        node.agent.start()
        yield node


def said(node: ServiceNode, *arguments: str) -> str:
    """What a command says that succeeds."""
    done = userspace_proxy(node.node, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(node: ServiceNode, service: ServedService, **more: str) -> list[ConnectionsAnswer]:
    question = ConnectionsQuestion(service=service.name, **more)  # type: ignore[arg-type]
    return list(ask(node.state_folder / "admin.sock", "connections", ConnectionsAnswer, question))


def connections(node: ServiceNode, service: ServedService, **more: str) -> tuple[ConnectionAnswer, ...]:
    return tuple(each for page in listed(node, service, **more) for each in page.connections)


def test_connections_are_listed_with_the_frontend_that_clients_sent_to(node: ServiceNode) -> None:
    service = node.serve("greet", "echo")
    with ExitStack() as stack:
        client = stack.enter_context(connect(node.client, service["greet"]))
        greeting = client.recv(100)
        client.sendall(b"x" * 40)
        assert client.recv(100) == b"x" * 40
        [flow] = sockets(node.client, 1, kind=socket.SOCK_DGRAM)
        stack.enter_context(flow)
        flow.connect(service["echo"])
        flow.send(b"?")
        assert flow.recv(10) == b"?"
        carried = {40 + len(greeting), None}
        wait_until(lambda: {each.bytes_out for each in connections(node, service)} == carried)
        tcp, udp = sorted(connections(node, service), key=lambda each: each.protocol)
        address, port = client.getsockname()
        assert tcp.client == f"{address}:{port}"
        assert tcp.frontend == f"{service.cluster_ip}:80"
        assert tcp.endpoint in {f"{each}:8080" for each in node.endpoint_addresses}
        assert (tcp.state, tcp.draining, tcp.bytes_in) == ("established", False, 40)
        assert tcp.service_port == f"default/{service.name}:greet"
        assert {tcp.worker, udp.worker} <= {*node.agent.worker_pids}
        assert udp.client == "{}:{}".format(*flow.getsockname())
        assert udp.frontend == "{}:{}".format(*service["echo"])
        assert udp.state == "answered"
        assert len(connections(node, service, client=address)) == 2
        assert connections(node, service, client="10.9.9.9") == ()
        assert [each.client for each in connections(node, service, endpoint=tcp.endpoint)] == [tcp.client]
        table = said(node, "connections", "--service", service.name, "--limit", "1", "-o", "wide")
        assert f"{address}:{port}" in table
        assert "1 more, which began later" in table
        command = ("connections", "--service", service.name, "--watch", "--interval", "0.2", "-o", "json")
        with node.node.popen(*OBEYING_CTRL_C, *USERSPACE_PROXY, *command, stdout=subprocess.PIPE) as watching:
            assert watching.stdout is not None
            for _ in range(2):
                assert len(json.loads(watching.stdout.readline())["connections"]) == 2
            watching.send_signal(signal.SIGINT)
            assert watching.wait(SECONDS) == 0
    wait_until(lambda: all(each.protocol == "UDP" for each in connections(node, service)))


def test_an_endpoint_that_is_taken_out_stays_out_whoever_is_replaced(node: ServiceNode) -> None:
    service = node.serve("greet")
    socket_file = node.state_folder / "admin.sock"
    one, two, three = node.endpoint_addresses

    def greeted() -> set[str]:
        return set(who_greets(node.client, service["greet"], 6))

    def eject(address: str, *, force: bool = False) -> None:
        parameters = EjectParameters(endpoint=address, service=service.name, force=force)
        list(ask(socket_file, "eject", Ejection, parameters))

    assert greeted() == {"web-1", "web-2", "web-3"}
    command = ("eject", f"{one}:8080", "--service", service.name, "--for", "1h", "-o", "json")
    [ejection] = json.loads(said(node, *command))
    assert (ejection["servicePort"], ejection["seconds"]) == (f"default/{service.name}:greet", 3600)
    assert greeted() == {"web-2", "web-3"}
    [served] = ask(socket_file, "services", ServicePortAnswer, ServicesQuestion(name=service.name))
    assert served.taken_out_endpoints == 1
    assert served.endpoints is not None
    [out] = [each for each in served.endpoints if each.health.taken_out]
    assert out.endpoint == f"{one}:8080"
    assert out.health.left_out_of == ("Cluster",)
    [listener] = served.listeners
    assert listener.next is not None
    assert {*listener.next} < {f"{two}:8080", f"{three}:8080"}
    status = said(node, "status")
    assert "Endpoints left out: 0 ejected for failing, 1 taken out by an operator" in status
    assert f"{one}:8080" in status
    assert "taken out for 59m" in said(node, "endpoints", "--service", service.name)
    worker = served.workers[0].pid
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: worker not in node.agent.worker_pids)
    assert greeted() == {"web-2", "web-3"}
    node.agent.stop()
    node.agent.start()
    assert greeted() == {"web-2", "web-3"}
    list(ask(socket_file, "uneject", Ejection, UnejectParameters(endpoint=one, service=service.name)))
    assert greeted() == {"web-1", "web-2", "web-3"}
    eject(two)
    eject(three)
    with pytest.raises(AdminError, match="is the last that"):
        eject(one)
    eject(one, force=True)
    assert greeted() == {"web-1", "web-2", "web-3"}


def test_top_says_what_is_carried_a_second(node: ServiceNode) -> None:
    service = node.serve("greet")
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(connect(node.client, service["greet"])).recv(10)
        frames = said(node, "top", "--service", service.name, "-n", "2", "--interval", "0.2", "-o", "json")
    for frame in map(json.loads, frames.splitlines()):
        [carried] = frame["servicePorts"]
        assert carried["servicePort"] == f"default/{service.name}:greet"
        assert carried["active"] == 5
        assert frame["seconds"] > 0


def test_on_a_terminal_a_key_ends_it(node: ServiceNode) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        command = [*USERSPACE_PROXY, "top", "--interval", "0.2"]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "20"}
        process = node.node.call(
            lambda: subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        )
        os.close(theirs)
        deadline = time.monotonic() + SECONDS
        shown = b""

        def look() -> None:
            nonlocal shown
            assert time.monotonic() < deadline, shown
            if select.select([terminal], [], [], 0.1)[0]:
                shown += terminal.read(4096)

        try:
            while b"SERVICE PORT" not in shown:
                look()
            os.write(terminal.fileno(), b"q")
            while b"\x1b[?1049l" not in shown:  # back on the first screen
                look()
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            process.wait()
    assert shown.startswith(b"\x1b[?1049h")


def test_an_agent_of_another_version_knows_what_is_out_and_does_not_ask_the_workers_before_it(
    node: ServiceNode, tmp_path: Path
) -> None:
    service = node.serve("greet")
    one = node.endpoint_addresses[0]
    said(node, "eject", one, "--service", service.name)
    old = node.agent.worker_pids
    newer = Agent(node.node, tmp_path / "newer.log", *node.agent.flags)
    with connect(node.client, service["greet"]) as client:
        assert client.recv(10)
        newer.start(prefix=("env", "-C", str(other_version(tmp_path / "newer"))))
        assert set(who_greets(node.client, service["greet"], 6)) == {"web-2", "web-3"}
        wait_until(lambda: listed(node, service)[-1].workers_not_asked)
        found = listed(node, service)
        assert set(found[-1].workers_not_asked) <= set(old)
        assert [each for page in found for each in page.connections if each.worker in old] == []
        client.sendall(b"still")
        assert client.recv(10) == b"still"
    wait_until(lambda: listed(node, service)[-1].workers_not_asked == ())
