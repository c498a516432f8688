"""Changes take effect at once, cost no rule where none is concerned, and disturb nobody else."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from tests.support import objects
from tests.support.clients import (
    Address,
    ask,
    connect,
    greeting,
    sockets,
    udp_client,
    udp_clients,
    who_answers,
    who_greets,
)
from tests.support.kernel_state import rule_handles, split_counters
from tests.support.service_node import PORTS, ServedService, ServiceNode
from tests.support.setups import WITH_API_SERVERS, WITH_MANIFESTS, serving_node
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace

EFFECTIVE_SECONDS = 1.0
TRIES = 10
"""At most: on a busy machine the first may take longer."""


@pytest.fixture(scope="module", params=[*WITH_MANIFESTS[:2], *WITH_API_SERVERS])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with serving_node(request.param, tmp_path_factory.mktemp("node")) as node:
        yield node


def test_replaced_endpoints_take_effect_within_a_second_and_no_rule_is_rewritten(node: ServiceNode) -> None:
    names = {pod.address: pod.name for pod in node.endpoints}
    first, second, third = names
    service = node.serve("greet", "name", endpoints=[first, second])
    with ExitStack() as stack:
        flows = [stack.enter_context(client) for client in udp_clients(node.client, service["name"], 8)]
        assert set(who_answers(flows)) == {"web-1", "web-2"}
        rules, handles = node.rules(counters=True), rule_handles(node.node)
        for number in range(TRIES):
            replacing = third if number % 2 == 0 else first
            node.set_endpoints(service, [replacing])
            took = wait_until(partial(all_meet, node, service, flows, names[replacing]))
            if took < EFFECTIVE_SECONDS:
                break
    print(f"endpoints replaced: effective after {took * 1e3:.0f} ms")
    assert took < EFFECTIVE_SECONDS
    assert rule_handles(node.node) == handles
    before, after = (
        [split_counters(rule) for rule in listed] for listed in (rules, node.rules(counters=True))
    )
    assert [rule for rule, _ in after] == [rule for rule, _ in before]
    assert all(now >= then for (_, now), (_, then) in zip(after, before, strict=True))


def all_meet(node: ServiceNode, service: ServedService, flows: list[socket.socket], name: str) -> bool:
    """Whether new connections and old flows are answered by this endpoint alone."""
    return set(who_greets(node.client, service["greet"], 3)) == {name} == set(who_answers(flows))


def test_an_endpoint_that_leaves_keeps_the_connections_it_has(node: ServiceNode) -> None:
    service = node.serve("greet", endpoints=[node.endpoints[0].address])
    with connect(node.client, service["greet"]) as client:
        assert greeting(client) == "web-1"
        node.set_endpoints(service, [node.endpoints[1].address])
        wait_until(lambda: who_greets(node.client, service["greet"]) == ["web-2"])
        assert echoes(client)


def test_services_come_change_and_go_while_others_serve(node: ServiceNode) -> None:
    steady = node.serve("greet", "name")
    with (
        ExitStack() as stack,
        unbroken_stream(node.client, steady["greet"]) as served,
        unbroken_stream(node.node, steady["greet"]),
    ):
        idle = [stack.enter_context(connect(node.client, steady["greet"])) for _ in range(40)]
        flow = stack.enter_context(udp_client(node.client, steady["name"]))
        homes = [greeting(client) for client in idle]
        [flow_home] = who_answers([flow])
        assert set(homes) == {"web-1", "web-2", "web-3"}

        changing = node.serve("greet", "name")
        idle_on_changing = stack.enter_context(connect(node.client, changing["greet"]))
        greeting(idle_on_changing)
        move_to_port(node, changing, 8080)
        remove_and_wait(node, changing)
        elsewhere = dataclasses.replace(changing, cluster_ip="10.96.3.3")
        node.set_endpoints(elsewhere, node.endpoint_addresses)
        node.apply(elsewhere)
        node.wait_for_rules(elsewhere)
        assert set(who_greets(node.client, elsewhere["greet"], 3)) == {"web-1", "web-2", "web-3"}
        move_to_address(node, elsewhere, "10.96.3.4")

        assert all(echoes(client) for client in [*idle, idle_on_changing])
        assert who_answers([flow]) == [flow_home]
    assert served.count > 50


def move_to_port(node: ServiceNode, service: ServedService, port: int) -> None:
    node.objects.apply(
        objects.service(
            service.name, at=service.cluster_ip, ports=[f"greet:{port}", f"name:{PORTS['name']}/UDP"]
        )
    )
    moved = (service.cluster_ip, port)
    wait_until(lambda: can_connect(node.client, moved))
    wait_until(lambda: not can_connect(node.client, service["greet"]))
    assert set(who_greets(node.client, moved, 3)) == {"web-1", "web-2", "web-3"}


def remove_and_wait(node: ServiceNode, service: ServedService) -> None:
    node.remove(service)
    assert not can_connect(node.client, service["greet"])
    with udp_client(node.client, service["name"]) as client:
        client.settimeout(0.3)
        with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
            ask(client)


def move_to_address(node: ServiceNode, service: ServedService, address: str) -> None:
    moved = dataclasses.replace(service, cluster_ip=address)
    node.objects.delete(objects.service(service.name))  # a clusterIP is for life; this is another Service
    node.apply(moved)
    wait_until(lambda: can_connect(node.client, moved["greet"]))
    wait_until(lambda: not can_connect(node.client, service["greet"]))


def can_connect(where: Namespace, address: Address) -> bool:
    with sockets(where, 1)[0] as client:
        client.settimeout(0.2)
        try:
            client.connect(address)
        except OSError:
            return False
        return True


def echoes(client: socket.socket) -> bool:
    client.sendall(b"still there")
    return client.recv(100) == b"still there"


@dataclasses.dataclass
class Served:
    count: int = 0


@contextmanager
def unbroken_stream(where: Namespace, address: Address) -> Iterator[Served]:
    """Connections one after the other, none of which may fail before the end of the block."""
    served = Served()
    failures: list[Exception] = []
    ended = threading.Event()

    def stream() -> None:
        while not ended.is_set():
            try:
                who_greets(where, address)
            except OSError as error:
                failures.append(error)
            served.count += 1
            time.sleep(0.005)

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        yield served
    finally:
        ended.set()
        thread.join()
    assert failures == []
