"""The configuration file of a running agent changes, as a ConfigMap in a pod does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support import objects
from tests.support.clients import REFUSED, connect, outcome, who_greets
from tests.support.service_node import PORTS, ServiceNode
from tests.support.waiting import wait_until

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
NODE_PORT = 30080


class ConfigMapVolume:
    """A file as kubelet keeps it: `..data` is a link that is replaced, and so changes all files at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions = 0
        self.path = folder / "config.conf"

    def hold(self, fields: str) -> None:
        self._versions += 1
        version = self._folder / f"..version-{self._versions}"
        version.mkdir(parents=True)
        (version / "config.conf").write_text(HEAD + dedent(fields))
        link = self._folder / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self._folder / "..data")
        if self._versions == 1:
            self.path.symlink_to("..data/config.conf")


@pytest.fixture
def volume(tmp_path: Path) -> ConfigMapVolume:
    return ConfigMapVolume(tmp_path / "volume")


@pytest.fixture
def node(tmp_path: Path, volume: ConfigMapVolume) -> Iterator[ServiceNode]:
    volume.hold("nodePortAddresses: []\n")
    with ServiceNode(tmp_path, f"--config={volume.path}", endpoints=1) as node:
        node.agent.start()
        yield node


def test_what_can_change_does_without_a_word_to_those_who_are_connected(
    node: ServiceNode, volume: ConfigMapVolume
) -> None:
    service = node.serve("greet", "digest")
    node.objects.apply(
        objects.service(
            "exposed", at="10.96.1.10", ports=[f"greet:{PORTS['greet']}@{NODE_PORT}"], type="NodePort"
        )
    )
    node.apply_endpoints("exposed", node.endpoint_on(node.endpoints[0]), port_names=["greet"])
    node_port = (node.node.address, NODE_PORT)
    wait_until(lambda: outcome(node.client, "TCP", node_port) == "web-1")
    workers = node.agent.worker_pids
    with connect(node.client, service["digest"]) as client:
        client.sendall(b"some")
        volume.hold(
            """
            nodePortAddresses: [203.0.113.0/24]
            portRange: 12000-12999
            userspaceProxy: {removedEndpoints: reset}
            """
        )
        wait_until(lambda: node.agent.lines_with("takes effect at the next start", "portRange"))
        (reloaded,) = node.agent.lines_with("Configuration reloaded")
        assert f"{volume.path}: nodePortAddresses, {volume.path}: userspaceProxy.removedEndpoints" in reloaded
        wait_until(lambda: outcome(node.client, "TCP", node_port) == REFUSED)
        assert who_greets(node.client, service["greet"]) == ["web-1"]
        node.set_endpoints(service, [])
        client.settimeout(20)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert node.agent.worker_pids == workers


def test_a_broken_file_is_named_and_all_goes_on(node: ServiceNode, volume: ConfigMapVolume) -> None:
    service = node.serve("greet")
    volume.hold("nodePortAddresses: [nonsense]\nmode: ipvs\n")
    wait_until(lambda: node.agent.lines_with("Configuration not reloaded"))
    (named,) = node.agent.lines_with("Configuration not reloaded")
    assert f"{volume.path}: nodePortAddresses[0]: 'nonsense' is not a CIDR" in named
    assert f"{volume.path}: mode: 'ipvs' is not userspace" in named
    assert who_greets(node.client, service["greet"]) == ["web-1"]
    volume.hold("nodePortAddresses: [primary]\n")
    wait_until(lambda: node.agent.lines_with("Configuration reloaded", "nodePortAddresses"))
