"""What a user does with kubectl, the real one, from end to end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.embedded_api_server import SECONDS, EmbeddedApiServer
from tests.support.waiting import wait_until

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
metadata: {name: p, labels: {app: p}}
spec: {containers: [{name: c, image: x}]}
"""

EVENT = """
apiVersion: v1
kind: Event
metadata: {{name: p.1}}
involvedObject: {{kind: Pod, name: p, namespace: {namespace}, uid: {uid}}}
type: Normal
reason: Scheduled
message: it runs on node-1
lastTimestamp: "2026-11-29T12:00:00Z"
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedApiServer]:
    with EmbeddedApiServer(tmp_path_factory.mktemp("cluster")) as server:
        yield server


class Kubectl:
    """kubectl in a namespace of the test's own."""

    def __init__(self, cluster: EmbeddedApiServer, namespace: str) -> None:
        self._cluster = cluster
        self.namespace = namespace
        cluster.kubectl("create", "namespace", namespace)

    def __call__(self, command: str, stdin: str = "", *, fails: bool = False) -> str:
        return self._cluster.kubectl("-n", self.namespace, *command.split(), stdin=stdin, fails=fails)

    def get(self, what: str) -> object:
        """What a JSONPath says of an object: `service/web {.spec.type}`."""
        name, path = what.split(" ", 1)
        return self._cluster.kubectl("-n", self.namespace, "get", name, "-o", f"jsonpath={path}")

    @contextmanager
    def running(self, command: str) -> Iterator[Path]:
        """A command that goes on; what is entered is the file that it prints to."""
        argv, environment = self._cluster.command("-n", self.namespace, *command.split())
        printed = self._cluster.folder / f"{self.namespace}.log"
        with printed.open("w") as output:
            process = subprocess.Popen(argv, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield printed
        finally:
            process.kill()
            process.wait(SECONDS)


@pytest.fixture
def kubectl(cluster: EmbeddedApiServer, request: pytest.FixtureRequest) -> Kubectl:
    name: str = request.node.name.removeprefix("test_").replace("_", "-")[:63].rstrip("-")
    return Kubectl(cluster, name)


def test_apply_compares_with_what_was_applied_before(kubectl: Kubectl) -> None:
    assert kubectl("apply -f -", WEB) == "deployment.apps/web created\nservice/web created"
    assert kubectl("apply -f -", WEB) == "deployment.apps/web unchanged\nservice/web unchanged"
    kubectl("scale deployment/web --replicas=5")
    changed = WEB.replace("  replicas: 2\n", "").replace("port: 80,", "port: 81,")
    assert kubectl("apply -f -", changed) == "deployment.apps/web configured\nservice/web configured"
    assert kubectl.get("service/web {.spec.ports[*].port}") == "81"
    assert kubectl.get("deployment/web {.spec.replicas}") == "1"  # whoever applied it no longer says two
    said = kubectl("apply -f -", WEB.replace("selector: {app: web}\n", "slector: {app: web}\n"), fails=True)
    assert 'strict decoding error: unknown field "spec.slector"' in said


def test_create_expose_scale_and_get(kubectl: Kubectl) -> None:
    assert kubectl("create deployment web --image=nginx --replicas=0") == "deployment.apps/web created"
    kubectl("expose deployment web --port=80 --target-port=8080 --type=NodePort")
    assert kubectl("scale deployment/web --replicas=3") == "deployment.apps/web scaled"
    heads, row = kubectl("get deployments -o wide").splitlines()
    assert heads.split() == [
        "NAME",
        "READY",
        "UP-TO-DATE",
        "AVAILABLE",
        "AGE",
        "CONTAINERS",
        "IMAGES",
        "SELECTOR",
    ]
    assert row.split()[:4] + row.split()[5:] == ["web", "0/3", "0", "0", "nginx", "nginx", "app=web"]
    row = kubectl("get services --no-headers")
    assert row.startswith("web   NodePort   10.96.")
    assert kubectl("create service nodeport db --tcp=5432 --node-port=31000") == "service/db created"
    row = kubectl("get services --all-namespaces -l app=db --no-headers -o name --chunk-size=1")
    assert row == "service/db"
    assert kubectl("rollout restart deployment/web") == "deployment.apps/web restarted"
    assert kubectl.get("deployment/web {.metadata.generation}") == "3"


def test_a_watch_shows_what_happens_and_a_deletion_is_waited_for(kubectl: Kubectl) -> None:
    with kubectl.running("get pods -w --no-headers") as printed:
        kubectl("create -f -", POD)
        wait_until(lambda: "Pending" in printed.read_text())
        kubectl('patch pod p --subresource=status -p {"status":{"phase":"Running"}}')
        wait_until(lambda: "Running" in printed.read_text())
        assert kubectl("delete pod p") == 'pod "p" deleted'
    assert kubectl("get pods", fails=False) == ""


def test_patches_labels_and_annotations(kubectl: Kubectl) -> None:
    kubectl("create service clusterip web --tcp=80")
    kubectl('patch service web -p {"spec":{"ports":[{"port":81,"name":"more"}]}}')
    assert kubectl.get("service/web {.spec.ports[*].port}") == "80 81"
    kubectl('patch service web --type=merge -p {"spec":{"ports":[{"port":82}]}}')
    assert kubectl.get("service/web {.spec.ports[*].port}") == "82"
    kubectl('patch service web --type=json -p [{"op":"replace","path":"/spec/type","value":"NodePort"}]')
    assert kubectl.get("service/web {.spec.type}") == "NodePort"
    kubectl("label service web tier=front")
    kubectl("annotate service web note=seen")
    kubectl("label service web app-")
    assert kubectl.get("service/web {.metadata.labels}") == '{"tier":"front"}'
    assert kubectl.get("service/web {.metadata.annotations.note}") == "seen"


def test_logs_and_what_the_server_cannot_do(kubectl: Kubectl) -> None:
    kubectl("create -f -", POD)
    place = f"{kubectl.namespace}/p/c"
    assert kubectl("logs p --tail=1") == f"{place} says 3"
    assert kubectl("logs -f -l app=p").splitlines() == [f"{place} says {number}" for number in (1, 2, 3)]
    assert 'previous terminated container "c" in pod "p" not found' in kubectl(
        "logs p --previous", fails=True
    )
    assert "`userspace-proxy demo exec`" in kubectl("exec p -- true", fails=True)


def test_describe_shows_events(kubectl: Kubectl) -> None:
    kubectl("create -f -", POD)
    uid = kubectl.get("pod/p {.metadata.uid}")
    kubectl("create -f -", EVENT.format(namespace=kubectl.namespace, uid=uid))
    described = kubectl("describe pod p")
    assert "QoS Class:        BestEffort" in described
    assert "it runs on node-1" in described
    assert "Normal   Scheduled   pod/p" in kubectl("get events")


def test_waiting_for_a_rollout(kubectl: Kubectl) -> None:
    kubectl("create -f -", WEB)
    status = {
        "observedGeneration": 1,
        **dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 2),
        "conditions": [{"type": "Available", "status": "True"}],
    }
    with kubectl.running("rollout status deployment/web") as printed:
        wait_until(lambda: "Waiting for deployment" in printed.read_text())
        patch = json.dumps({"status": status}, separators=(",", ":"))
        kubectl(f"patch deployment web --subresource=status -p {patch}")
        wait_until(lambda: 'deployment "web" successfully rolled out' in printed.read_text())
    said = kubectl("wait --for=condition=Available deployment/web")
    assert said == "deployment.apps/web condition met"


def test_refusals_in_kubernetes_words(kubectl: Kubectl) -> None:
    service = WEB.partition("---")[2]
    kubectl("create -f -", service)
    for verb, was, becomes, words in (
        (
            "replace",
            "port: 80,",
            "port: 70000,",
            'The Service "web" is invalid: spec.ports[0].port: Invalid value: 70000: must be between 1 and '
            "65535, inclusive",
        ),
        (
            "replace",
            "spec:",
            "spec:\n  clusterIP: 10.96.99.99",
            'The Service "web" is invalid: spec.clusterIPs[0]: Invalid value: ["10.96.99.99"]: may not '
            "change once set",
        ),
        (
            "create",
            "name: web}",
            "name: Web}",
            'The Service "Web" is invalid: metadata.name: Invalid value: "Web": a DNS-1035 label must',
        ),
        (
            "create",
            "port: 80,",
            'port: "80",',
            'Service in version "v1" cannot be handled as a Service: json: cannot unmarshal string into Go '
            "struct field ServicePort.spec.ports.port of type int32",
        ),
        ("create", "kind: Service", "kind: Servise", 'no matches for kind "Servise" in version "v1"'),
    ):
        assert words in kubectl(f"{verb} -f -", service.replace(was, becomes), fails=True)
    kubectl("create service nodeport db --tcp=5432 --node-port=31001")
    said = kubectl("create service nodeport cache --tcp=6379 --node-port=31001", fails=True)
    assert said.endswith("spec.ports[0].nodePort: Invalid value: 31001: provided port is already allocated")
    assert "leave out --server-side" in kubectl("apply --server-side -f -", service, fails=True)
    said = kubectl("create configmap c", fails=True)
    assert "the server could not find the requested resource" in said


def test_what_the_server_says_of_itself(cluster: EmbeddedApiServer) -> None:
    assert "ports	<[]ServicePort>" in cluster.kubectl("explain", "service.spec")
    kinds = cluster.kubectl("api-resources", "--no-headers").splitlines()
    assert [line.split()[0] for line in kinds] == [
        *("endpoints", "events", "namespaces", "nodes", "pods", "services"),
        *("deployments", "leases", "endpointslices", "events"),
    ]
    version = json.loads(cluster.kubectl("version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"].startswith("v1.")
