"""Bad objects are named once, and cost only what depends on what is bad in them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support import objects
from tests.support.clients import who_greets
from tests.support.cluster_objects import manifest_of
from tests.support.service_node import ENDPOINT_PORTS, ServedService, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.core.objects import ApiObject

GOOD_ADDRESS = "10.96.7.1"

BAD: dict[str, tuple[str | ApiObject, list[str]]] = {
    "no-yaml.yaml": ("kind: Service\nmetadata: {name: [unclosed\n", ["is no YAML"]),
    "address.json": (
        objects.service("bad-address", at="10.96.300.1"),
        ["Service default/bad-address", "spec.clusterIP", "'10.96.300.1' is not"],
    ),
    "loopback-address.json": (
        objects.service("loopback-address", at="127.0.0.1"),
        ["Service default/loopback-address", "spec.clusterIP", "loopback"],
    ),
    "port.json": (
        objects.service("half-bad", at=GOOD_ADDRESS, ports=["greet:80", "bad:70000"]),
        ["Service default/half-bad", "spec.ports[1].port", "70000"],
    ),
    "endpoint.json": (
        objects.endpoint_slice(
            "half-bad-1",
            of="half-bad",
            ports=[f"greet:{ENDPOINT_PORTS['greet']}"],
            endpoints=["127.0.0.1", "10.244.1.3", "10.244.1.4", "10.244.1.5"],
        ),
        ["EndpointSlice default/half-bad-1", "endpoints[0].addresses[0]", "loopback"],
    ),
    "kind.yaml": (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n",
        ["Deployment shop/web", "kind", "Deployment is not a kind that is read"],
    ),
    "type.yaml": (
        "apiVersion: v1\nkind: Service\nmetadata: {name: typo}\nspec: {clusterIP: 10.96.7.2, ports: 80}\n",
        ["Service default/typo", "spec.ports", "80 is not"],
    ),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    """A node that meets all the bad objects at its start, and a good one beside them."""
    with ServiceNode(tmp_path_factory.mktemp("node")) as node:
        for name, (item, _) in BAD.items():
            node.manifests.write(name, item if isinstance(item, str) else json.dumps(manifest_of(item)))
        node.agent.start()
        yield node


@pytest.mark.parametrize("file", BAD)
def test_each_is_named_once_with_all_that_its_author_needs(node: ServiceNode, file: str) -> None:
    path = str(node.manifests.directory / file)
    [line] = node.agent.lines_with("Skipped", f" {path}: ")
    for text in BAD[file][1]:
        assert text in line
    # The whole directory is looked at again for a change of one file, and still nothing is repeated.
    node.serve("greet")
    assert node.agent.lines_with("Skipped", path) == [line]


def test_all_else_works(node: ServiceNode) -> None:
    good = node.serve("greet")
    assert set(who_greets(node.client, good["greet"], 3)) == {"web-1", "web-2", "web-3"}


def test_the_good_port_of_a_bad_service_works_with_its_good_endpoints(node: ServiceNode) -> None:
    names = who_greets(node.client, (GOOD_ADDRESS, 80), 9)
    assert names == names[:3] * 3
    assert set(names) == {"web-1", "web-2", "web-3"}


def test_a_bad_edit_leaves_what_was_there_and_its_correction_counts(node: ServiceNode) -> None:
    service = node.serve("greet")
    path = node.manifests.file_of(objects.service(service.name))
    good = path.read_text()
    node.manifests.write(path.name, good[:-20])
    wait_until(lambda: node.agent.lines_with("Skipped", str(path)))
    assert len(who_greets(node.client, service["greet"], 3)) == 3
    moved = ServedService(service.name, "10.96.7.9", service.port_names)
    node.apply(moved)
    wait_until(lambda: node.agent.lines_with("Mended", str(path)))
    # Both chains, at the new address: the rules that stand name the Service as well.
    wait_until(lambda: sum(moved.cluster_ip in rule for rule in node.rules_of(moved)) == 2)
    assert len(who_greets(node.client, moved["greet"], 3)) == 3
    assert len(node.agent.lines_with("Skipped", str(path))) == 1
