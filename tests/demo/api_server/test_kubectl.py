"""What a user does with kubectl, the real one, from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded_api_server import EmbeddedApiServer

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: nginx, image: "nginx:1", ports: [{containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
"""

POD = """
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: c, image: x}]}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedApiServer]:
    with EmbeddedApiServer(tmp_path_factory.mktemp("cluster")) as server:
        yield server


@pytest.fixture
def namespace(cluster: EmbeddedApiServer, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own."""
    name: str = request.node.name.removeprefix("test_").replace("_", "-")[:63].rstrip("-")
    cluster.kubectl("create", "-f", "-", stdin=f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}")
    return name


def test_apply_compares_with_what_was_applied_before(cluster: EmbeddedApiServer, namespace: str) -> None:
    apply = ("apply", "-n", namespace, "-f", "-")
    assert cluster.kubectl(*apply, stdin=WEB) == "deployment.apps/web created\nservice/web created"
    assert cluster.kubectl(*apply, stdin=WEB) == "deployment.apps/web unchanged\nservice/web unchanged"
    cluster.kubectl("scale", "-n", namespace, "deployment/web", "--replicas=5")
    changed = WEB.replace("  replicas: 2\n", "").replace("port: 80,", "port: 81,")
    assert cluster.kubectl(*apply, stdin=changed) == "deployment.apps/web configured\nservice/web configured"
    ports = cluster.get("service", "web", "-n", namespace)["spec"]["ports"]
    assert ports == [{"name": "http", "port": 81, "protocol": "TCP", "targetPort": 8080}]


def test_a_port_that_cannot_be_is_refused_in_kubernetes_words(
    cluster: EmbeddedApiServer, namespace: str
) -> None:
    manifest = WEB.replace("port: 80,", "port: 70000,")
    said = cluster.kubectl("create", "-n", namespace, "-f", "-", stdin=manifest, fails=True)
    assert said == (
        'The Service "web" is invalid: spec.ports[0].port: Invalid value: 70000: must be between 1 and '
        "65535, inclusive"
    )


def test_logs(cluster: EmbeddedApiServer, namespace: str) -> None:
    cluster.kubectl("create", "-n", namespace, "-f", "-", stdin=POD)
    assert cluster.kubectl("logs", "-n", namespace, "p", "--tail=1") == "logs/p/c says 3"


def test_other_resources_are_named(cluster: EmbeddedApiServer, tmp_path: Path) -> None:
    said = cluster.kubectl("apply", "--server-side", "-f", "-", stdin=WEB, fails=True)
    assert "this API server does not do server-side apply: leave out --server-side" in said
