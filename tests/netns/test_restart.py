"""An agent that comes back takes up what an earlier run left: the same ports, the same rules, none twice."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.agent import kill
from tests.support.clients import ask, expect_refusal, sockets, udp_client, who_answers, who_greets
from tests.support.service_node import ServedService, ServiceNode, read_proxy_port
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace

EVERYBODY = {"web-1", "web-2", "web-3"}


@pytest.fixture(params=["nft", "legacy", "python-iptables"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path, "--iptables-backend", request.param) as node:
        node.agent.start()
        yield node


@pytest.fixture
def nft_node(tmp_path: Path) -> Iterator[ServiceNode]:
    """Where nothing outlives an agent but its rules."""
    with ServiceNode(tmp_path, "--orphan-seconds", "0") as node:
        node.agent.start()
        yield node


def answers(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        return ask(client).decode().strip() in EVERYBODY
    except OSError:
        return False


def test_killed_and_started_again_it_serves_with_the_rules_that_stand(node: ServiceNode) -> None:
    service, refused = node.serve("greet", "name"), node.serve("greet", "name", endpoints=[])
    rules = node.rules()
    with udp_client(node.client, service["name"]) as faithful:
        who_answers([faithful])
        for _ in range(2):
            node.agent.kill_everything()
            assert node.rules() == rules
            assert not answers(faithful)  # which keeps a conntrack entry alive that leads to nobody
            node.agent.start()
            wait_until(lambda: answers(faithful))
            assert set(who_greets(node.client, service["greet"], 3)) == EVERYBODY
            assert set(who_greets(node.node, service["greet"], 3)) == EVERYBODY
            expect_refusal(node.client, refused["greet"], refused["name"])
            assert node.rules() == rules
            assert not node.agent.lines_with("Rules installed")


def test_stopped_and_started_again_it_serves_with_the_rules_that_stand(nft_node: ServiceNode) -> None:
    node = nft_node
    service = node.serve("greet", "name")
    rules = node.rules()
    assert node.agent.stop() == 0
    assert node.node.pids() == []
    assert node.rules() == rules
    node.agent.start()
    assert set(who_greets(node.client, service["greet"], 3)) == EVERYBODY
    assert node.rules() == rules


def test_a_port_that_somebody_took_meanwhile_gets_a_successor_and_its_rule_too(nft_node: ServiceNode) -> None:
    node = nft_node
    service, other = node.serve("greet", "name"), node.serve("greet", "name")
    taken = {name: node.proxy_port(service, name) for name in ("greet", "name")}
    other_rules, count = node.rules_of(other), len(node.rules())
    with ExitStack() as stack:
        faithful = stack.enter_context(udp_client(node.client, service["name"]))
        who_answers([faithful])
        node.agent.kill_everything()
        stack.enter_context(stranger(node.node, socket.SOCK_STREAM, taken["greet"])).listen()
        stack.enter_context(stranger(node.node, socket.SOCK_DGRAM, taken["name"]))
        assert not answers(faithful)  # the stranger says nothing
        node.agent.start()
        wait_until(lambda: all(node.proxy_port(service, name) != port for name, port in taken.items()))
        assert set(who_greets(node.client, service["greet"], 3)) == EVERYBODY
        assert set(who_greets(node.node, service["greet"], 3)) == EVERYBODY
        wait_until(lambda: answers(faithful))
    assert node.rules_of(other) == other_rules
    assert len(node.rules()) == count


def test_a_stranger_on_the_port_where_clients_are_refused_does_not_get_them(nft_node: ServiceNode) -> None:
    node = nft_node
    service = node.serve("greet", "name", endpoints=[])
    ports = {
        read_proxy_port(node.rules_of(service), f"default/{service.name}:{name} has no endpoints")
        for name in service.port_names
    }
    node.agent.kill_everything()
    with ExitStack() as stack:
        for port in ports:
            stack.enter_context(stranger(node.node, socket.SOCK_STREAM, port)).listen()
            stack.enter_context(stranger(node.node, socket.SOCK_DGRAM, port))
        node.agent.start()
        wait_until(lambda: not leads_to(node.rules_of(service), ports))
        expect_refusal(node.client, service["greet"], service["name"])
        expect_refusal(node.node, service["greet"], service["name"])


def leads_to(rules: list[str], ports: set[int]) -> bool:
    return any(int(rule.replace(":", " ").split()[-1]) in ports for rule in rules)


def stranger(where: Namespace, kind: socket.SocketKind, port: int) -> socket.socket:
    [sock] = sockets(where, 1, kind)
    sock.bind(("0.0.0.0", port))
    return sock


def test_what_changed_while_nobody_looked_is_made_good(nft_node: ServiceNode) -> None:
    node = nft_node
    gone, kept = node.serve("greet", "name"), node.serve("greet")
    node.agent.kill_everything()
    node.forget(gone)
    new = ServedService("new", "10.96.4.4", ("greet",))
    node.set_endpoints(new, node.endpoint_addresses)
    node.apply(new)
    kept_rules = node.rules_of(kept)
    node.agent.start()
    node.wait_for_rules(new)
    assert node.rules_of(gone) == []
    assert node.rules_of(kept) == kept_rules
    for service in (new, kept):
        assert set(who_greets(node.client, service["greet"], 3)) == EVERYBODY


def test_workers_end_when_their_agent_is_killed(nft_node: ServiceNode) -> None:
    node = nft_node
    node.serve("greet")
    kill(node.agent.pid)
    wait_until(lambda: node.node.pids() == [])
