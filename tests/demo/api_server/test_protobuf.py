"""Objects in protobuf, as kubectl's create commands send them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.demo.api_server.protobuf import ProtobufError, decode


def number(value: int) -> bytes:
    value &= 2**64 - 1
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(at: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return number(at << 3) + number(value)
    content = value.encode() if isinstance(value, str) else value
    return number(at << 3 | 2) + number(len(content)) + content


def enveloped(kind: str, body: bytes, version: str = "v1") -> bytes:
    return b"k8s\x00" + field(1, field(1, version) + field(2, kind)) + field(2, body) + field(3, "")


def test_a_service() -> None:
    metadata = (
        field(1, "web")
        + field(11, field(1, "app") + field(2, "web"))
        + field(8, field(1, 1_700_000_000) + field(2, 0))
        + field(9, b"")
    )
    port = field(1, "http") + field(2, "TCP") + field(3, 80) + field(4, field(1, 0) + field(2, 8080))
    named = field(3, 81) + field(4, field(1, 1) + field(3, "web")) + field(5, 0)
    spec = field(1, port) + field(1, named) + field(13, 0) + field(20, 0) + field(99, "of a later release")
    assert decode(enveloped("Service", field(1, metadata) + field(2, spec)), "core.v1.Service") == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "web",
            "labels": {"app": "web"},
            "creationTimestamp": "2023-11-14T22:13:20Z",
            "deletionTimestamp": None,
        },
        "spec": {
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080},
                {"port": 81, "targetPort": "web", "nodePort": 0},
            ],
            "publishNotReadyAddresses": False,
            "allocateLoadBalancerNodePorts": False,
        },
    }


def test_an_embedded_structs_fields_stand_among_the_others() -> None:
    probe = field(1, field(3, field(1, field(1, 0) + field(2, 8080)))) + field(4, 5)
    container = (
        field(1, "c")
        + field(11, probe)
        + field(8, field(1, field(1, "cpu") + field(2, field(1, "100m"))))
        + field(3, "sleep")
        + field(3, "9")
    )
    pod = decode(enveloped("Pod", field(2, field(2, container) + field(4, -1))), "core.v1.Pod")
    assert pod["spec"] == {
        "containers": [
            {
                "name": "c",
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 5},
                "resources": {"limits": {"cpu": "100m"}},
                "command": ["sleep", "9"],
            }
        ],
        "terminationGracePeriodSeconds": -1,
    }


def test_times_have_microseconds_where_they_are_said() -> None:
    spec = field(4, field(1, 1_700_000_000) + field(2, 5_000))
    lease = decode(enveloped("Lease", field(2, spec), "coordination.k8s.io/v1"), "coordination.v1.Lease")
    assert lease["spec"] == {"renewTime": "2023-11-14T22:13:20.000005Z"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"k8s\x00\x0a",
        b"k8s\x00\x0a\xff",
        b"k8s\x00" + b"\xff" * 20,
        b"k8s\x00" + number(1 << 3 | 5) + b"abcd",
        b"k8s\x00" + field(1, 5),
        enveloped("Service", field(1, 7)),
        enveloped("Service", field(1, field(1, b"\xff"))),
        enveloped("Service", field(1, field(8, field(1, 2**62)))),
    ],
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ProtobufError):
        decode(body, "core.v1.Service")


@given(st.binary())
def test_nonsense_is_refused_or_read(rest: bytes) -> None:
    with suppress(ProtobufError):
        decode(b"k8s\x00" + field(2, rest), "core.v1.Pod")
