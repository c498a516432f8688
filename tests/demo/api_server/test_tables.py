"""What `kubectl get` shows of each kind."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from userspace_proxy.demo.api_server.cells import duration, label_selector_text, shortened, since
from userspace_proxy.demo.api_server.kinds import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    EVENTS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    RESOURCES,
    SERVICES,
    Resource,
)
from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.demo.api_server.tables import cells_of, columns_of

NOW = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)
AN_HOUR_AGO = "2026-11-29T11:00:00Z"


def item(metadata: Object | None = None, **rest: Any) -> Object:
    return {"metadata": {"name": "x", "creationTimestamp": AN_HOUR_AGO, **(metadata or {})}, **rest}


def service(**spec: Any) -> Object:
    return item(spec=spec)


def running(**fields: Any) -> Object:
    return {"ready": True, "restartCount": 0, "state": {"running": {}}, **fields}


def pod(
    *statuses: Object, metadata: Object | None = None, spec: Object | None = None, **status: Any
) -> Object:
    containers = [{"name": f"c{index}"} for index in range(max(1, len(statuses)))]
    return item(
        metadata,
        spec={"containers": containers, **(spec or {})},
        status={"phase": "Running", "containerStatuses": list(statuses), **status},
    )


@pytest.mark.parametrize(
    ("resource", "shown", "cells"),
    [
        (
            SERVICES,
            service(type="ClusterIP", clusterIP="10.96.0.1", ports=[{"port": 80, "protocol": "TCP"}]),
            ["x", "ClusterIP", "10.96.0.1", "<none>", "80/TCP", "60m", "<none>"],
        ),
        (
            SERVICES,
            service(
                type="NodePort",
                clusterIP="10.96.0.1",
                externalIPs=["192.0.2.1", "192.0.2.2"],
                ports=[{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
                selector={"b": "2", "a": "1"},
            ),
            ["x", "NodePort", "10.96.0.1", "192.0.2.1,192.0.2.2", "80:30080/TCP,53/UDP", "60m", "a=1,b=2"],
        ),
        (
            SERVICES,
            service(type="ExternalName", externalName="example.com"),
            ["x", "ExternalName", "<none>", "example.com", "<none>", "60m", "<none>"],
        ),
        (
            SERVICES,
            service(type="LoadBalancer", clusterIP="10.96.0.1"),
            ["x", "LoadBalancer", "10.96.0.1", "<pending>", "<none>", "60m", "<none>"],
        ),
        (
            SERVICES,
            service(type="LoadBalancer", clusterIP="10.96.0.1")
            | {
                "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"hostname": "lb.example.com"}]}}
            },
            ["x", "LoadBalancer", "10.96.0.1", "192.0.2.9,lb.example.com", "<none>", "60m", "<none>"],
        ),
        (
            DEPLOYMENTS,
            item(
                spec={
                    "replicas": 3,
                    "selector": {"matchLabels": {"app": "web"}},
                    "template": {
                        "spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "j"}]}
                    },
                },
                status={"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1},
            ),
            ["x", "2/3", 3, 1, "60m", "c,d", "i,j", "app=web"],
        ),
        (
            ENDPOINTS,
            item(
                subsets=[
                    {
                        "addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                        "ports": [{"port": 80}, {"port": 81}],
                    }
                ]
            ),
            ["x", "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more...", "60m"],
        ),
        (ENDPOINTS, item(), ["x", "<none>", "60m"]),
        (ENDPOINTS, item(subsets=[{"addresses": [{"ip": "10.0.0.1"}]}]), ["x", "10.0.0.1", "60m"]),
        (
            ENDPOINT_SLICES,
            item(
                addressType="IPv4",
                ports=[{"port": 80}, {}],
                endpoints=[{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
            ),
            ["x", "IPv4", "80,*", "10.0.0.1,10.0.0.2", "60m"],
        ),
        (ENDPOINT_SLICES, item(addressType="IPv6"), ["x", "IPv6", "<unset>", "<unset>", "60m"]),
        (NAMESPACES, item(status={"phase": "Active"}), ["x", "Active", "60m"]),
        (LEASES, item(spec={"holderIdentity": "node-1"}), ["x", "node-1", "60m"]),
        (
            NODES,
            item(
                {"labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}},
                spec={"unschedulable": True},
                status={
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "addresses": [
                        {"type": "InternalIP", "address": "10.0.0.1"},
                        {"type": "InternalIP", "address": "fd00::1"},
                    ],
                    "nodeInfo": {"kubeletVersion": "v1", "osImage": "Debian", "kernelVersion": "6.1"},
                },
            ),
            [
                *("x", "Ready,SchedulingDisabled", "edge,worker", "60m", "v1"),
                *("10.0.0.1", "<none>", "Debian", "6.1", "<unknown>"),
            ],
        ),
        (
            NODES,
            item(status={"conditions": [{"type": "Ready", "status": "Unknown"}]}),
            ["x", "Unknown", "<none>", "60m", "", "<none>", "<none>", "<unknown>", "<unknown>", "<unknown>"],
        ),
        (
            EVENTS,
            item(
                involvedObject={"kind": "Pod", "name": "web-1", "fieldPath": "spec"},
                type="Normal",
                reason="Started",
                message="it began\n",
                source={"component": "kubelet", "host": "node-1"},
                firstTimestamp=AN_HOUR_AGO,
                lastTimestamp="2026-11-29T11:59:00Z",
                count=3,
            ),
            ["60s", "Normal", "Started", "pod/web-1", "it began", "spec", "kubelet, node-1", "60m", 3, "x"],
        ),
        (
            EVENTS,
            item(
                involvedObject={"kind": "Node", "name": "node-1"},
                eventTime="2026-11-29T11:58:00.000001Z",
                series={"count": 5, "lastObservedTime": "2026-11-29T11:59:30.000000Z"},
                reportingComponent="agent",
                reportingInstance="node-1",
            ),
            ["30s", "", "", "node/node-1", "", "", "agent, node-1", "119s", 5, "x"],
        ),
        (
            PODS,
            pod(running(), {**running(), "ready": False}, podIP="10.0.0.1", spec={"nodeName": "node-1"}),
            ["x", "1/2", "Running", "0", "60m", "10.0.0.1", "node-1", "<none>", "<none>"],
        ),
    ],
)
def test_cells(resource: Resource, shown: Object, cells: list[Any]) -> None:
    assert cells_of(resource, shown, NOW) == cells


def terminated(**fields: Any) -> Object:
    return {"ready": False, "restartCount": 1, "state": {"terminated": fields}}


def initializing(*statuses: Object) -> Object:
    """A pod with an init container and a sidecar."""
    spec = {"initContainers": [{"name": "first"}, {"name": "side", "restartPolicy": "Always"}]}
    return pod(spec=spec, phase="Pending", initContainerStatuses=list(statuses))


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (pod(phase="Pending"), "Pending"),
        (pod(reason="Evicted"), "Evicted"),
        (pod({"ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}), "CrashLoopBackOff"),
        (pod(terminated(reason="Completed", exitCode=0)), "Completed"),
        (pod(terminated(exitCode=2)), "ExitCode:2"),
        (pod(terminated(signal=9)), "Signal:9"),
        (pod(terminated(reason="Completed"), running()), "NotReady"),
        (
            pod(terminated(reason="Completed"), running(), conditions=[{"type": "Ready", "status": "True"}]),
            "Running",
        ),
        (initializing({"state": {"running": {}}}), "Init:0/2"),
        (initializing({"state": {"waiting": {"reason": "PodInitializing"}}}), "Init:0/2"),
        (initializing({"state": {"waiting": {"reason": "CrashLoopBackOff"}}}), "Init:CrashLoopBackOff"),
        (initializing({"state": {"terminated": {"exitCode": 0}}}, {"state": {"waiting": {}}}), "Init:1/2"),
        (initializing({"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}), "Init:Error"),
        (initializing({"state": {"terminated": {"exitCode": 3}}}), "Init:ExitCode:3"),
        (initializing({"state": {"running": {}}, "name": "side", "started": True}), "Pending"),
        (pod(running(), metadata={"deletionTimestamp": AN_HOUR_AGO}), "Terminating"),
        (pod(reason="NodeLost", metadata={"deletionTimestamp": AN_HOUR_AGO}), "Unknown"),
    ],
)
def test_what_is_said_of_a_pod(shown: Object, reason: str) -> None:
    assert cells_of(PODS, shown, NOW)[2] == reason


def test_restarts_say_when() -> None:
    last = {"lastState": {"terminated": {"finishedAt": "2026-11-29T11:55:00Z"}}}
    assert cells_of(PODS, pod(running(restartCount=2, **last)), NOW)[3] == "2 (5m ago)"


def test_sidecars_count_as_containers() -> None:
    shown = initializing({"name": "side", "ready": True, "restartCount": 2, "state": {"running": {}}})
    assert cells_of(PODS, shown, NOW)[1:4] == ["1/2", "Init:0/2", "2"]


def test_readiness_gates_are_counted() -> None:
    gates = {"readinessGates": [{"conditionType": "a"}, {"conditionType": "b"}]}
    shown = pod(running(), spec=gates, conditions=[{"type": "a", "status": "True"}])
    assert cells_of(PODS, shown, NOW)[8] == "1/2"


def test_each_kind_has_a_cell_for_each_column_and_one_that_is_its_name() -> None:
    for resource in RESOURCES:
        columns = columns_of(resource)
        assert len(cells_of(resource, item(), NOW)) == len(columns)
        assert [column["format"] for column in columns].count("name") == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0s"),
        (119, "119s"),
        (120, "2m"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (7 * 3600 + 1800, "7h30m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (7 * 86400 + 3600, "7d1h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (731 * 86400, "2y1d"),
        (9 * 365 * 86400, "9y"),
    ],
)
def test_durations(seconds: int, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize("text", [None, "", "yesterday"])
def test_what_has_no_time_is_unknown(text: str | None) -> None:
    assert since(text, NOW) == "<unknown>"


def test_selectors_are_written_as_one_types_them() -> None:
    expressions = [
        {"key": "a", "operator": "In", "values": ["1", "2"]},
        {"key": "b", "operator": "NotIn", "values": ["3"]},
        {"key": "c", "operator": "Exists"},
        {"key": "d", "operator": "DoesNotExist"},
    ]
    selector = {"matchLabels": {"app": "web"}, "matchExpressions": expressions}
    assert label_selector_text(selector) == "app=web,a in (1,2),b notin (3),c,!d"


def test_long_lists_are_cut_short() -> None:
    assert shortened([], "-") == "-"
    assert shortened(["a", "b", "c"], "-") == "a,b,c"
    assert shortened(["a", "b", "c", "d"], "-") == "a,b,c + 1 more..."
