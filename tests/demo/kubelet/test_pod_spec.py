"""What is read of a Pod, what is named as unsupported, and what a container's environment becomes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.demo.kubelet.objects import ADDRESSES, a_pod, pod_json
from userspace_proxy.demo.kubelet.environment import environment, expanded
from userspace_proxy.demo.kubelet.pod_spec import read_pod, unsupported_fields


def env_of(*variables: dict[str, Any], base: dict[str, str] | None = None) -> dict[str, str]:
    pod = a_pod(
        {"name": "web", "env": list(variables)},
        metadata={"labels": {"app": "web"}, "annotations": {"note": "hello"}},
    )
    return environment(pod, pod.spec.containers[0], ADDRESSES, "192.0.2.11", base or {})


def test_unset_fields_may_be_null() -> None:
    pod = read_pod(pod_json({"name": "web", "ports": None, "readinessProbe": None, "image": None}))
    assert pod.spec.containers[0].served_ports == [8080]
    assert pod.spec.termination_grace_period_seconds == 30


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"containers\[0\]\.ports\[0\]\.containerPort"):
        read_pod(pod_json({"name": "web", "ports": [{"containerPort": "http"}]}))
    with pytest.raises(msgspec.ValidationError, match="restartPolicy"):
        read_pod(pod_json(restartPolicy="Sometimes"))


def test_ports_are_served_once_each_and_found_by_name() -> None:
    ports = [
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "containerPort": 53},
        {"name": "http", "containerPort": 80},
    ]
    container = a_pod({"name": "web", "ports": ports}).spec.containers[0]
    assert container.served_ports == [53, 80]
    assert [container.port_number(port) for port in ("http", 8080, "https")] == [80, 8080, None]


@pytest.mark.parametrize(
    ("container", "named"),
    [
        ({}, []),
        ({"readinessProbe": {"exec": {"command": ["true"]}}}, []),
        ({"readinessProbe": {"grpc": {"port": 1}}}, ["readinessProbe (only tcpSocket, httpGet and exec)"]),
        ({"livenessProbe": {"httpGet": {"port": 1, "scheme": "HTTPS"}}}, ["livenessProbe.httpGet.scheme"]),
        ({"args": ["--help"]}, ["args (there is no command)"]),
        ({"args": ["--help"], "command": ["nginx"]}, []),
        ({"restartPolicy": "Always"}, []),
        ({"lifecycle": {"postStart": {"exec": {}}}}, ["lifecycle.postStart"]),
        ({"lifecycle": {"preStop": {"httpGet": {"port": 1}}}}, ["lifecycle.preStop (only exec and sleep)"]),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
            ["env[0].valueFrom.secretKeyRef"],
        ),
    ],
)
def test_fields_that_are_not_acted_on_are_named(container: dict[str, Any], named: list[str]) -> None:
    json = pod_json({"name": "web", **container})
    assert unsupported_fields(json) == [f"spec.containers[0].{name}" for name in named]


def test_fields_of_the_pod_itself_that_are_not_acted_on_are_named() -> None:
    json = pod_json(hostNetwork=True, readinessGates=[{"conditionType": "x"}], volumes=[{"name": "data"}])
    assert unsupported_fields(json) == ["spec.hostNetwork", "spec.readinessGates", "spec.volumes[0] (data)"]


def test_environment_knows_the_pod() -> None:
    paths = {
        "metadata.name": "web",
        "metadata.namespace": "default",
        "metadata.uid": "u-1",
        "metadata.labels['app']": "web",
        "metadata.annotations['note']": "hello",
        "spec.nodeName": "node-1",
        "status.podIP": "10.244.1.2",
        "status.podIPs": "10.244.1.2,fd00:10:244:1::2",
        "status.hostIP": "192.0.2.11",
        "status.unknown": "",
    }
    for path, value in paths.items():
        field = {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}
        assert env_of(field)["X"] == value, path


def test_variables_refer_to_those_before_them() -> None:
    found = env_of(
        {"name": "HOST", "value": "redis"},
        {"name": "URL", "value": "$(HOST):6379/$(NOBODY)/$$(HOST)$PATH"},
        base={"PATH": "/bin", "HOST": "no"},
    )
    assert found["URL"] == "redis:6379/$(NOBODY)/$(HOST)$PATH"
    assert (found["PATH"], found["HOSTNAME"]) == ("/bin", "web")
    assert expanded(["echo", "$(URL)"], {"URL": "x"}) == ["echo", "x"]
