"""What may be written, and in which words the rest is refused."""

from __future__ import annotations

from typing import Any

import pytest

from userspace_proxy.demo.api_server import defaults
from userspace_proxy.demo.api_server.kinds import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    EVENTS,
    NAMESPACES,
    PODS,
    SERVICES,
    Resource,
)
from userspace_proxy.demo.api_server.objects import Object, copied
from userspace_proxy.demo.api_server.validation import causes, identity_causes, names


def problems(resource: Resource, item: Object, before: Object | None = None) -> list[str]:
    """What is said of an object, once its defaults are in."""
    complete = [copied(each) for each in (item, before) if each is not None]
    for each in complete:
        defaults.put_defaults(resource, each)
    return [str(cause) for cause in causes(resource, complete[0], complete[1] if before else None)]


def service(**spec: Any) -> Object:
    return {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], **spec}}


def ports(*entries: Object) -> Object:
    return service(ports=list(entries))


def container(**fields: Any) -> Object:
    return {"name": "c", "image": "nginx:1", **fields}


def pod(*containers: Object, **spec: Any) -> Object:
    return {"metadata": {"name": "p"}, "spec": {"containers": list(containers) or [container()], **spec}}


def deployment(**spec: Any) -> Object:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container()]}}
    return {
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template, **spec},
    }


def endpoint_slice(*endpoints: Object, **fields: Any) -> Object:
    return {"metadata": {"name": "web-1"}, "addressType": "IPv4", "endpoints": list(endpoints), **fields}


@pytest.mark.parametrize(
    ("resource", "item"),
    [
        (SERVICES, service()),
        (SERVICES, service(ports=[], clusterIP="None")),
        (SERVICES, service(ports=[], type="ExternalName", externalName="example.com.")),
        (SERVICES, service(type="LoadBalancer", loadBalancerSourceRanges=["10.0.0.0/8", "fd00::/8"])),
        (SERVICES, service(sessionAffinity="ClientIP")),
        (SERVICES, ports({"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53})),
        (SERVICES, ports({"port": 80, "targetPort": "http", "appProtocol": "kubernetes.io/h2c"})),
        (PODS, pod(container(ports=[{"containerPort": 8080, "name": "http"}]))),
        (PODS, pod(container(readinessProbe={"httpGet": {"port": "http"}, "successThreshold": 2}))),
        (DEPLOYMENTS, deployment(replicas=0)),
        (DEPLOYMENTS, deployment(strategy={"type": "Recreate"})),
        (ENDPOINT_SLICES, endpoint_slice({"addresses": ["10.0.0.1"]}, ports=[{"port": 80}])),
        (ENDPOINT_SLICES, endpoint_slice({"addresses": ["web.example.com"]}, addressType="FQDN")),
        (ENDPOINTS, {"metadata": {"name": "web"}, "subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]}),
        (EVENTS, {"metadata": {"name": "web.1"}}),
        (NAMESPACES, {"metadata": {"name": "a"}}),
    ],
)
def test_what_is_well(resource: Resource, item: Object) -> None:
    assert problems(resource, item) == []


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (service(ports=[]), "spec.ports: Required value"),
        (
            ports({"port": 70000}),
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            ports({"port": 80, "targetPort": 70000}),
            "spec.ports[0].targetPort: Invalid value: 70000: must be between",
        ),
        (
            ports({"port": 80, "targetPort": "-"}),
            'spec.ports[0].targetPort: Invalid value: "-": must contain at least',
        ),
        (
            ports({"port": 80, "protocol": "tcp"}),
            'spec.ports[0].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"',
        ),
        (ports({"name": "a", "port": 80}, {"port": 81}), "spec.ports[1].name: Required value"),
        (
            ports({"name": "a", "port": 80}, {"name": "a", "port": 81}),
            'spec.ports[1].name: Duplicate value: "a"',
        ),
        (
            ports({"name": "a", "port": 80}, {"name": "b", "port": 80}),
            'spec.ports[1]: Duplicate value: {"protocol":"TCP","port":80}',
        ),
        (
            ports({"name": "A", "port": 80}),
            'spec.ports[0].name: Invalid value: "A": a lowercase RFC 1123 label',
        ),
        (ports({"port": 80, "appProtocol": "a b"}), "spec.ports[0].appProtocol: Invalid value"),
        (
            ports({"port": 80, "nodePort": 30001}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            service(
                type="NodePort",
                ports=[
                    {"name": "a", "port": 80, "nodePort": 30001},
                    {"name": "b", "port": 81, "nodePort": 30001},
                ],
            ),
            "spec.ports[1].nodePort: Duplicate value: 30001",
        ),
        (
            service(type="Cluster"),
            'spec.type: Unsupported value: "Cluster": supported values: "ClusterIP", "ExternalName", '
            '"LoadBalancer", "NodePort"',
        ),
        (service(type="ExternalName"), "spec.externalName: Required value"),
        (service(type="ExternalName", externalName="a_b"), "spec.externalName: Invalid value"),
        (
            service(type="ExternalName", externalName="a", clusterIPs=["10.96.0.1"]),
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
        ),
        (
            service(type="NodePort", clusterIP="None"),
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ),
        (service(selector={"a b": "c"}), 'spec.selector: Invalid value: "a b": name part must consist of'),
        (service(sessionAffinity="Server"), "spec.sessionAffinity: Unsupported value"),
        (
            service(
                sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 86401}}
            ),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than "
            "0 and less than 86400",
        ),
        (
            service(externalIPs=["127.0.0.1"]),
            'spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the',
        ),
        (service(externalIPs=["example"]), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        (
            service(loadBalancerSourceRanges=["10.0.0.0/8"]),
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            service(type="LoadBalancer", loadBalancerSourceRanges=["10.0.0.0"]),
            'spec.loadBalancerSourceRanges[0]: Invalid value: "10.0.0.0": must be a valid CIDR value',
        ),
        (service(loadBalancerClass="a/b"), "spec.loadBalancerClass: Forbidden: may only be used when"),
        (
            service(externalTrafficPolicy="Local"),
            'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible',
        ),
        (
            service(type="NodePort", externalTrafficPolicy="local"),
            "spec.externalTrafficPolicy: Unsupported value",
        ),
        (
            service(type="NodePort", healthCheckNodePort=30001),
            "spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is 'LoadBalancer'",
        ),
        (
            {"metadata": {}, "spec": {"ports": [{"port": 1}]}},
            "metadata.name: Required value: name or generateName",
        ),
        (
            {"metadata": {"name": "1web"}, "spec": {"ports": [{"port": 1}]}},
            'metadata.name: Invalid value: "1web": a DNS-1035 label must consist of lower case alphanumeric '
            "characters or '-', start with an alphabetic character, and end with an alphanumeric character "
            "(e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
        ),
    ],
)
def test_services(item: Object, problem: str) -> None:
    (said,) = problems(SERVICES, item)
    assert said.startswith(problem) or problem in said


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"metadata": {"name": "p"}, "spec": {}}, "spec.containers: Required value"),
        (pod({"image": "x"}), "spec.containers[0].name: Required value"),
        (pod({"name": "c"}), "spec.containers[0].image: Required value"),
        (pod(container(image=" x")), "must not have leading or trailing whitespace"),
        (pod(container(), container()), 'spec.containers[1].name: Duplicate value: "c"'),
        (pod(container(name="C")), 'spec.containers[0].name: Invalid value: "C": a lowercase RFC 1123 label'),
        (pod(container(imagePullPolicy="Later")), "spec.containers[0].imagePullPolicy: Unsupported value"),
        (pod(container(ports=[{}])), "spec.containers[0].ports[0].containerPort: Required value"),
        (
            pod(container(ports=[{"containerPort": 70000}])),
            "containerPort: Invalid value: 70000: must be between",
        ),
        (pod(container(ports=[{"containerPort": 1, "protocol": "x"}])), "protocol: Unsupported value"),
        (
            pod(container(ports=[{"containerPort": 1, "name": "a--b"}])),
            "must not contain consecutive hyphens",
        ),
        (
            pod(container(ports=[{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}])),
            'spec.containers[0].ports[1].name: Duplicate value: "a"',
        ),
        (pod(container(env=[{"value": "1"}])), "spec.containers[0].env[0].name: Required value"),
        (pod(container(readinessProbe={})), "readinessProbe: Required value: must specify a handler type"),
        (
            pod(container(readinessProbe={"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}})),
            "readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (pod(container(readinessProbe={"httpGet": {}})), "readinessProbe.httpGet.port: Invalid value: 0"),
        (pod(container(readinessProbe={"exec": {}})), "readinessProbe.exec.command: Required value"),
        (
            pod(container(readinessProbe={"tcpSocket": {"port": 1}, "periodSeconds": -1})),
            "readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            pod(container(livenessProbe={"tcpSocket": {"port": 1}, "successThreshold": 2})),
            "livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (pod(restartPolicy="Sometimes"), "spec.restartPolicy: Unsupported value"),
        (pod(dnsPolicy="Mine"), "spec.dnsPolicy: Unsupported value"),
        (pod(terminationGracePeriodSeconds=-1), "spec.terminationGracePeriodSeconds: Invalid value: -1"),
        (
            pod(
                container(lifecycle={"preStop": {"sleep": {"seconds": 3}}}),
                terminationGracePeriodSeconds=2,
            ),
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 3: must be non-negative and less "
            "than terminationGracePeriodSeconds (2)",
        ),
        (pod(nodeName="a b"), "spec.nodeName: Invalid value"),
        (pod(hostname="a.b"), "spec.hostname: Invalid value"),
        (pod(nodeSelector={"a": "b c"}), 'spec.nodeSelector: Invalid value: "b c": a valid label must be'),
    ],
)
def test_pods(item: Object, problem: str) -> None:
    (said,) = problems(PODS, item)
    assert problem in said


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (deployment(replicas=-1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        (deployment(selector=None), "spec.selector: Required value"),
        (
            deployment(selector={"matchLabels": {"app": "db"}}),
            'spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template '
            "`labels`",
        ),
        (
            deployment(selector={"matchExpressions": [{"key": "app", "operator": "In"}]}),
            "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator`",
        ),
        (
            deployment(
                selector={"matchExpressions": [{"key": "a", "operator": "DoesNotExist", "values": ["b"]}]}
            ),
            "spec.selector.matchExpressions[0].values: Forbidden: may not be specified when `operator`",
        ),
        (
            deployment(selector={"matchExpressions": [{"key": "a", "operator": "is"}]}),
            'spec.selector.matchExpressions[0].operator: Invalid value: "is": not a valid selector operator',
        ),
        (deployment(strategy={"type": "Slow"}), "spec.strategy.type: Unsupported value"),
        (
            deployment(strategy={"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            deployment(strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            deployment(strategy={"rollingUpdate": {"maxSurge": "some"}}),
            'maxSurge: Invalid value: "some": a valid',
        ),
        (
            deployment(strategy={"rollingUpdate": {"maxSurge": -1}}),
            "maxSurge: Invalid value: -1: must be greater",
        ),
        (
            deployment(progressDeadlineSeconds=10, minReadySeconds=10),
            "spec.progressDeadlineSeconds: Invalid value: 10: must be greater than minReadySeconds",
        ),
    ],
)
def test_deployments(item: Object, problem: str) -> None:
    assert problem in problems(DEPLOYMENTS, item)[0]


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (endpoint_slice(addressType=""), "addressType: Required value"),
        (
            endpoint_slice(addressType="ipv4"),
            'addressType: Unsupported value: "ipv4": supported values: "FQDN", "IPv4", "IPv6"',
        ),
        (endpoint_slice({}), "endpoints[0].addresses: Required value: must contain at least 1 address"),
        (endpoint_slice({"addresses": ["10.0.0.1"] * 101}), "endpoints[0].addresses: Too many: 101"),
        (
            endpoint_slice({"addresses": ["fd00::1"]}),
            'Invalid value: "fd00::1": must be a valid IPv4 address',
        ),
        (endpoint_slice({"addresses": ["127.0.0.1"]}), "may not be in the loopback range"),
        (endpoint_slice({"addresses": ["0.0.0.0"]}), "may not be unspecified (0.0.0.0)"),
        (endpoint_slice({"addresses": ["169.254.1.1"]}), "may not be in the link-local range"),
        (endpoint_slice({"addresses": ["224.0.0.1"]}), "may not be in the link-local multicast range"),
        (
            endpoint_slice({"addresses": ["10.0.0.1"], "hostname": "a.b"}),
            "endpoints[0].hostname: Invalid value",
        ),
        (
            endpoint_slice({"addresses": ["10.0.0.1"], "nodeName": "a b"}),
            "endpoints[0].nodeName: Invalid value",
        ),
        (endpoint_slice(*[{}] * 1001), "endpoints: Too many: 1001: must have at most 1000 items"),
        (endpoint_slice(ports=[{"port": 70000}]), "ports[0].port: Invalid value: 70000"),
        (endpoint_slice(ports=[{"name": "A"}]), "ports[0].name: Invalid value"),
        (endpoint_slice(ports=[{"port": 1}, {"port": 2}]), 'ports[1].name: Duplicate value: ""'),
        (endpoint_slice(ports=[{"protocol": "x"}]), "ports[0].protocol: Unsupported value"),
    ],
)
def test_endpoint_slices(item: Object, problem: str) -> None:
    (said,) = problems(ENDPOINT_SLICES, item)
    assert problem in said


@pytest.mark.parametrize(
    ("subset", "problem"),
    [
        ({}, "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"),
        ({"addresses": [{"ip": "x"}]}, "subsets[0].addresses[0].ip: Invalid value"),
        ({"notReadyAddresses": [{"ip": "::1"}]}, "subsets[0].notReadyAddresses[0].ip: Invalid value"),
        (
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "a", "port": 1}, {"port": 2}]},
            "subsets[0].ports[1].name: Required value",
        ),
    ],
)
def test_endpoints(subset: Object, problem: str) -> None:
    (said,) = problems(ENDPOINTS, {"metadata": {"name": "web"}, "subsets": [subset]})
    assert problem in said


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"name": "a.b"}, 'metadata.name: Invalid value: "a.b": a lowercase RFC 1123 label must consist of'),
        ({"name": "a" * 64}, "must be no more than 63 bytes"),
        (
            {"name": "a", "labels": {"": "b"}},
            'metadata.labels: Invalid value: "": name part must be non-empty',
        ),
        ({"name": "a", "labels": {"/b": "c"}}, "prefix part must be non-empty"),
        ({"name": "a", "labels": {"A/b": "c"}}, "prefix part a lowercase RFC 1123 subdomain"),
        ({"name": "a", "labels": {"b": "c" * 64}}, "must be no more than 63 bytes"),
        ({"name": "a", "labels": {"b" * 64: "c"}}, "name part must be no more than 63 bytes"),
        ({"name": "a", "annotations": {"a b": ""}}, 'metadata.annotations: Invalid value: "a b"'),
        (
            {"name": "a", "annotations": {"b": "c" * 2**18}},
            "metadata.annotations: Too long: may not be more than",
        ),
        ({"name": "a", "finalizers": ["a b"]}, 'metadata.finalizers[0]: Invalid value: "a b"'),
        (
            {"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]},
            'metadata.ownerReferences[0].uid: Invalid value: "": must not be empty',
        ),
    ],
)
def test_metadata(metadata: Object, problem: str) -> None:
    said = [str(cause) for cause in causes(NAMESPACES, {"metadata": metadata}, None)]
    assert len(said) == 1
    assert problem in said[0]


ADDRESSED = service(clusterIPs=["10.96.0.1"], clusterIP="10.96.0.1", ipFamilies=["IPv4"])
BALANCED = service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30001)


@pytest.mark.parametrize(
    ("resource", "before", "after", "problem"),
    [
        (
            SERVICES,
            ADDRESSED,
            service(clusterIPs=["10.96.0.2"], ipFamilies=["IPv4"]),
            'spec.clusterIPs[0]: Invalid value: ["10.96.0.2"]: may not change once set',
        ),
        (SERVICES, ADDRESSED, service(), "primary clusterIP can not be unset"),
        (
            SERVICES,
            ADDRESSED,
            service(clusterIPs=["10.96.0.1"], ipFamilies=["IPv6"]),
            'spec.ipFamilies[0]: Invalid value: "IPv6": may not change once set',
        ),
        (
            SERVICES,
            BALANCED,
            service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30002),
            "spec.healthCheckNodePort: Forbidden: field is immutable",
        ),
        (
            SERVICES,
            service(type="LoadBalancer", loadBalancerClass="a/b"),
            service(type="LoadBalancer", loadBalancerClass="a/c"),
            'spec.loadBalancerClass: Invalid value: "a/c": may not change once set',
        ),
        (
            DEPLOYMENTS,
            deployment(),
            deployment(selector={"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
            'spec.selector: Invalid value: {"matchExpressions":[{"key":"app","operator":"Exists"}]}: field '
            "is immutable",
        ),
        (
            PODS,
            pod(),
            pod(container(args=["x"])),
            "spec: Forbidden: pod updates may not change fields other than",
        ),
        (PODS, pod(nodeName="a"), pod(nodeName="b"), "changed: nodeName"),
        (
            ENDPOINT_SLICES,
            endpoint_slice(),
            endpoint_slice(addressType="IPv6"),
            'addressType: Invalid value: "IPv6": field is immutable',
        ),
    ],
)
def test_changes_that_are_not_to_be(resource: Resource, before: Object, after: Object, problem: str) -> None:
    (said,) = problems(resource, after, before)
    assert problem in said


def test_a_pod_may_get_a_node_another_image_and_less_time() -> None:
    after = pod(container(image="nginx:2"), nodeName="node-1", terminationGracePeriodSeconds=1)
    assert problems(PODS, after, pod()) == []


def test_a_service_may_change_its_type() -> None:
    assert problems(SERVICES, service(type="ExternalName", externalName="example.com"), ADDRESSED) == []


def test_names_stay() -> None:
    was = {"metadata": {"name": "a", "namespace": "b"}}
    (cause,) = identity_causes({"metadata": {"name": "a", "namespace": "c"}}, was)
    assert str(cause) == 'metadata.namespace: Invalid value: "c": field is immutable'


@pytest.mark.parametrize(
    ("name", "is_well"),
    [
        ("http", True),
        ("h2-c", True),
        ("80", False),
        ("a" * 16, False),
        ("-a", False),
        ("a-", False),
        ("A", False),
    ],
)
def test_port_names(name: str, is_well: bool) -> None:
    assert (names.port_name(name) is None) is is_well


@pytest.mark.parametrize(
    ("text", "is_well"), [("10.0.0.1", True), ("::1", True), ("fe80::1%eth0", False), ("x", False)]
)
def test_addresses(text: str, is_well: bool) -> None:
    assert (names.ip_address(text) is None) is is_well
