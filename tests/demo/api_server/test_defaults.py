"""What is meant where nothing is said."""

from __future__ import annotations

from typing import Any

import pytest

from userspace_proxy.demo.api_server.defaults import put_defaults
from userspace_proxy.demo.api_server.kinds import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    NAMESPACES,
    PODS,
    SERVICES,
)
from userspace_proxy.demo.api_server.objects import Object


def service(**spec: Any) -> Any:
    item: Object = {"metadata": {"name": "web"}, "spec": spec}
    put_defaults(SERVICES, item)
    return item["spec"]


def test_a_service() -> None:
    assert service(ports=[{"port": 80}, {"port": 81, "targetPort": "web", "protocol": "UDP"}]) == {
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ports": [
            {"port": 80, "protocol": "TCP", "targetPort": 80},
            {"port": 81, "protocol": "UDP", "targetPort": "web"},
        ],
    }


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        ({"type": "NodePort"}, "externalTrafficPolicy", "Cluster"),
        ({"externalIPs": ["192.0.2.1"]}, "externalTrafficPolicy", "Cluster"),
        ({"type": "LoadBalancer"}, "allocateLoadBalancerNodePorts", True),
        ({"sessionAffinity": "ClientIP"}, "sessionAffinityConfig", {"clientIP": {"timeoutSeconds": 10800}}),
        ({"sessionAffinityConfig": {"clientIP": {}}}, "sessionAffinityConfig", None),
        ({"type": "ExternalName"}, "internalTrafficPolicy", None),
    ],
)
def test_services_by_type(spec: Object, field: str, value: object) -> None:
    assert service(**spec).get(field) == value


def pod(*containers: Object) -> Object:
    item: Object = {"metadata": {"name": "p"}, "spec": {"containers": list(containers)}}
    put_defaults(PODS, item)
    return item


def test_a_pod() -> None:
    item = pod(
        {"name": "c", "image": "nginx", "ports": [{"containerPort": 1}], "readinessProbe": {"httpGet": {}}}
    )
    assert item["spec"] == {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "containers": [
            {
                "name": "c",
                "image": "nginx",
                "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "resources": {},
                "ports": [{"containerPort": 1, "protocol": "TCP"}],
                "readinessProbe": {
                    "httpGet": {"path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1,
                    "periodSeconds": 10,
                    "successThreshold": 1,
                    "failureThreshold": 3,
                },
            }
        ],
    }
    assert item["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("registry.example.com:5000/nginx", "Always"),
        ("registry.example.com:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:0", "IfNotPresent"),
    ],
)
def test_an_image_without_a_fixed_tag_is_pulled_always(image: str, policy: str) -> None:
    assert pod({"name": "c", "image": image})["spec"]["containers"][0]["imagePullPolicy"] == policy


@pytest.mark.parametrize(
    ("resources", "quality"),
    [
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1"}}, "Burstable"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_quality_of_service(resources: Object, quality: str) -> None:
    assert pod({"name": "c", "resources": resources})["status"]["qosClass"] == quality


def test_a_deployment() -> None:
    item: Object = {
        "metadata": {"name": "web"},
        "spec": {"selector": {}, "template": {"spec": {"containers": []}}},
    }
    put_defaults(DEPLOYMENTS, item)
    spec = item["spec"]
    assert (spec["replicas"], spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (1, 10, 600)
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"},
    }
    assert spec["template"]["spec"]["restartPolicy"] == "Always"


def test_slices_endpoints_and_namespaces() -> None:
    item: Object = {"metadata": {"name": "a"}, "ports": [{"port": 80}]}
    put_defaults(ENDPOINT_SLICES, item)
    assert (item["endpoints"], item["ports"]) == ([], [{"name": "", "port": 80, "protocol": "TCP"}])
    item = {"metadata": {"name": "a"}, "subsets": [{"ports": [{"port": 80}]}]}
    put_defaults(ENDPOINTS, item)
    assert item["subsets"] == [{"ports": [{"port": 80, "protocol": "TCP"}]}]
    item = {"metadata": {"name": "a"}}
    put_defaults(NAMESPACES, item)
    assert item["metadata"]["labels"] == {"kubernetes.io/metadata.name": "a"}
    assert item["status"] == {"phase": "Active"}
