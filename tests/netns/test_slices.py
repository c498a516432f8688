"""What EndpointSlices say, entry by entry, and which endpoints take their turns by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import objects
from tests.support.clients import outcomes, who_greets
from tests.support.cluster_objects import manifest_of
from tests.support.exposed_service import EVERYBODY, wait_until_met
from tests.support.service_node import ENDPOINT_PORTS, ServiceNode
from tests.support.waiting import wait_until

PORT = f"greet:{ENDPOINT_PORTS['greet']}"
ENDING: dict[str, Any] = {"ready": False, "serving": True, "terminating": True}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    with ServiceNode(tmp_path_factory.mktemp("node")) as node:
        node.agent.start()
        yield node


def write(node: ServiceNode, item: Any, **more: Any) -> None:
    """An object with fields that our own structs have no place for, or have in another form."""
    node.manifests.write(node.manifests.file_of(item).name, json.dumps(manifest_of(item) | more))


def in_turn(node: ServiceNode, address: str, names: list[str]) -> bool:
    """Whether just these are met, each once a round."""
    met = who_greets(node.client, (address, 80), 3 * len(names))
    return sorted(met) == sorted(3 * names)


def test_an_endpoint_that_several_slices_list_has_one_turn(node: ServiceNode) -> None:
    service = node.serve("greet", name="doubled")
    for suffix in ("again", "once-more"):
        node.objects.apply(
            objects.endpoint_slice(
                f"doubled-{suffix}",
                of="doubled",
                ports=[PORT],
                endpoints=[node.endpoints[0].address, node.endpoints[0].address],
            )
        )
    wait_until(lambda: in_turn(node, service.cluster_ip, ["web-1", "web-2", "web-3"]))


def test_of_an_endpoint_listed_twice_the_entry_that_does_not_end_counts(node: ServiceNode) -> None:
    web_1, web_2, _ = node.endpoint_addresses
    service = node.serve("greet", name="contested", endpoints=[web_2])
    for suffix, conditions in (("ending", ENDING), ("ready", {})):
        node.objects.apply(
            objects.endpoint_slice(
                f"contested-{suffix}",
                of="contested",
                ports=[PORT],
                endpoints=[objects.endpoint(web_1, **conditions)],
            )
        )
    wait_until(lambda: in_turn(node, service.cluster_ip, ["web-1", "web-2"]))


def test_conditions_that_are_not_stated_mean_ready_and_serving_like_ready(node: ServiceNode) -> None:
    web_1, web_2, web_3 = node.endpoint_addresses
    service = node.serve("greet", name="unsaid", endpoints=[])
    entries: list[dict[str, Any]] = [
        {"addresses": [web_1]},
        {"addresses": [web_2], "conditions": {"ready": None, "serving": None, "terminating": None}},
        {"addresses": [web_3], "conditions": {"ready": False, "terminating": True}},
    ]
    item = objects.endpoint_slice("unsaid-1", of="unsaid", ports=[PORT])
    write(node, item, endpoints=entries)
    wait_until_met(node.client, ("TCP", service["greet"]), EVERYBODY)
    wait_until(lambda: in_turn(node, service.cluster_ip, ["web-1", "web-2"]))
    write(node, item, endpoints=entries[2:])  # that it serves is not said, and it is not ready
    wait_until_met(node.client, ("TCP", service["greet"]), {"refused"})


def test_what_cannot_be_an_endpoint_is_passed_over_and_the_rest_serves(node: ServiceNode) -> None:
    """Only the first address of an entry counts; names are not resolved."""
    web_1, web_2, web_3 = node.endpoint_addresses
    service = node.serve("greet", name="mixed", endpoints=[])
    item = objects.endpoint_slice("mixed-1", of="mixed")
    bad = ["0.0.0.0", "127.0.0.1", "169.254.3.3", "224.0.0.1", "no address", "fd00::1"]
    write(
        node,
        item,
        ports=[
            {"name": "greet"},
            {"port": ENDPOINT_PORTS["greet"]},
            {"name": "greet", "port": ENDPOINT_PORTS["greet"]},
        ],
        endpoints=[
            {"addresses": []},
            *({"addresses": [address]} for address in bad),
            {"addresses": [web_1, web_3]},
            {"addresses": [web_2]},
        ],
    )
    write(
        node,
        objects.endpoint_slice("mixed-names", of="mixed", ports=[PORT], address_type="FQDN"),
        endpoints=[{"addresses": ["web-3.example"]}],
    )
    wait_until_met(node.client, ("TCP", service["greet"]), EVERYBODY)
    wait_until(lambda: in_turn(node, service.cluster_ip, ["web-1", "web-2"]))


@pytest.mark.parametrize(
    ("hints", "names"),
    [
        pytest.param([{"for_nodes": ["node-9"], "for_zones": ["here"]}] * 3, EVERYBODY, id="zone of all"),
        pytest.param(
            [
                {"for_nodes": ["node-9"], "for_zones": ["here"]},
                {"for_nodes": ["node-9"], "for_zones": ["there"]},
                {"for_nodes": ["node-9"], "for_zones": ["there", "here"]},
            ],
            {"web-1", "web-3"},
            id="no node's but the zone's",
        ),
        pytest.param([{"for_zones": ["there"]}] * 3, EVERYBODY, id="nobody's zone"),
        pytest.param([{"for_nodes": ["node-1"]}, {}, {}], EVERYBODY, id="not on every one"),
        pytest.param(
            [{"for_nodes": ["node-9", "node-1"]}, *[{"for_nodes": ["node-9"]}] * 2], {"web-1"}, id="node's"
        ),
    ],
)
def test_hints_fall_back_from_node_to_zone_to_all(
    node: ServiceNode, hints: list[dict[str, list[str]]], names: set[str]
) -> None:
    node.apply_node(zone="here")
    service = node.serve("greet")
    entries = [
        objects.endpoint(address, for_nodes=hint.get("for_nodes", ()), for_zones=hint.get("for_zones", ()))
        for address, hint in zip(node.endpoint_addresses, hints, strict=True)
    ]
    node.objects.apply(
        objects.endpoint_slice(f"{service.name}-1", of=service.name, ports=[PORT], endpoints=entries)
    )
    wait_until(lambda: in_turn(node, service.cluster_ip, sorted(names)))
    node.apply_node()  # a node without a zone heeds the nodes' hints alone
    alone = names if any("node-1" in hint.get("for_nodes", ()) for hint in hints) else EVERYBODY
    wait_until(lambda: in_turn(node, service.cluster_ip, sorted(alone)))


def test_legacy_endpoints_in_manifests_serve(node: ServiceNode) -> None:
    service = node.serve("greet", name="legacy", endpoints=[])
    web_1, web_2, web_3 = node.endpoint_addresses
    port = {"name": "greet", "port": ENDPOINT_PORTS["greet"]}
    node.manifests.write(
        "Endpoints-legacy.json",
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": {"name": "legacy", "namespace": "default"},
                "subsets": [
                    {"addresses": [{"ip": web_1}], "notReadyAddresses": [{"ip": web_3}], "ports": [port]},
                    {"addresses": [{"ip": web_2}], "ports": [port]},
                ],
            }
        ),
    )
    wait_until_met(node.client, ("TCP", service["greet"]), EVERYBODY)
    assert outcomes(node.client, "TCP", service["greet"], 6) == {"web-1", "web-2"}
