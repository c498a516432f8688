"""Decoding: a bad field costs what depends on it and nothing else, and no JSON whatever costs more."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.decoding import Decoded, convert, decode, describe
from userspace_proxy.core.objects import (
    ApiObject,
    ClientIPConfig,
    EndpointSlice,
    LoadBalancerIngress,
    Node,
    Service,
    ServicePortSpec,
    SessionAffinityConfig,
)

SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "u-1",
        "labels": {"app": "web"},
        "annotations": {"note": "x"},
        "managedFields": [{"manager": "kubectl"}],
    },
    "spec": {
        "type": "ClusterIP",
        "clusterIP": "10.96.0.1",
        "clusterIPs": ["10.96.0.1", "fd00::1"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ports": [
            {"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"},
            {"name": "dns", "port": 53, "nodePort": 30053, "protocol": "UDP"},
        ],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}},
        "internalTrafficPolicy": "Cluster",
    },
    "status": {"loadBalancer": {}},
}
SLICE: dict[str, Any] = {
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "endpoints": [
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "node-1"}]},
            "nodeName": "node-1",
            "zone": "a",
        },
        {"addresses": ["10.0.0.2"]},
    ],
    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353}],
}
NODE: dict[str, Any] = {
    "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "a"}},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
}
EXAMPLES: list[tuple[type[ApiObject], dict[str, Any]]] = [
    (Service, SERVICE),
    (EndpointSlice, SLICE),
    (Node, NODE),
]
ABSENT = object()


def with_field(value: Any, path: tuple[str | int, ...], replacement: object) -> Any:
    """A copy of `value` with one field replaced, or (ABSENT) without it."""
    changed = copy.deepcopy(value)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    if replacement is ABSENT:
        del holder[path[-1]]
    else:
        holder[path[-1]] = replacement
    return changed


def named(decoded: Decoded[Any]) -> list[tuple[str, str]]:
    return [(problem.field, problem.reason) for problem in decoded.problems]


def decode_both_ways(struct: type[ApiObject], value: object) -> Any:
    """Decoded from JSON, after making sure that converting says the same."""
    decoded = decode(struct, json.dumps(value).encode(), "here")
    assert convert(struct, value, "here") == decoded
    return decoded


def test_a_good_object_is_read_whole() -> None:
    decoded = decode_both_ways(Service, SERVICE)
    assert not decoded.problems
    service = decoded.object
    assert (service.metadata.namespace, service.metadata.name) == ("shop", "web")
    assert service.spec.cluster_ips == ["10.96.0.1", "fd00::1"]
    assert service.spec.ports == [
        ServicePortSpec(name="http", port=80, protocol="TCP"),
        ServicePortSpec(name="dns", port=53, protocol="UDP", node_port=30053),
    ]
    assert service.spec.session_affinity_config == SessionAffinityConfig(ClientIPConfig(7))


@pytest.mark.parametrize(
    ("path", "value", "field", "reason"),
    [
        (("spec", "ports", 1, "port"), "x", "spec.ports[1].port", "'x' is not an integer"),
        (("spec", "ports", 1, "port"), ABSENT, "spec.ports[1].port", "is missing"),
        (("spec", "ports", 1, "port"), None, "spec.ports[1].port", "is missing"),
        (("spec", "ports", 1, "port"), True, "spec.ports[1].port", "true is not an integer"),
        (("spec", "ports", 1, "port"), 80.5, "spec.ports[1].port", "80.5 is not an integer"),
        (("spec", "ports", 1, "port"), 2**31, "spec.ports[1].port", "2147483648 is not a 32-bit integer"),
        (("spec", "ports", 1, "name"), 5, "spec.ports[1].name", "5 is not a string"),
        (("spec", "ports", 1, "protocol"), [], "spec.ports[1].protocol", "a list is not a string"),
        (("spec", "ports", 1), "80", "spec.ports[1]", "'80' is not an object"),
        (("spec", "ports", 1), None, "spec.ports[1]", "null is not an object"),
    ],
)
def test_a_bad_service_port_is_lost_alone(path: Any, value: object, field: str, reason: str) -> None:
    decoded = decode_both_ways(Service, with_field(SERVICE, path, value))
    assert named(decoded) == [(field, reason)]
    assert [port.name for port in decoded.object.spec.ports] == ["http"]


@pytest.mark.parametrize(
    ("ingress", "problem", "kept"),
    [
        ({"ip": 7}, ("ip", "7 is not a string"), [LoadBalancerIngress()]),
        ({"ip": "203.0.113.1", "ipMode": 7}, ("ipMode", "7 is not a string"), []),
    ],
)
def test_an_ingress_address_whose_mode_is_unreadable_is_lost(
    ingress: object, problem: tuple[str, str], kept: list[LoadBalancerIngress]
) -> None:
    others = {"ip": "203.0.113.2"}
    status = {"loadBalancer": {"ingress": [ingress, others]}}
    decoded = decode_both_ways(Service, {**SERVICE, "status": status})
    field, reason = problem
    assert named(decoded) == [(f"status.loadBalancer.ingress[0].{field}", reason)]
    assert decoded.object.status.load_balancer.ingress == [*kept, LoadBalancerIngress("203.0.113.2")]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "ipFamilies"), 7),
        (("spec", "ports", 0, "targetPort"), []),
        (("metadata", "generation"), "x"),
        (("metadata", "resourceVersion"), {}),
    ],
)
def test_a_field_that_nobody_reads_is_not_looked_at(path: Any, value: object) -> None:
    decoded = decode_both_ways(Service, with_field(SERVICE, path, value))
    assert decoded == decode_both_ways(Service, SERVICE)


@pytest.mark.parametrize("ranges", ["192.0.2.0/24", 7, {}, ["192.0.2.0/24", 7], [None], False])
def test_source_ranges_are_left_to_who_fails_closed(ranges: object) -> None:
    spec = {**SERVICE["spec"], "loadBalancerSourceRanges": ranges}
    decoded = decode_both_ways(Service, {**SERVICE, "spec": spec})
    assert not decoded.problems
    assert decoded.object.spec.load_balancer_source_ranges == ranges


@pytest.mark.parametrize(
    ("path", "value", "field", "reason"),
    [
        (("spec", "ports", 1, "nodePort"), "x", "spec.ports[1].nodePort", "'x' is not an integer"),
        (("spec", "ports"), {}, "spec.ports", "an object is not a list"),
        (("spec", "clusterIP"), 10, "spec.clusterIP", "10 is not a string"),
        (("spec", "clusterIPs", 0), 10, "spec.clusterIPs[0]", "10 is not a string"),
        (("spec", "clusterIPs", 1), None, "spec.clusterIPs[1]", "null is not a string"),
        (("spec", "sessionAffinity"), {}, "spec.sessionAffinity", "an object is not a string"),
        (("spec", "sessionAffinityConfig"), 1, "spec.sessionAffinityConfig", "1 is not an object"),
        (("metadata", "uid"), 1, "metadata.uid", "1 is not a string"),
        (("metadata", "annotations"), [1], "metadata.annotations", "a list is not an object"),
    ],
)
def test_a_bad_field_that_can_be_absent_counts_as_absent(
    path: Any, value: object, field: str, reason: str
) -> None:
    decoded = decode_both_ways(Service, with_field(SERVICE, path, value))
    assert named(decoded) == [(field, reason)]
    # A list of plain values is told apart by position, so it goes as a whole.
    lost = path[:-1] if isinstance(path[-1], int) else path
    assert (
        decoded.object == decode(Service, json.dumps(with_field(SERVICE, lost, ABSENT)).encode(), "").object
    )


@pytest.mark.parametrize(
    ("path", "value", "field", "reason"),
    [
        (("conditions", "ready"), "yes", ".conditions.ready", "'yes' is not a boolean"),
        (("conditions", "terminating"), 1, ".conditions.terminating", "1 is not a boolean"),
        (("conditions",), "ready", ".conditions", "'ready' is not an object"),
        (("addresses",), ABSENT, ".addresses", "is missing"),
        (("addresses",), [7, "10.0.0.9"], ".addresses[0]", "7 is not a string"),
        ((), 7, "", "7 is not an object"),
    ],
)
def test_a_bad_endpoint_is_lost_alone(path: Any, value: object, field: str, reason: str) -> None:
    decoded = decode_both_ways(EndpointSlice, with_field(SLICE, ("endpoints", 0, *path), value))
    assert named(decoded) == [("endpoints[0]" + field, reason)]
    assert [endpoint.addresses for endpoint in decoded.object.endpoints] == [["10.0.0.2"]]
    assert len(decoded.object.ports) == 2


def test_the_rest_of_an_endpoint_survives_a_bad_hint() -> None:
    decoded = decode_both_ways(EndpointSlice, with_field(SLICE, ("endpoints", 0, "hints"), "zone a"))
    assert named(decoded) == [("endpoints[0].hints", "'zone a' is not an object")]
    assert decoded.object.endpoints[0].conditions.ready is True
    assert decoded.object.endpoints[0].hints is None


@pytest.mark.parametrize("key", ["name", "port", "protocol"])
def test_a_bad_endpoint_port_is_lost_alone(key: str) -> None:
    decoded = decode_both_ways(EndpointSlice, with_field(SLICE, ("ports", 0, key), {}))
    assert [problem.field for problem in decoded.problems] == [f"ports[0].{key}"]
    assert [port.name for port in decoded.object.ports] == ["dns"]


@pytest.mark.parametrize(
    ("path", "value", "field", "reason"),
    [
        (("metadata",), ABSENT, "metadata", "is missing"),
        (("metadata",), "web", "metadata", "'web' is not an object"),
        (("metadata", "name"), ABSENT, "metadata.name", "is missing"),
        (("metadata", "name"), 5, "metadata.name", "5 is not a string"),
        (("metadata", "name"), "", "metadata.name", "'' is not a DNS name"),
        (("metadata", "name"), "-A a\n-X", "metadata.name", r"'-A a\n-X' is not a DNS name"),
        (("metadata", "name"), "a" * 254, "metadata.name", f"{'a' * 60!r}… is not a DNS name"),
        (("metadata", "namespace"), 5, "metadata.namespace", "5 is not a string"),
        (("metadata", "namespace"), "Shop", "metadata.namespace", "'Shop' is not a DNS name"),
        (("metadata", "labels"), ["a"], "metadata.labels", "a list is not an object"),
        (("spec",), 5, "spec", "5 is not an object"),
        (("spec", "type"), 5, "spec.type", "5 is not a string"),
        (("spec", "internalTrafficPolicy"), 5, "spec.internalTrafficPolicy", "5 is not a string"),
    ],
)
def test_an_object_is_lost_where_the_rest_could_mean_anything(
    path: Any, value: object, field: str, reason: str
) -> None:
    decoded = decode_both_ways(Service, with_field(SERVICE, path, value))
    assert decoded.object is None
    assert named(decoded) == [(field, reason)]


def test_a_label_that_is_no_string_keeps_its_key() -> None:
    labels = {"service.kubernetes.io/headless": True, "version": 1.5, "app": "web", "none": None}
    decoded = decode_both_ways(Service, with_field(SERVICE, ("metadata", "labels"), labels))
    assert decoded.object.metadata.labels == {**dict.fromkeys(labels, ""), "app": "web"}
    assert named(decoded) == [
        ("metadata.labels['service.kubernetes.io/headless']", "true is not a string"),
        ("metadata.labels['version']", "1.5 is not a string"),
    ]


def test_an_annotation_that_is_no_string_is_as_good_as_absent_and_one_that_is_null_is_empty() -> None:
    annotations = {"userspace-proxy.io/max-connections": 1000, "note": "x", "none": None}
    decoded = decode_both_ways(Service, with_field(SERVICE, ("metadata", "annotations"), annotations))
    assert decoded.object.metadata.annotations == {"note": "x", "none": ""}
    assert named(decoded) == [
        ("metadata.annotations['userspace-proxy.io/max-connections']", "1000 is not a string")
    ]


def test_a_label_whose_key_is_no_string_is_lost() -> None:
    decoded = convert(Service, with_field(SERVICE, ("metadata", "labels"), {1: "a", "b": "c"}), "here")
    assert decoded.object is not None
    assert decoded.object.metadata.labels == {"b": "c"}
    assert named(decoded) == [("metadata.labels", "the key 1 is not a string")]


@pytest.mark.parametrize(
    ("path", "equal_path"),
    [
        (("spec",), ("spec",)),
        (("spec", "ports"), ("spec", "ports")),
        (("spec", "ports", 0, "name"), ("spec", "ports", 0, "name")),
        (("metadata", "labels"), ("metadata", "labels")),
        (("metadata", "namespace"), ("metadata", "namespace")),
        (("metadata", "uid"), ("metadata", "uid")),
    ],
)
def test_null_is_absent(path: Any, equal_path: Any) -> None:
    decoded = decode_both_ways(Service, with_field(SERVICE, path, None))
    assert not decoded.problems
    assert decoded.object == decode_both_ways(Service, with_field(SERVICE, equal_path, ABSENT)).object


def test_every_bad_field_is_named() -> None:
    broken = with_field(SERVICE, ("spec", "ports"), [{"port": "a"}, {"port": 80}, {"port": "b"}])
    broken["metadata"]["uid"] = 1
    decoded = decode_both_ways(Service, broken)
    assert [problem.field for problem in decoded.problems] == [
        "metadata.uid",
        "spec.ports[0].port",
        "spec.ports[2].port",
    ]
    assert str(decoded.problems[1]) == "here: Service shop/web: spec.ports[0].port: 'a' is not an integer"
    assert decoded.object.spec.ports == [ServicePortSpec(port=80)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b'{"metadata": {"name": "a"}',
        b'{"metadata": {"name": "\xff"}}',
        b'{"metadata": {"name": 1}, "spec": "\xff"}',
        b'{"metadata": {"name": "a"}, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"metadata": {"name": "a"}, "spec": {"ports": [{"port": ' + b"9" * 5000 + b"}]}}",
    ],
)
def test_what_is_no_json_is_named(data: bytes) -> None:
    decoded = decode(Service, data, "here")
    assert decoded.object is None
    assert [problem.origin for problem in decoded.problems] == ["here"]


@pytest.mark.parametrize("value", [None, [], "text", 5, {}])
def test_what_is_no_object_is_named(value: object) -> None:
    decoded = decode_both_ways(Service, value)
    assert decoded.object is None
    assert len(decoded.problems) == 1


def test_a_raw_part_of_a_list_decodes() -> None:
    (raw,) = msgspec.json.decode(json.dumps([NODE]).encode(), type=list[msgspec.Raw])
    assert decode(Node, raw, "here").object == decode_both_ways(Node, NODE).object


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10**30, "a number of more than 64 bits"),
        ({1}, "a set"),
        ("x" * 61, f"{'x' * 60!r}…"),
        ("\n", r"'\n'"),
    ],
)
def test_descriptions_are_short_and_printable(value: object, text: str) -> None:
    assert describe(value) == text


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def paths_of(value: object, so_far: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where anything stands in a JSON value."""
    steps: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        steps = list(value.items())
    elif isinstance(value, list):
        steps = list(enumerate(value))
    return [path for step, inner in steps for path in ((*so_far, step), *paths_of(inner, (*so_far, step)))]


@st.composite
def broken_objects(draw: st.DrawFn) -> tuple[type[ApiObject], Any]:
    """An object of which one to three parts were replaced by any JSON."""
    struct, value = draw(st.sampled_from(EXAMPLES))
    for _ in range(draw(st.integers(1, 3))):
        if paths := paths_of(value):
            value = with_field(value, draw(st.sampled_from(paths)), draw(json_values | st.just(ABSENT)))
    return struct, value


@given(broken_objects())
def test_whatever_is_broken_is_either_ignored_or_named(broken: tuple[type[ApiObject], Any]) -> None:
    struct, value = broken
    decoded = decode_both_ways(struct, value)
    if decoded.object is None:
        assert decoded.problems
    else:
        # What is left is as good as if nothing had been wrong.
        assert decode(struct, msgspec.json.encode(decoded.object), "") == Decoded(decoded.object)
    assert all("\n" not in str(problem) and len(str(problem)) < 1000 for problem in decoded.problems)


@given(json_values)
def test_any_json_is_survived(value: object) -> None:
    for struct, _ in EXAMPLES:
        decode_both_ways(struct, value)


@given(st.binary(max_size=64))
def test_any_bytes_are_survived(data: bytes) -> None:
    for struct, _ in EXAMPLES:
        decode(struct, data, "here")


@given(json_values)
def test_the_first_port_survives_whatever_the_second_is(value: object) -> None:
    decoded = decode_both_ways(Service, with_field(SERVICE, ("spec", "ports", 1), value))
    assert decoded.object.spec.ports[0] == ServicePortSpec(name="http", port=80, protocol="TCP")
