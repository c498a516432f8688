"""Others whose rules, chains and ports get in our way: what is theirs stays, and clients are served."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.agent import userspace_proxy
from tests.support.clients import expect_everybody, sockets
from tests.support.kernel_state import installed_rules
from tests.support.service_node import ServiceNode
from tests.support.steady_traffic import SteadyTraffic
from tests.support.waiting import wait_until

REPAIR_SECONDS = 20.0
TOOLS = {"nft": "iptables-nft", "legacy": "iptables-legacy", "python-iptables": "iptables-legacy"}
OTHER_VARIANT = {"nft": "legacy", "legacy": "nft", "python-iptables": "nft"}
EVERYBODY = ("web-1", "web-2", "web-3")

SAME_NAMES = """\
*mangle
:KUBE-PORTALS-HOST - [0:0]
-A KUBE-PORTALS-HOST -s 198.51.100.1/32 -j ACCEPT
COMMIT
*filter
:KUBE-PORTALS-CONTAINER - [0:0]
:KUBE-PORTALS-GUARD - [0:0]
-A KUBE-PORTALS-CONTAINER -s 198.51.100.2/32 -j ACCEPT
-A KUBE-PORTALS-GUARD -s 198.51.100.3/32 -j ACCEPT
COMMIT
*nat
:KUBE-PORTALS-CONTAINER - [0:0]
-A PREROUTING -s 198.51.100.4/32 -j KUBE-PORTALS-CONTAINER
-A KUBE-PORTALS-CONTAINER -p tcp -j RETURN
COMMIT
"""
IN_OTHER_TABLES = ("198.51.100.1", "198.51.100.2")
IN_CHAINS_OF_OURS = ("198.51.100.3", "198.51.100.4")


@pytest.fixture(params=list(TOOLS))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def node(backend: str, tmp_path: Path) -> Iterator[ServiceNode]:
    """On which nothing has run yet."""
    with ServiceNode(tmp_path, "--iptables-backend", backend, "--orphan-seconds", "0") as node:
        yield node


def test_chains_of_our_names_become_ours_and_those_of_other_tables_stay(
    node: ServiceNode, backend: str
) -> None:
    node.node.run(f"{TOOLS[backend]}-restore", "--noflush", stdin=SAME_NAMES)
    node.agent.start()
    service = node.serve("greet", "name")
    expect_everybody(node.client, service["greet"], service["name"], EVERYBODY)
    rules = "\n".join(node.rules())
    assert [address in rules for address in IN_OTHER_TABLES] == [True, True]
    assert [address in rules for address in IN_CHAINS_OF_OURS] == [False, False]
    assert "-A KUBE-PORTALS-CONTAINER -p tcp -j RETURN" not in rules


def test_rules_of_the_other_variant_are_left_alone_and_named_once(node: ServiceNode, backend: str) -> None:
    other = OTHER_VARIANT[backend]
    tool = f"iptables-{other}"
    node.node.run(tool, "-t", "nat", "-A", "PREROUTING", "-d", "198.51.100.9", "-j", "ACCEPT")
    rules = installed_rules(node.node, other)
    node.agent.start()
    service = node.serve("greet", "name")
    expect_everybody(node.client, service["greet"], service["name"], EVERYBODY)
    wait_until(lambda: node.agent.lines_with("other iptables variant"))
    node.serve("greet", "name")
    [said] = node.agent.lines_with("other iptables variant")
    assert f"by_others={other} rules=1 of_ours=0 shown_by={tool}-save" in said
    assert "they are left alone" in said
    assert installed_rules(node.node, other) == rules


def test_rules_of_ours_in_the_other_variant_are_named_with_what_to_do(
    node: ServiceNode, backend: str
) -> None:
    node.agent.start()
    node.serve("greet")
    assert node.agent.stop() == 0
    node.agent.flags = (*node.agent.flags, "--iptables-backend", OTHER_VARIANT[backend])
    node.agent.start()
    wait_until(lambda: node.agent.lines_with("other iptables variant", "userspace-proxy cleanup"))
    assert node.agent.stop() == 0
    assert userspace_proxy(node.node, "cleanup").returncode == 0
    for variant in set(OTHER_VARIANT.values()):
        assert "KUBE-PORTALS" not in "".join(installed_rules(node.node, variant))


def test_a_port_that_a_stranger_took_while_nothing_ran_is_exchanged_at_once(node: ServiceNode) -> None:
    node.agent.start()
    service = node.serve("greet", "name")
    taken = {name: node.proxy_port(service, name) for name in service.port_names}
    count = len(node.rules())
    node.agent.kill_everything()
    with ExitStack() as stack:
        for name, kind in (("greet", socket.SOCK_STREAM), ("name", socket.SOCK_DGRAM)):
            [stranger] = sockets(node.node, 1, kind)
            stack.enter_context(stranger).bind(("0.0.0.0", taken[name]))
            if kind == socket.SOCK_STREAM:
                stranger.listen()
        node.agent.start()
        took = wait_until(
            lambda: all(node.proxy_port(service, name) != port for name, port in taken.items()),
            REPAIR_SECONDS,
        )
        expect_everybody(node.client, service["greet"], service["name"], EVERYBODY)
    print(f"rules moved {took:.2f} s after the agent had begun to serve")
    assert len(node.rules()) == count


def test_where_somebody_writes_rules_all_the_time_ours_are_repaired(node: ServiceNode, backend: str) -> None:
    node.agent.start()
    service = node.serve("greet", "name")
    rules = node.rules()
    stop = threading.Event()

    def write_all_the_time() -> None:
        while not stop.is_set():
            for verb in ("-A", "-D"):
                node.node.run(TOOLS[backend], "-w", "-t", "nat", verb, "POSTROUTING", "-j", "ACCEPT")

    writer = threading.Thread(target=write_all_the_time)
    writer.start()
    try:
        with SteadyTraffic(node.client, service["greet"]) as traffic:
            for _ in range(3):
                node.node.run(TOOLS[backend], "-w", "-t", "nat", "-F", "KUBE-PORTALS-CONTAINER")
                took = wait_until(lambda: {*rules} <= {*node.rules()}, REPAIR_SECONDS)
                print(f"repaired after {took:.2f} s")
            wait_until(lambda: traffic.served)
    finally:
        stop.set()
        writer.join()
    expect_everybody(node.client, service["greet"], service["name"], EVERYBODY)
