"""The demo cluster's network with nothing running in it: who reaches whom, and that all of it goes away."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from userspace_proxy.demo.cluster_network import ClusterNetwork
from userspace_proxy.demo.cluster_node import PodSandbox
from userspace_proxy.demo.namespaces import Namespace, run

REFUSED = 7
"""What curl ends with when an address answers that nobody listens: a packet went there, and one came back."""


@pytest.fixture(scope="module")
def network() -> Iterator[ClusterNetwork]:
    names = ["node-1", "node-2"]
    with ClusterNetwork(names, ipv6=True, resolv_conf=lambda namespace: f"search {namespace}\n") as network:
        yield network


@pytest.fixture(scope="module")
def pods(network: ClusterNetwork) -> dict[str, PodSandbox]:
    names = {"default/a": "node-1", "default/b": "node-1", "default/c": "node-2"}

    async def add() -> list[PodSandbox]:
        return [await network.nodes[node].add_pod(name) for name, node in names.items()]

    return dict(zip(names, asyncio.run(add()), strict=True))


def curl(where: Namespace, address: str) -> int:
    host = f"[{address}]" if ":" in address else address
    return where.run("curl", "-s", "--max-time", "20", f"http://{host}:9/", check=False).returncode


def test_everybody_reaches_everybody_in_both_families(
    network: ClusterNetwork, pods: dict[str, PodSandbox]
) -> None:
    machines = [network.outside, network.control_plane, *(node.sandbox for node in network.nodes.values())]
    everybody: list[Namespace] = [*machines, *pods.values()]
    addresses = [address for there in everybody for address in (there.address, there.address_v6)]
    assert len(set(addresses)) == 14
    unreachable = [
        (here, address) for here in everybody for address in addresses if curl(here, address) != REFUSED
    ]
    assert unreachable == []


def test_a_pod_knows_its_name_and_has_files_of_its_own(pods: dict[str, PodSandbox]) -> None:
    pod = pods["default/c"]
    seen = run(*pod.entering(["sh", "-c", "hostname; cat /etc/resolv.conf /etc/hosts"])).stdout
    assert seen.startswith("c\nsearch default\n127.0.0.1\tlocalhost\n")
    assert seen.endswith("10.244.2.2\tc\nfd00:10:244:2::2\tc\n")


def test_what_is_announced_is_routed_to_the_nodes_and_then_no_more(network: ClusterNetwork) -> None:
    def routes() -> str:
        return network.outside.run("ip", "route", "show", "root", "198.51.100.0/24").stdout

    asyncio.run(
        network.announce({"198.51.100.1": ["node-1", "node-2"], "198.51.100.2": ["node-2", "node-9"]})
    )
    assert "via 192.0.2.11" in routes() and routes().count("via 192.0.2.12") == 2
    asyncio.run(network.announce({"198.51.100.1": ["node-2"], "198.51.100.2": []}))
    assert routes().split() == ["198.51.100.1", "via", "192.0.2.12", "dev", "lan0"]
    asyncio.run(network.announce({}))
    assert routes() == ""


def test_where_the_kernel_spreads_nothing_one_node_gets_all(network: ClusterNetwork) -> None:
    network._route_to("198.51.100.9", ["192.0.2.11", "203.0.113.1"])  # nobody knows the way to the second
    assert network.outside.run("ip", "route", "get", "198.51.100.9").stdout.startswith(
        "198.51.100.9 via 192.0.2.11"
    )
    network.outside.ip("route del 198.51.100.9")


def test_an_address_is_given_again_only_after_all_others(network: ClusterNetwork) -> None:
    node = network.nodes["node-2"]
    first = node.make_pod("default/once")
    node.unmake_pod("default/once")
    node.unmake_pod("default/once")
    second = node.make_pod("default/twice")
    assert first.addresses != second.addresses
    node.unmake_pod("default/twice")


def test_a_pod_that_is_removed_takes_its_processes_and_namespace_along(network: ClusterNetwork) -> None:
    node = network.nodes["node-1"]
    pod = node.make_pod("default/short")
    process = subprocess.Popen(pod.entering(["sleep", "4242"]))
    wait_until(lambda: process.pid in pod.pids())
    node.unmake_pod("default/short")
    assert process.wait(timeout=20) < 0
    assert pod.name not in [path.name for path in Path("/run/netns").iterdir()]
    assert "short" not in node.pods
    # Its end of the wire goes, too: nobody keeps its namespace alive.
    veth = f"veth{pod.address.rpartition('.')[2]}@"
    wait_until(lambda: veth not in node.sandbox.run("ip", "link").stdout)


def test_nothing_is_left_of_what_could_not_be_made(network: ClusterNetwork) -> None:
    node = network.nodes["node-1"]
    last = int(node.make_pod("default/last").address.rpartition(".")[2])
    node.unmake_pod("default/last")
    before = run("ip", "netns", "list").stdout
    with Namespace(f"node-1-{last + 1}"), pytest.raises(subprocess.CalledProcessError):
        node.make_pod("default/unlucky")
    assert run("ip", "netns", "list").stdout == before
    assert node.pods.keys() == {"default/a", "default/b"}
