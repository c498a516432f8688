"""Workers outlive their agent: it may crash, be stopped or be replaced, and no client notices."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.agent import Agent, userspace_proxy
from tests.support.clients import (
    Address,
    ask,
    connect,
    expect_refusal,
    received_to_the_end,
    udp_client,
    who_answers,
    who_greets,
)
from tests.support.exposed_service import ExposedService
from tests.support.kernel_state import descriptors, descriptors_at_rest, rule_handles
from tests.support.other_version import other_version
from tests.support.service_node import ServedService, ServiceNode
from tests.support.waiting import wait_until

HEALTH_PORT = 32001
EVERYBODY = {"web-1", "web-2", "web-3"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path) as node:
        node.agent.start()
        yield node


def kill_the_agent(node: ServiceNode) -> None:
    os.kill(node.agent.pid, signal.SIGKILL)
    wait_until(lambda: node.agent.pid not in node.node.pids())


def stop_the_agent(node: ServiceNode) -> None:
    assert node.agent.stop() == 0


def expect_service(node: ServiceNode, service: ServedService) -> None:
    """New connections and new flows reach every endpoint."""
    assert set(who_greets(node.client, service["greet"], 3)) == EVERYBODY
    with ExitStack() as stack:
        clients = [stack.enter_context(udp_client(node.client, service["name"])) for _ in range(3)]
        assert set(who_answers(clients)) == EVERYBODY


class Conversations:
    """A TCP connection and a UDP flow through a Service, each with an endpoint of its own."""

    def __init__(self, node: ServiceNode, service: ServedService) -> None:
        self._digest = connect(node.client, service["digest"])
        self._digest.sendall(b"first half, ")
        self._name = udp_client(node.client, service["name"])
        self._answers_as = who_answers([self._name])

    def __enter__(self) -> Conversations:
        return self

    def __exit__(self, *_: object) -> None:
        self._digest.close()
        self._name.close()

    def expect_to_go_on(self) -> None:
        assert who_answers([self._name]) == self._answers_as

    def expect_to_end_well(self) -> None:
        self.expect_to_go_on()
        self._digest.sendall(b"second half")
        self._digest.shutdown(socket.SHUT_WR)
        assert received_to_the_end(self._digest)


@pytest.mark.parametrize("leave", [kill_the_agent, stop_the_agent])
def test_without_an_agent_everything_goes_on_and_the_next_one_adopts_it(
    node: ServiceNode, leave: Callable[[ServiceNode], None]
) -> None:
    service = node.serve("greet", "name", "digest")
    refused = node.serve("greet", "name", endpoints=[])
    rules, handles, ports = node.rules(), rule_handles(node.node), port_of_each(node, service)
    with Conversations(node, service) as conversations:
        serving = serving_workers(node)
        for _ in range(2):
            leave(node)
            expect_service(node, service)
            conversations.expect_to_go_on()
            expect_refusal(node.client, refused["greet"], refused["name"])
            node.agent.start()
            assert serving_workers(node) == serving
            assert node.agent.lines_with("adopted", f"workers={len(serving)}")
        expect_service(node, service)
        conversations.expect_to_end_well()
    assert (node.rules(), rule_handles(node.node), port_of_each(node, service)) == (rules, handles, ports)
    wait_until(lambda: len(node.agent.worker_pids) == len(serving) + 1)  # and one spare


def test_restarts_leave_nothing_open(node: ServiceNode) -> None:
    node.serve("greet", "name")
    workers = serving_workers(node)
    held = descriptors_at_rest(node.agent.pid, *workers)
    for leave in (kill_the_agent, stop_the_agent, kill_the_agent):
        leave(node)
        node.agent.start()
    wait_until(lambda: [descriptors(pid) for pid in [node.agent.pid, *workers]] == held)
    wait_until(lambda: len(node.agent.worker_pids) == 3)
    wait_until(lambda: len(node.control_sockets) == 3)


def serving_workers(node: ServiceNode) -> list[int]:
    listing = node.node.run("ss", "-Htulnp").stdout
    return [pid for pid in node.agent.worker_pids if f"pid={pid}," in listing]


def port_of_each(node: ServiceNode, service: ServedService) -> list[int]:
    return [node.proxy_port(service, name) for name in service.port_names]


def test_affinity_survives(node: ServiceNode) -> None:
    service = node.serve("greet", affinity_seconds=600)
    [home] = who_greets(node.client, service["greet"])
    kill_the_agent(node)
    node.agent.start()
    assert set(who_greets(node.client, service["greet"], 6)) == {home}


def test_what_changed_meanwhile_takes_effect(node: ServiceNode) -> None:
    gone, kept = node.serve("greet"), node.serve("greet", "name")
    kill_the_agent(node)
    node.forget(gone)
    node.set_endpoints(kept, node.endpoint_addresses[:1])
    node.agent.start()
    wait_until(lambda: set(who_greets(node.client, kept["greet"], 3)) == {"web-1"})
    wait_until(lambda: not node.rules_of(gone))
    wait_until(lambda: len(node.node.run("ss", "-Htuln").stdout.splitlines()) == 2)


def test_an_adopted_worker_that_dies_is_replaced(node: ServiceNode) -> None:
    service = node.serve("greet", "name")
    kill_the_agent(node)
    node.agent.start()
    for pid in serving_workers(node):
        os.kill(pid, signal.SIGKILL)
    expect_service(node, service)
    assert len(node.agent.lines_with("Worker lost")) == 2


def test_workers_for_which_nobody_comes_end(tmp_path: Path) -> None:
    with ServiceNode(tmp_path, "--orphan-seconds", "4") as node:
        node.agent.start()
        service = node.serve("greet", "name")
        kill_the_agent(node)
        expect_service(node, service)
        wait_until(lambda: node.node.pids() == [])
        expect_refusal(node.client, service["greet"], service["name"])


def test_another_agent_takes_over(node: ServiceNode, tmp_path: Path) -> None:
    service = node.serve("greet", "name", "digest")
    serving = serving_workers(node)
    second = Agent(node.node, tmp_path / "second.log", *node.agent.flags)
    with Conversations(node, service) as conversations:
        second.start()
        wait_until(lambda: not node.agent.is_running)
        assert node.agent.exit_status == 0
        assert "Took over" in second.log
        assert "hands over" in node.agent.log
        expect_service(node, service)
        conversations.expect_to_end_well()
    assert serving_workers(node) == serving


@pytest.mark.parametrize("leave", [None, kill_the_agent, stop_the_agent])
def test_another_version_replaces_the_workers_and_nobody_notices(
    node: ServiceNode, tmp_path: Path, leave: Callable[[ServiceNode], None] | None
) -> None:
    service, sticky = node.serve("greet", "name", "digest"), node.serve("greet", affinity_seconds=600)
    [home] = who_greets(node.client, sticky["greet"])
    handles, ports = rule_handles(node.node), port_of_each(node, service)
    old = serving_workers(node)
    newer = Agent(node.node, tmp_path / "newer.log", *node.agent.flags)
    with Conversations(node, service) as conversations:
        source_ports = udp_ports_towards_endpoints(node)
        if leave is not None:
            leave(node)
        newer.start(prefix=("env", "-C", str(other_version(tmp_path / "newer"))))
        wait_until(lambda: not set(serving_workers(node)) & set(old))
        assert newer.lines_with("to be replaced, workers=2")
        conversations.expect_to_go_on()
        assert udp_ports_towards_endpoints(node) == source_ports
        expect_service(node, service)
        assert set(who_greets(node.client, sticky["greet"], 6)) == {home}
        assert set(old) & set(node.agent.worker_pids)  # one drains still
        conversations.expect_to_end_well()
    wait_until(lambda: not set(old) & set(node.agent.worker_pids))
    assert (rule_handles(node.node), port_of_each(node, service)) == (handles, ports)
    wait_until(lambda: len(node.control_sockets) == 3)


def udp_ports_towards_endpoints(node: ServiceNode) -> list[str]:
    connected = node.node.run("ss", "-Hun", "state", "connected").stdout.splitlines()
    return sorted(line.split()[2].rpartition(":")[2] for line in connected)


@pytest.mark.parametrize(
    "wrong", [("--bind-address", "203.0.113.9"), ("--state-directory", "/proc"), ("--no-take-over",)]
)
def test_an_agent_that_cannot_start_leaves_everything_as_it_is(
    node: ServiceNode, wrong: tuple[str, ...]
) -> None:
    service = node.serve("greet", "name", "digest")
    wait_until(lambda: len(node.agent.worker_pids) == 3)  # the spare is there too
    rules, workers = node.rules(), node.agent.worker_pids
    with Conversations(node, service) as conversations:
        completed = userspace_proxy(node.node, "run", *node.agent.flags, *wrong)
        assert completed.returncode == 1, completed.stderr
        expect_service(node, service)
        conversations.expect_to_end_well()
    assert node.agent.is_running
    assert node.rules() == rules
    assert node.agent.worker_pids == workers


def test_an_agent_whose_kubeconfig_is_none_leaves_the_running_one_alone(
    node: ServiceNode, tmp_path: Path
) -> None:
    service = node.serve("greet", "name")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("apiVersion: v1\nkind: Config\n")
    completed = userspace_proxy(node.node, "run", "--kubeconfig", str(kubeconfig))
    assert completed.returncode == 2, completed.stderr
    assert node.agent.is_running
    expect_service(node, service)


def test_cleanup_ends_orphans_at_once(node: ServiceNode) -> None:
    service = node.serve("greet", "digest")
    with connect(node.client, service["digest"]) as client:
        client.sendall(b"?")
        kill_the_agent(node)
        wait_until(lambda: len(node.agent.worker_pids) == 2)  # the spare ends by itself
        completed = userspace_proxy(node.node, "cleanup")
        assert completed.returncode == 0, completed.stderr
        assert "ended workers without an agent: 2" in completed.stdout
        wait_until(lambda: node.node.pids() == [])
        with pytest.raises(ConnectionResetError):
            ask(client)
    assert not node.state_folder.exists()


def test_load_balancers_that_check_meanwhile_are_answered_by_the_next_agent(node: ServiceNode) -> None:
    checked = ExposedService("checked", 1)
    node.objects.apply(checked.manifest(external_traffic_policy="Local", health_check_node_port=HEALTH_PORT))
    node.apply_endpoints("checked", node.endpoint_on(node.endpoints[0], "node-1"))
    address = node.node.address, HEALTH_PORT
    wait_until(lambda: outcome_of_check(node, address).startswith(b"HTTP/1.1 200"))
    kill_the_agent(node)
    with connect(node.client, address) as waiting:
        waiting.sendall(b"GET / HTTP/1.1\r\n\r\n")
        node.agent.start()
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
    node.objects.delete(checked.manifest())
    wait_until(lambda: f":{HEALTH_PORT} " not in node.node.run("ss", "-Htln").stdout)


def test_load_balancers_check_at_the_next_agent_s_addresses(node: ServiceNode) -> None:
    checked = ExposedService("checked", 1)
    node.objects.apply(checked.manifest(external_traffic_policy="Local", health_check_node_port=HEALTH_PORT))
    node.apply_endpoints("checked", node.endpoint_on(node.endpoints[0], "node-1"))
    address = node.node.address, HEALTH_PORT
    wait_until(lambda: outcome_of_check(node, address).startswith(b"HTTP/1.1 200"))
    kill_the_agent(node)
    node.agent.flags += "--nodeport-addresses", "primary"
    node.agent.start()
    wait_until(lambda: outcome_of_check(node, address).startswith(b"HTTP/1.1 200"))


def outcome_of_check(node: ServiceNode, address: Address) -> bytes:
    try:
        with connect(node.client, address) as client:
            return ask(client, b"GET / HTTP/1.1\r\n\r\n")
    except ConnectionError:
        return b""
