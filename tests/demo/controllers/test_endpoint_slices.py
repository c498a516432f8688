"""EndpointSlices on paper: who stands in them, as what, and which of them are written."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.demo.controllers.simulation import START, merged, node, pod, service, struct
from userspace_proxy.demo.controllers.endpoint_slices import (
    LAST_CHANGE,
    MOST_ENDPOINTS,
    OUR_NAME,
    plan_endpoint_slices,
)
from userspace_proxy.demo.controllers.objects import Endpoint, EndpointPort, EndpointSlice, Node, Pod, Service
from userspace_proxy.demo.controllers.writes import Create, Delete, Patch, Write

WEB = {"app": "web"}
ZONES = {
    "node-1": node("node-1", labels={"topology.kubernetes.io/zone": "east"}),
    "node-2": node("node-2", labels={"topology.kubernetes.io/zone": "west"}),
}


class Slices:
    """The EndpointSlices that there are."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.chance = random.Random(1)

    @property
    def structs(self) -> list[EndpointSlice]:
        return [struct(EndpointSlice, item) for item in self.items.values()]

    def plan(
        self, services: Iterable[Service], pods: Iterable[Pod], nodes: dict[str, Node] | None = None
    ) -> Sequence[Write]:
        return plan_endpoint_slices(services, pods, nodes or {}, self.structs, self.chance).writes

    def settle(self, services: Iterable[Service], pods: Iterable[Pod], **options: Any) -> list[Write]:
        """Plan and write; there must be nothing left to do then. Returns what was written."""
        services, pods = list(services), list(pods)
        writes = list(self.plan(services, pods, **options))
        for write in writes:
            match write:
                case Create(body=body):
                    item = msgspec.json.decode(msgspec.json.encode(body))
                    item["metadata"]["resourceVersion"] = "1"
                    self.items[item["metadata"]["name"]] = item
                case Patch(metadata=metadata, body=body):
                    patch = msgspec.json.decode(msgspec.json.encode(body))
                    self.items[metadata.name] = merged(self.items[metadata.name], patch)
                case Delete(metadata=metadata):
                    del self.items[metadata.name]
        assert not self.plan(services, pods, **options)
        return writes

    @property
    def endpoints(self) -> list[Endpoint]:
        return [endpoint for slice_ in self.structs for endpoint in slice_.endpoints or ()]


def web(name: str = "web-1", ip: str = "10.0.0.1", **fields: Any) -> Pod:
    return pod(name, labels=WEB, ips=[ip] if ip else [], **fields)


def http(**spec: Any) -> Service:
    return service(
        "http", selector=WEB, **{"ports": [{"name": "http", "port": 80, "targetPort": 8080}], **spec}
    )


def test_a_slice_says_who_is_behind_a_service() -> None:
    slices = Slices()
    slices.settle([http()], [web(), pod("other", labels={"app": "db"}, ips=["10.0.0.9"])], nodes=ZONES)
    ((name, item),) = slices.items.items()
    assert name.startswith("http-")
    assert item == {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "resourceVersion": "1",
            "labels": {
                "kubernetes.io/service-name": "http",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"},
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": "http",
                    "uid": "uid-http",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.0.0.1"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-1", "uid": "uid-web-1"},
                "nodeName": "node-1",
                "zone": "east",
            }
        ],
        "ports": [{"name": "http", "port": 8080}],
    }


@pytest.mark.parametrize(
    ("fields", "publishes", "conditions"),
    [
        ({}, False, (True, True, False)),
        ({"is_ready": False}, False, (False, False, False)),
        ({"is_terminating": True}, False, (False, True, True)),
        ({"is_ready": False, "is_terminating": True}, False, (False, False, True)),
        ({"is_ready": False}, True, (True, False, False)),
        ({"phase": "Succeeded"}, False, None),
        ({"phase": "Failed"}, True, None),
        ({"ip": ""}, False, None),
    ],
)
def test_conditions(fields: Any, publishes: bool, conditions: tuple[bool, bool, bool] | None) -> None:
    slices = Slices()
    slices.settle([http(publishNotReadyAddresses=publishes)], [web(**fields)])
    found = [endpoint.conditions for endpoint in slices.endpoints]
    if conditions is None:
        assert found == []
    else:
        assert [(each.ready, each.serving, each.terminating) for each in found if each] == [conditions]


@pytest.mark.parametrize(
    "not_ours",
    [
        service("no-selector", ports=[{"port": 80}]),
        service("elsewhere", type="ExternalName", externalName="example.com", selector=WEB),
    ],
)
def test_some_services_have_no_slices_of_ours(not_ours: Service) -> None:
    assert not Slices().plan([not_ours], [web()])


def test_nobody_behind_a_service_is_one_empty_slice() -> None:
    slices = Slices()
    slices.settle([http()], [])
    assert [(slice_.endpoints, slice_.ports) for slice_ in slices.structs] == [([], [])]
    slices.settle([http()], [web()])
    assert len(slices.items) == len(slices.endpoints) == 1


def test_both_families_have_slices_of_their_own() -> None:
    slices = Slices()
    dual = pod("web-1", labels=WEB, ips=["10.0.0.1", "fd00::1"])
    slices.settle([http(ipFamilies=["IPv6", "IPv4"])], [dual])
    assert {
        slice_.address_type: slice_.endpoints[0].addresses for slice_ in slices.structs if slice_.endpoints
    } == {
        "IPv4": ["10.0.0.1"],
        "IPv6": ["fd00::1"],
    }


def test_a_headless_service_without_families_is_of_the_first() -> None:
    slices = Slices()
    slices.settle([http(clusterIP="None")], [web()])
    (slice_,) = slices.structs
    assert slice_.address_type == "IPv4"
    assert (slice_.metadata.labels or {})["service.kubernetes.io/headless"] == ""


def test_named_ports_are_each_pods_own() -> None:
    def with_port(number: int) -> Any:
        return [{"name": "main", "ports": [{"name": "web", "containerPort": number}]}]

    slices = Slices()
    slices.settle(
        [http(ports=[{"name": "http", "port": 80, "targetPort": "web"}])],
        [
            web("a", "10.0.0.1", containers=with_port(8080)),
            web("b", "10.0.0.2", containers=with_port(9090)),
            web("c", "10.0.0.3", containers=with_port(8080)),
            web("d", "10.0.0.4", containers=[{"name": "main"}]),
        ],
    )
    by_port = {
        tuple(port.port for port in slice_.ports or ()): sorted(
            endpoint.addresses[0] for endpoint in slice_.endpoints or ()
        )
        for slice_ in slices.structs
    }
    assert by_port == {(8080,): ["10.0.0.1", "10.0.0.3"], (9090,): ["10.0.0.2"], (): ["10.0.0.4"]}


def test_ports_without_a_target_are_the_services() -> None:
    slices = Slices()
    slices.settle([http(ports=[{"port": 53, "protocol": "UDP", "appProtocol": "dns"}])], [web()])
    assert [slice_.ports for slice_ in slices.structs] == [[EndpointPort(53, "", "UDP", "dns")]]


def test_a_host_name_is_said_to_the_service_that_is_its_subdomain() -> None:
    slices = Slices()
    slices.settle([http(), service("other", selector=WEB)], [web(hostname="db-0", subdomain="http")])
    assert {
        (slice_.metadata.labels or {})["kubernetes.io/service-name"]: [
            endpoint.hostname for endpoint in slice_.endpoints or ()
        ]
        for slice_ in slices.structs
    } == {"http": ["db-0"], "other": [None]}


@pytest.mark.parametrize(
    ("distribution", "zones", "nodes"),
    [
        (None, None, None),
        ("PreferClose", ["east"], None),
        ("PreferSameZone", ["east"], None),
        ("PreferSameNode", ["east"], ["node-1"]),
        ("Unheard", None, None),
    ],
)
def test_hints(distribution: str | None, zones: list[str] | None, nodes: list[str] | None) -> None:
    slices = Slices()
    slices.settle(
        [http(trafficDistribution=distribution)], [web(), web("b", "10.0.0.2", is_ready=False)], nodes=ZONES
    )
    ready, unready = slices.endpoints
    assert unready.hints is None
    if zones is None and nodes is None:
        assert ready.hints is None
    else:
        assert ready.hints is not None
        assert (zones and [hint.name for hint in ready.hints.for_zones or ()]) == zones
        assert [hint.name for hint in ready.hints.for_nodes or ()] == (nodes or [])


def test_slices_are_full_before_there_is_another_and_only_those_that_change_are_written() -> None:
    pods = [web(f"web-{number}", f"10.0.{number // 200}.{number % 200 + 1}") for number in range(250)]
    slices = Slices()
    assert len(slices.settle([http()], pods)) == 3
    assert sorted(len(slice_.endpoints or ()) for slice_ in slices.structs) == [50, 100, 100]
    pods[120] = web("web-120", "10.0.0.121", is_ready=False)
    (write,) = slices.settle([http()], pods)
    assert isinstance(write, Patch)
    del pods[5]
    (write,) = slices.settle([http()], [*pods, web("new", "10.0.9.9")])
    assert isinstance(write, Patch)
    assert len(write.body["endpoints"]) == MOST_ENDPOINTS
    (write,) = slices.settle([http()], [*pods, web("new", "10.0.9.9"), web("newer", "10.0.9.10")])
    assert isinstance(write, Patch)
    assert len(write.body["endpoints"]) == 51


def test_what_is_left_empty_goes_and_ports_change_without_a_gap() -> None:
    slices = Slices()
    slices.settle([http()], [web()])
    create, delete = slices.settle([http(ports=[{"name": "http", "port": 80, "targetPort": 9090}])], [web()])
    assert isinstance(create, Create)
    assert isinstance(delete, Delete)


def test_slices_of_a_service_that_is_gone_go_and_others_stay() -> None:
    slices = Slices()
    slices.settle([http()], [web()])
    (ours,) = slices.items
    slices.items["by-hand"] = {
        "metadata": {"name": "by-hand", "labels": {"kubernetes.io/service-name": "http"}},
        "addressType": "IPv4",
    }
    slices.settle([], [web()])
    assert slices.items.keys() == {"by-hand"}
    assert ours


def test_labels_follow_the_services() -> None:
    slices = Slices()
    slices.settle([http(metadata={"labels": {"team": "a"}})], [web()])
    (write,) = slices.settle([http(metadata={"labels": {"tier": "b"}})], [web()])
    assert isinstance(write, Patch)
    (slice_,) = slices.structs
    assert slice_.metadata.labels == {
        "tier": "b",
        "kubernetes.io/service-name": "http",
        "endpointslice.kubernetes.io/managed-by": OUR_NAME,
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"is_ready": False, "ready_since": START + timedelta(seconds=30)}, "2026-01-01T00:00:30Z"),
        (
            {
                "metadata": {
                    "deletionTimestamp": (START + timedelta(seconds=70)).isoformat(),
                    "deletionGracePeriodSeconds": 30,
                }
            },
            "2026-01-01T00:00:40Z",
        ),
    ],
)
def test_a_slice_says_when_it_became_due(change: Any, expected: str) -> None:
    slices = Slices()
    still = web("b", "10.0.0.2")
    slices.settle([http()], [web(), still])
    slices.settle([http()], [web(**change), still])
    assert [(slice_.metadata.annotations or {})[LAST_CHANGE] for slice_ in slices.structs] == [expected]


def test_nothing_is_due_before_the_service_was_there() -> None:
    slices = Slices()
    later = START + timedelta(hours=1)
    slices.settle([http(metadata={"creationTimestamp": later.isoformat()})], [web()])
    assert [(slice_.metadata.annotations or {})[LAST_CHANGE] for slice_ in slices.structs] == [
        "2026-01-01T01:00:00Z"
    ]


def test_no_time_is_said_of_pods_that_are_gone() -> None:
    slices = Slices()
    slices.settle([http()], [web(), web("b", "10.0.0.2")])
    slices.settle([http()], [web()])
    assert [slice_.metadata.annotations for slice_ in slices.structs] == [{}]


@settings(max_examples=30)
@given(st.lists(st.lists(st.tuples(st.integers(0, 250), st.booleans()), max_size=250), max_size=4))
def test_whatever_changes_each_pod_stands_in_one_slice(steps: list[list[tuple[int, bool]]]) -> None:
    slices = Slices()
    for step in steps:
        there = dict(step)
        pods = [web(f"web-{n}", f"10.1.0.{n + 1}", is_ready=ready) for n, ready in there.items()]
        slices.settle([http()], pods)
        stand = {
            endpoint.target_ref.name: endpoint.conditions.ready
            for endpoint in slices.endpoints
            if endpoint.target_ref and endpoint.conditions
        }
        assert stand == {each.metadata.name: each.is_ready for each in pods}
        assert len(slices.endpoints) == len(pods)
        assert all(len(slice_.endpoints or ()) <= MOST_ENDPOINTS for slice_ in slices.structs)
