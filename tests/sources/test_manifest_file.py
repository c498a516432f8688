from __future__ import annotations

import json

import pytest

from userspace_proxy.core.objects import ApiObject, EndpointSlice
from userspace_proxy.core.problem import Problem
from userspace_proxy.sources.manifest_file import Manifest, UnreadableManifestError, parse_manifest

KUBECTL_OUTPUT = """
apiVersion: v1
items:
- apiVersion: v1
  kind: Service
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"v1","kind":"Service"}
    creationTimestamp: "2026-01-02T03:04:05Z"
    labels: {app: web}
    name: web
    namespace: shop
    resourceVersion: "311"
    uid: 7a3c0a8e-29d4-4f2b-8f0d-3f0c5f8f7a11
  spec:
    clusterIP: 10.96.0.10
    clusterIPs: [10.96.0.10]
    internalTrafficPolicy: Cluster
    ipFamilies: [IPv4]
    ipFamilyPolicy: SingleStack
    ports:
    - {name: http, port: 80, protocol: TCP, targetPort: 8080}
    selector: {app: web}
    sessionAffinity: None
    type: ClusterIP
  status: {loadBalancer: {}}
- addressType: IPv4
  apiVersion: discovery.k8s.io/v1
  endpoints:
  - addresses: [10.0.0.1]
    conditions: {ready: true, serving: true, terminating: false}
    nodeName: node-1
    targetRef: {kind: Pod, name: web-1}
  kind: EndpointSlice
  metadata:
    generateName: web-
    labels: {kubernetes.io/service-name: web}
    name: web-1e3
    namespace: shop
  ports:
  - {name: http, port: 8080, protocol: TCP}
- apiVersion: v1
  kind: Node
  metadata: {name: node-1}
  status:
    addresses: [{address: 192.0.2.1, type: InternalIP}]
kind: List
metadata:
  resourceVersion: ""
"""


def names(manifest: Manifest) -> list[str]:
    def name(item: ApiObject) -> str:
        return f"{type(item).__name__} {item.metadata.namespace}/{item.metadata.name}"

    return [name(item) for item in manifest.objects]


def problems(manifest: Manifest) -> list[str]:
    return [str(problem) for problem in manifest.problems]


def test_what_kubectl_prints_works_as_it_is() -> None:
    manifest = parse_manifest("all.yaml", KUBECTL_OUTPUT.encode())
    assert manifest.problems == ()
    assert names(manifest) == ["Service shop/web", "EndpointSlice shop/web-1e3", "Node /node-1"]


def test_documents_lists_and_typed_lists_in_any_nesting() -> None:
    text = """
---
{apiVersion: v1, kind: Service, metadata: {name: a}}
---
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Service, metadata: {name: b}}]}
- apiVersion: v1
  kind: ServiceList
  items: [{metadata: {name: c, namespace: shop}}]
- {apiVersion: v1, kind: ServiceList, items: null}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSliceList
  items: [{metadata: {name: d}, addressType: IPv4}]
---
{apiVersion: v1, kind: Service, metadata: {name: e}}
"""
    manifest = parse_manifest("a.yaml", text.encode())
    assert manifest.problems == ()
    assert names(manifest) == [
        "Service default/a",
        "Service default/b",
        "Service shop/c",
        "EndpointSlice default/d",
        "Service default/e",
    ]


def test_json_works_and_so_does_an_empty_file() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
    assert names(parse_manifest("a.json", json.dumps(service).encode())) == ["Service default/a"]
    assert parse_manifest("a.json", b" \n") == parse_manifest("a.yaml", b"# nothing\n") == Manifest()


def test_endpoints_are_read_as_slices() -> None:
    text = """
apiVersion: v1
kind: Endpoints
metadata: {name: web}
subsets:
- addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2, nodeName: [a]}, {hostname: x}]
  ports: [{port: 80}]
"""
    manifest = parse_manifest("a.yaml", text.encode())
    (item,) = manifest.objects
    assert isinstance(item, EndpointSlice)
    assert item.metadata.namespace == "default"
    assert [endpoint.addresses for endpoint in item.endpoints or ()] == [["10.0.0.1"], ["10.0.0.2"]]
    assert problems(manifest) == [
        "a.yaml: Endpoints default/web: subsets[0].addresses[1].nodeName: a list is not a string",
        "a.yaml: Endpoints default/web: subsets[0].addresses[2].ip: is missing",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}}",
            ("Deployment", "shop", "web", "kind", "Deployment is not a kind that is read"),
        ),
        (
            "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: web}}",
            ("Service", "", "web", "apiVersion", "serving.knative.dev/v1 is not a version that is read"),
        ),
        ("{kind: Service, metadata: {name: web}}", ("Service", "", "web", "apiVersion", "is missing")),
        ("{apiVersion: [], kind: Service, metadata: []}", ("Service", "", "", "apiVersion", "is missing")),
        ("{apiVersion: v1, kind: {}}", ("", "", "", "kind", "is missing")),
        ('{apiVersion: v1, kind: "a\\nb"}', ("", "", "", "kind", "is missing")),
        ("{apiVersion: v1, kind: Service}", ("Service", "", "", "metadata", "is missing")),
        ("{apiVersion: v1, kind: List, items: 5}", ("List", "", "", "items", "5 is not a list")),
        (
            "{apiVersion: v1, kind: List, items: [null]}",
            ("", "", "", "", "null is not a Kubernetes object"),
        ),
        ("just text", ("", "", "", "", "'just text' is not a Kubernetes object")),
    ],
)
def test_what_is_not_read_is_named_and_the_rest_works(
    text: str, problem: tuple[str, str, str, str, str]
) -> None:
    good = "{apiVersion: v1, kind: Service, metadata: {name: good}}"
    manifest = parse_manifest("a.yaml", f"{text}\n---\n{good}".encode())
    assert manifest.problems == (Problem("a.yaml", *problem),)
    assert names(manifest) == ["Service default/good"]


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("a.yaml", "a: 1\n---\na: [", "is no YAML: line 4: did not find expected node content"),
        ("a.json", '{"a": ', "is no JSON: Input data was truncated"),
        ("a.json", "[" * 100_000 + "]" * 100_000, "is no JSON: maximum recursion depth exceeded"),
    ],
)
def test_a_file_that_is_nothing_is_refused_whole(file: str, text: str, reason: str) -> None:
    with pytest.raises(UnreadableManifestError, match=reason):
        parse_manifest(file, text.encode())


def test_lists_nested_without_end_are_survived() -> None:
    text = '{"kind": "List", "items": [' * 400 + "]}" * 400
    assert parse_manifest("a.json", text.encode()) == Manifest()
