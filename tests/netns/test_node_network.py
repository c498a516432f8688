"""The ground that the other tests stand on: who reaches whom, and that nothing stays behind."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import NodeNetwork, PodWiring


@pytest.mark.parametrize("wiring", list(PodWiring))
@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "dual-stack"])
def test_everybody_reaches_everybody(wiring: PodWiring, ipv6: bool) -> None:
    with NodeNetwork(wiring=wiring, ipv6=ipv6) as network:
        everybody = [network.add_pod("a"), network.add_pod("b"), network.node, network.outside]
        for here in everybody:
            for there in everybody:
                for address in (there.address, there.address_v6):
                    if address:
                        assert can_send(here, there, address), f"{here} to {there} at {address}"


def can_send(here: Namespace, there: Namespace, address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        there.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as receiver,
        here.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender,
    ):
        receiver.settimeout(20)
        receiver.bind((address, 0))
        sender.sendto(b"hello", (address, receiver.getsockname()[1]))
        try:
            return receiver.recv(10) == b"hello"
        except TimeoutError:
            return False


def test_the_node_has_a_second_address_when_asked() -> None:
    with NodeNetwork(second_node_address=True) as network:
        assert can_send(network.outside, network.node, "192.0.2.11")


def test_closing_kills_what_runs_inside_and_frees_the_name() -> None:
    with Namespace("short-lived") as namespace:
        process = namespace.popen("sh", "-c", "echo started; exec sleep 600", stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert namespace.pids() == [process.pid]
    assert process.returncode == -9
    assert not namespace.path.exists()
    with Namespace("short-lived"):
        pass


def test_closing_kills_what_is_only_on_its_way_in() -> None:
    with Namespace("short-lived") as namespace:
        process = namespace.popen("sleep", "600")
    assert process.returncode == -9


def test_closing_kills_orphans_too() -> None:
    with Namespace("orphanage") as namespace:
        namespace.run("sh", "-c", "setsid sleep 600 >/dev/null 2>&1 &")
        [orphan] = namespace.pids()
    assert not is_alive(orphan)


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_failing_command_says_why() -> None:
    with Namespace("failing") as namespace, pytest.raises(subprocess.CalledProcessError) as failure:
        namespace.run("ip", "link", "show", "dev", "eth7")
    assert failure.value.__notes__ == ['Device "eth7" does not exist.']


def test_run_does_not_wait_longer_than_it_was_told() -> None:
    with Namespace("slow") as namespace, pytest.raises(subprocess.TimeoutExpired):
        namespace.run("sleep", "600", timeout=0.1)


def test_settings_are_the_namespace_s_own(node_network: NodeNetwork) -> None:
    assert node_network.node.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "1\n"
    assert node_network.outside.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "0\n"


def test_run_directory_is_not_the_host_s(node_network: NodeNetwork) -> None:
    names = {path.name for path in Path("/run").iterdir()}  # those of other tests' pods and agents, perhaps
    assert "netns" in names
    assert not names & {"dbus", "lock", "log", "systemd", "udev", "user"}  # what a machine has there
    assert sorted(path.name for path in Path("/run/netns").iterdir()) == ["node", "outside"]
