from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given

from tests.support.object_strategies import services
from tests.support.objects import service
from userspace_proxy.core import objects
from userspace_proxy.core.ip_addresses import family_of, why_not_dialled
from userspace_proxy.core.service_annotations import ServiceSettings
from userspace_proxy.core.service_checks import is_port, read_service
from userspace_proxy.core.service_port import (
    Frontend,
    IPFamily,
    Port,
    Protocol,
    ServiceName,
    ServicePort,
    ServicePortName,
    TrafficPolicy,
)

WEB = ServiceName("default", "web")


def served(item: objects.Service) -> list[str]:
    """What is served of a Service, as `port-name address:port/protocol`."""
    return [
        f"{port.name.port_name} {Frontend(port.cluster_ip, port.name.protocol, port.port)}".lstrip()
        for port in read_service(item, "test")[0]
    ]


def complaints(item: objects.Service) -> list[str]:
    return [f"{problem.field}: {problem.reason}" for problem in read_service(item, "test")[1]]


def only_port(item: objects.Service) -> ServicePort:
    (port,) = read_service(item, "test")[0]
    return port


def test_a_service_becomes_one_service_port_for_each_port_and_family() -> None:
    item = service("dns", at=["10.96.0.10", "fd00::a"], ports=["dns:53/UDP", "dns-tcp:53", "9153/TCP"])
    assert served(item) == [
        "dns 10.96.0.10:53/UDP",
        "dns-tcp 10.96.0.10:53/TCP",
        "10.96.0.10:9153/TCP",
        "dns [fd00::a]:53/UDP",
        "dns-tcp [fd00::a]:53/TCP",
        "[fd00::a]:9153/TCP",
    ]
    assert complaints(item) == []


def test_annotations_say_how_a_service_is_served() -> None:
    key = "userspace-proxy.io/removed-endpoints"
    assert only_port(service(annotations={key: "drain=5s"})).settings == ServiceSettings(5)
    assert only_port(service(annotations={key: "?"})).settings == ServiceSettings()
    ((reason),) = complaints(service(annotations={key: "?"}))
    assert reason.startswith(f"metadata.annotations['{key}']: '?' is not keep")


SPREAD = {"userspace-proxy.io/workers": "4"}


def test_several_workers_may_share_a_services_tcp_ports() -> None:
    assert only_port(service(annotations=SPREAD)).settings.workers == 4
    assert complaints(service(annotations=SPREAD)) == []
    mixed = service(annotations=SPREAD, ports=["dns:53/UDP", "web:80", "ntp:123/UDP"])
    assert complaints(mixed) == [
        "metadata.annotations['userspace-proxy.io/workers']: UDP has one worker, which knows all flows; "
        "so have ports 53, 123"
    ]


def test_client_affinity_stays_with_one_worker() -> None:
    item = service(annotations=SPREAD, affinity="ClientIP")
    assert only_port(item).settings.workers == 1
    assert complaints(item) == [
        "metadata.annotations['userspace-proxy.io/workers']: sessionAffinity ClientIP needs one worker, "
        "which knows all clients; one is used"
    ]


@pytest.mark.parametrize("limit", ["max-connections", "max-connections-per-client"])
def test_a_service_whose_connections_are_limited_stays_with_one_worker(limit: str) -> None:
    item = service(annotations=SPREAD | {f"userspace-proxy.io/{limit}": "1000"})
    assert only_port(item).settings.workers == 1
    assert complaints(item) == [
        "metadata.annotations['userspace-proxy.io/workers']: a limit of connections needs one worker, "
        "which counts them all; one is used"
    ]


def test_several_workers_may_share_what_the_annotations_free_from_the_flags_limits() -> None:
    limited = ServiceSettings(max_connections_per_client=10)
    ((port,), problems) = read_service(service(annotations=SPREAD), "test", limited)
    assert (port.settings.workers, len(problems)) == (1, 1)
    free = SPREAD | {"userspace-proxy.io/max-connections-per-client": "none"}
    ((port,), problems) = read_service(service(annotations=free), "test", limited)
    assert (port.settings.workers, problems) == (4, ())


def test_the_flags_hold_where_no_annotation_says_otherwise() -> None:
    ((port,), _) = read_service(service(), "test", ServiceSettings(5))
    assert port.settings == ServiceSettings(5)


def test_a_service_port_is_what_the_service_says() -> None:
    item = service(
        at="10.96.0.10",
        ports=["http:80@30080"],
        affinity="ClientIP",
        affinity_timeout_seconds=60,
        internal_traffic_policy="Local",
        external_traffic_policy="Local",
        type="LoadBalancer",
        external_ips=["198.51.100.1"],
        ingress=["203.0.113.1"],
        source_ranges=["192.0.2.0/24"],
        health_check_node_port=32000,
        created="2026-01-01T00:00:00Z",
    )
    assert only_port(item) == ServicePort(
        name=ServicePortName(WEB, "http", Protocol.TCP, IPFamily.IPV4),
        cluster_ip="10.96.0.10",
        port=Port(80),
        affinity_timeout_seconds=60,
        internal_traffic_policy=TrafficPolicy.LOCAL,
        external_traffic_policy=TrafficPolicy.LOCAL,
        node_port=Port(30080),
        external_ips=("198.51.100.1",),
        load_balancer_ips=("203.0.113.1",),
        source_ranges=("192.0.2.0/24",),
        health_check_node_port=Port(32000),
        created="2026-01-01T00:00:00Z",
    )


def test_what_a_service_does_not_say_is_the_default() -> None:
    assert only_port(service(ports=["80"])) == ServicePort(
        name=ServicePortName(WEB, "", Protocol.TCP, IPFamily.IPV4),
        cluster_ip="10.96.0.10",
        port=Port(80),
        affinity_timeout_seconds=None,
        internal_traffic_policy=TrafficPolicy.CLUSTER,
        external_traffic_policy=TrafficPolicy.CLUSTER,
        node_port=None,
        external_ips=(),
        load_balancer_ips=(),
        source_ranges=None,
        health_check_node_port=None,
        created="",
    )


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(service(at="None"), id="headless"),
        pytest.param(service(at=["None"]), id="headless by clusterIPs"),
        pytest.param(service(at=""), id="no clusterIP yet"),
        pytest.param(service(at=None), id="clusterIP absent"),
        pytest.param(service(type="ExternalName"), id="ExternalName with a clusterIP"),
        pytest.param(service(labels={"service.kubernetes.io/headless": ""}), id="labelled headless"),
        pytest.param(
            service(labels={"service.kubernetes.io/service-proxy-name": "other"}), id="another proxy's"
        ),
        pytest.param(objects.Service(objects.ObjectMeta("web", "default")), id="nothing specified"),
        pytest.param(
            objects.Service(
                objects.ObjectMeta("web", "default"), objects.ServiceSpec(cluster_ip="10.96.0.10")
            ),
            id="no ports",
        ),
    ],
)
def test_a_service_that_is_not_ours_to_serve_is_no_problem(item: objects.Service) -> None:
    assert read_service(item, "test") == ((), ())


def test_cluster_ips_are_read_before_the_older_cluster_ip() -> None:
    spec = objects.ServiceSpec(
        cluster_ip="10.96.0.1", cluster_ips=["10.96.0.2"], ports=[objects.ServicePortSpec(80)]
    )
    assert served(objects.Service(objects.ObjectMeta("web", "default"), spec)) == ["10.96.0.2:80/TCP"]


@pytest.mark.parametrize(
    ("item", "what_is_served", "complaint"),
    [
        pytest.param(
            service("Web"), [], "metadata.name: 'Web' is not a name that Kubernetes allows", id="name"
        ),
        pytest.param(
            service(namespace=""),
            [],
            "metadata.namespace: '' is not a name that Kubernetes allows",
            id="namespace",
        ),
        pytest.param(
            service(at="10.96.0.300"),
            [],
            "spec.clusterIP: '10.96.0.300' is not an IP address",
            id="impossible clusterIP",
        ),
        pytest.param(
            service(at=["127.0.0.1", "fd00::a"]),
            ["[fd00::a]:80/TCP"],
            "spec.clusterIPs[0]: 127.0.0.1 is a loopback address",
            id="loopback clusterIP",
        ),
        pytest.param(
            service(at=["10.96.0.1", "10.96.0.2"]),
            ["10.96.0.1:80/TCP"],
            "spec.clusterIPs[1]: 10.96.0.2 is a second IPv4 address, and a Service has one of each family",
            id="two of one family",
        ),
        pytest.param(
            service(at=["fd00::a%eth0"]),
            [],
            "spec.clusterIPs[0]: fd00::a is an address with a zone",
            id="address with a zone",
        ),
        pytest.param(
            service(ports=["80", "sctp:80/SCTP"]),
            ["10.96.0.10:80/TCP"],
            "spec.ports: port 80 is not carried: 'SCTP' is neither TCP nor UDP",
            id="SCTP",
        ),
        pytest.param(
            service(ports=["Bad_Name:80", "ok:81"]),
            ["ok 10.96.0.10:81/TCP"],
            "spec.ports[0].name: 'Bad_Name' is not a name that Kubernetes allows",
            id="port name",
        ),
        pytest.param(
            service(ports=["a:0", "b:81"]),
            ["b 10.96.0.10:81/TCP"],
            "spec.ports[0].port: 0 is not a port (1-65535)",
            id="port 0",
        ),
        pytest.param(
            service(ports=["a:70000", "b:65535"]),
            ["b 10.96.0.10:65535/TCP"],
            "spec.ports[0].port: 70000 is not a port (1-65535)",
            id="port too large",
        ),
        pytest.param(
            service(ports=["a:80", "a:81", "a:82/UDP"]),
            ["a 10.96.0.10:80/TCP", "a 10.96.0.10:82/UDP"],
            "spec.ports[1].name: 'a' is the name of an earlier port",
            id="one name twice",
        ),
        pytest.param(
            service(ports=["a:80", "b:80", "c:80/UDP"]),
            ["a 10.96.0.10:80/TCP", "c 10.96.0.10:80/UDP"],
            "spec.ports[1].port: 80/TCP is the number of an earlier port",
            id="one number twice",
        ),
        pytest.param(
            service(affinity="Cookie"),
            ["10.96.0.10:80/TCP"],
            "spec.sessionAffinity: 'Cookie' is neither 'None' nor 'ClientIP'; None is used",
            id="unknown affinity",
        ),
        pytest.param(
            service(internal_traffic_policy="Nearby"),
            ["10.96.0.10:80/TCP"],
            "spec.internalTrafficPolicy: 'Nearby' is neither 'Cluster' nor 'Local'; Cluster is used",
            id="unknown policy",
        ),
        pytest.param(
            service(external_traffic_policy="Nearby"),
            ["10.96.0.10:80/TCP"],
            "spec.externalTrafficPolicy: 'Nearby' is neither 'Cluster' nor 'Local'; Cluster is used",
            id="unknown external policy",
        ),
        pytest.param(
            service(ports=["80@70000"], type="NodePort"),
            ["10.96.0.10:80/TCP"],
            "spec.ports[0].nodePort: 70000 is not a port (1-65535)",
            id="nodePort too large",
        ),
        pytest.param(
            service(ports=["a:80@30080", "b:81@30080", "c:82@30080/UDP"], type="NodePort"),
            ["a 10.96.0.10:80/TCP", "b 10.96.0.10:81/TCP", "c 10.96.0.10:82/UDP"],
            "spec.ports[1].nodePort: 30080/TCP is the nodePort of an earlier port",
            id="one nodePort twice",
        ),
        pytest.param(
            service(external_ips=["127.0.0.1"]),
            ["10.96.0.10:80/TCP"],
            "spec.externalIPs[0]: 127.0.0.1 is a loopback address",
            id="loopback externalIP",
        ),
        pytest.param(
            service(external_ips=["2001:db8::1", "192.0.2.1"]),
            ["10.96.0.10:80/TCP"],
            "spec.externalIPs[0]: 2001:db8::1 is an IPv6 address, and the Service has no IPv6 clusterIP",
            id="externalIP of another family",
        ),
        pytest.param(
            service(at="fd00::a", type="LoadBalancer", ingress=["203.0.113.1", "2001:db8::1"]),
            ["[fd00::a]:80/TCP"],
            "status.loadBalancer.ingress[0].ip: 203.0.113.1 is an IPv4 address, "
            "and the Service has no IPv4 clusterIP",
            id="ingress IP of another family",
        ),
        pytest.param(
            service(type="LoadBalancer", ingress=["nowhere"]),
            ["10.96.0.10:80/TCP"],
            "status.loadBalancer.ingress[0].ip: 'nowhere' is not an IP address",
            id="impossible ingress IP",
        ),
        pytest.param(
            service(type="LoadBalancer", ingress=[objects.LoadBalancerIngress("203.0.113.1", "vip")]),
            ["10.96.0.10:80/TCP"],
            "status.loadBalancer.ingress[0].ipMode: 'vip' is neither 'VIP' nor 'Proxy'",
            id="unknown ipMode",
        ),
        pytest.param(
            service(type="LoadBalancer", external_traffic_policy="Local", health_check_node_port=-1),
            ["10.96.0.10:80/TCP"],
            "spec.healthCheckNodePort: -1 is not a port (1-65535)",
            id="impossible healthCheckNodePort",
        ),
    ],
)
def test_a_bad_field_is_named_and_costs_only_what_depends_on_it(
    item: objects.Service, what_is_served: list[str], complaint: str
) -> None:
    assert served(item) == what_is_served
    assert complaints(item) == [complaint]


def test_a_refused_port_does_not_take_its_name_and_number_from_a_later_one() -> None:
    assert served(service(ports=["a:0", "Bad_Name:80", "a:80"])) == ["a 10.96.0.10:80/TCP"]


def test_a_problem_says_whose_it_is() -> None:
    ((problem,),) = read_service(service("web", namespace="shop", affinity="Cookie"), "web.yaml")[1:]
    assert str(problem).startswith("web.yaml: Service shop/web: spec.sessionAffinity: ")


@pytest.mark.parametrize(
    ("affinity", "stated", "timeout", "is_named"),
    [
        (None, None, None, False),
        ("", None, None, False),
        ("None", 60, None, False),
        ("ClientIP", None, 10800, False),
        ("ClientIP", 1, 1, False),
        ("ClientIP", 86400, 86400, False),
        ("ClientIP", 0, 10800, True),
        ("ClientIP", -1, 10800, True),
        ("ClientIP", 86401, 10800, True),
    ],
)
def test_client_ip_affinity_lasts_as_long_as_it_says(
    affinity: str | None, stated: int | None, timeout: int | None, is_named: bool
) -> None:
    item = service(affinity=affinity, affinity_timeout_seconds=stated)
    assert only_port(item).affinity_timeout_seconds == timeout
    assert (complaints(item) != []) is is_named


def test_an_affinity_config_without_a_client_ip_means_the_default() -> None:
    spec = objects.ServiceSpec(
        cluster_ip="10.96.0.10",
        ports=[objects.ServicePortSpec(80)],
        session_affinity="ClientIP",
        session_affinity_config=objects.SessionAffinityConfig(),
    )
    item = objects.Service(objects.ObjectMeta("web", "default"), spec)
    assert only_port(item).affinity_timeout_seconds == 10800


@pytest.mark.parametrize(
    ("number", "is_one"), [(-1, False), (0, False), (1, True), (65535, True), (65536, False)]
)
def test_ports_are_16_bits_without_zero(number: int, is_one: bool) -> None:
    assert is_port(number) is is_one


DUAL_STACK = ["10.96.0.10", "fd00::a"]


def by_family(item: objects.Service) -> dict[IPFamily, ServicePort]:
    return {port.name.family: port for port in read_service(item, "test")[0]}


@pytest.mark.parametrize("at", [DUAL_STACK, DUAL_STACK[::-1]], ids=["IPv4 first", "IPv6 first"])
def test_addresses_and_ranges_go_to_the_ports_of_their_family(at: list[str]) -> None:
    ports = by_family(
        service(
            at=at,
            ports=["80@30080"],
            type="LoadBalancer",
            external_ips=["2001:DB8::1", "198.51.100.1", "198.51.100.1"],
            ingress=["203.0.113.1", "2001:db8:0::2"],
            source_ranges=["192.0.2.1/24", "2001:db8::/32"],
        )
    )
    ipv4, ipv6 = ports[IPFamily.IPV4], ports[IPFamily.IPV6]
    assert (ipv4.cluster_ip, ipv6.cluster_ip) == ("10.96.0.10", "fd00::a")
    assert (ipv4.node_port, ipv6.node_port) == (30080, 30080)
    assert (ipv4.external_ips, ipv6.external_ips) == (("198.51.100.1",), ("2001:db8::1",))
    assert (ipv4.load_balancer_ips, ipv6.load_balancer_ips) == (("203.0.113.1",), ("2001:db8::2",))
    assert (ipv4.source_ranges, ipv6.source_ranges) == (("192.0.2.0/24",), ("2001:db8::/32",))


@pytest.mark.parametrize(
    ("type", "node_port", "load_balancer_ips"),
    [
        (None, None, ()),
        ("ClusterIP", None, ()),
        ("NodePort", 30080, ()),
        ("LoadBalancer", 30080, ("203.0.113.1",)),
    ],
)
def test_what_is_left_of_another_type_is_not_served(
    type: str | None, node_port: int | None, load_balancer_ips: tuple[str, ...]
) -> None:
    port = only_port(service(ports=["80@30080"], type=type, ingress=["203.0.113.1"]))
    assert (port.node_port, port.load_balancer_ips) == (node_port, load_balancer_ips)


def test_a_load_balancer_without_node_ports_has_none() -> None:
    assert only_port(service(type="LoadBalancer", ports=["80"])).node_port is None
    assert only_port(service(type="LoadBalancer", ports=["80@0"])).node_port is None


@pytest.mark.parametrize(
    ("ingress", "is_captured"),
    [
        pytest.param(objects.LoadBalancerIngress("203.0.113.1"), True, id="no ipMode"),
        pytest.param(objects.LoadBalancerIngress("203.0.113.1", ""), True, id="empty ipMode"),
        pytest.param(objects.LoadBalancerIngress("203.0.113.1", "VIP"), True, id="VIP"),
        pytest.param(objects.LoadBalancerIngress("203.0.113.1", "Proxy"), False, id="Proxy"),
        pytest.param(objects.LoadBalancerIngress(None), False, id="a hostname"),
        pytest.param(objects.LoadBalancerIngress(""), False, id="an empty ip"),
    ],
)
def test_only_a_load_balancers_virtual_ips_are_captured(
    ingress: objects.LoadBalancerIngress, is_captured: bool
) -> None:
    item = service(type="LoadBalancer", ingress=[ingress])
    assert only_port(item).load_balancer_ips == (("203.0.113.1",) if is_captured else ())
    assert complaints(item) == []


@pytest.mark.parametrize(
    "status",
    [None, objects.ServiceStatus(), objects.ServiceStatus(objects.LoadBalancerStatus())],
    ids=["no status", "no loadBalancer", "no ingress"],
)
def test_a_load_balancer_that_is_not_there_yet_has_no_address(status: objects.ServiceStatus | None) -> None:
    plain = service(type="LoadBalancer")
    item = objects.Service(plain.metadata, plain.spec, status)
    assert only_port(item).load_balancer_ips == ()
    assert complaints(item) == []


@pytest.mark.parametrize(
    ("stated", "ranges", "complaint"),
    [
        (None, None, []),
        ([], None, []),
        ([" 192.0.2.1/24 ", "192.0.2.0/24", "198.51.100.7"], ("192.0.2.0/24", "198.51.100.7/32"), []),
        (["2001:db8::/32"], (), []),
        (
            ["192.0.2.0/24", "nowhere"],
            ("192.0.2.0/24",),
            [
                "spec.loadBalancerSourceRanges[1]: 'nowhere' is not a range such as 192.0.2.0/24; "
                "it lets nobody in"
            ],
        ),
        (
            ["10.0.0.0/33"],
            (),
            [
                "spec.loadBalancerSourceRanges[0]: '10.0.0.0/33' is not a range such as 192.0.2.0/24; "
                "it lets nobody in"
            ],
        ),
        (
            [7],
            (),
            ["spec.loadBalancerSourceRanges[0]: 7 is not a range such as 192.0.2.0/24; it lets nobody in"],
        ),
        (
            ["fd00::%\n-j ACCEPT/64"],
            (),
            [
                "spec.loadBalancerSourceRanges[0]: 'fd00::%\\n-j ACCEPT/64' is not a range "
                "such as 192.0.2.0/24; it lets nobody in"
            ],
        ),
        (
            "192.0.2.0/24",
            (),
            ["spec.loadBalancerSourceRanges: '192.0.2.0/24' is not a list; nobody is let in"],
        ),
        ({}, (), ["spec.loadBalancerSourceRanges: an object is not a list; nobody is let in"]),
    ],
)
def test_a_source_range_that_cannot_be_read_lets_nobody_in(
    stated: object, ranges: tuple[str, ...] | None, complaint: list[str]
) -> None:
    item = service(type="LoadBalancer", ingress=["203.0.113.1"], source_ranges=stated)
    assert only_port(item).source_ranges == ranges
    assert complaints(item) == complaint


@pytest.mark.parametrize(
    ("type", "policy", "number", "expected"),
    [
        ("LoadBalancer", "Local", 32000, 32000),
        ("LoadBalancer", "Local", 0, None),
        ("LoadBalancer", "Local", None, None),
        ("LoadBalancer", "Cluster", 32000, None),
        ("NodePort", "Local", 32000, None),
    ],
)
def test_health_is_checked_for_load_balancers_of_policy_local_alone(
    type: str, policy: str, number: int | None, expected: int | None
) -> None:
    item = service(type=type, external_traffic_policy=policy, health_check_node_port=number)
    assert only_port(item).health_check_node_port == expected
    assert complaints(item) == []


def test_sctp_is_named_once_for_both_families_and_the_other_ports_work() -> None:
    item = service(at=DUAL_STACK, ports=["a:80", "b:80@30080/SCTP"], type="NodePort")
    assert served(item) == ["a 10.96.0.10:80/TCP", "a [fd00::a]:80/TCP"]
    said = ["spec.ports: port 80 is not carried: 'SCTP' is neither TCP nor UDP"]
    assert complaints(item) == said
    # Nothing new is said when only its place in the list is another.
    assert complaints(service(at=DUAL_STACK, ports=["b:80@30080/SCTP", "a:80"], type="NodePort")) == said


@given(services())
def test_whatever_a_service_says_it_is_read_and_what_is_served_can_go_into_rules(
    item: objects.Service,
) -> None:
    ports, problems = read_service(item, "test")
    assert len({port.name.key for port in ports}) == len(ports)
    for port in ports:
        assert str(ipaddress.ip_address(port.cluster_ip)) == port.cluster_ip
        assert why_not_dialled(ipaddress.ip_address(port.cluster_ip)) is None
        assert is_port(port.port)
        assert set(port.name.key) <= set(string.ascii_lowercase + string.digits + "-./: TCPUDIv")
        for text in (*port.external_ips, *port.load_balancer_ips):
            address = ipaddress.ip_address(text)
            assert str(address) == text and family_of(address) is port.name.family
            assert why_not_dialled(address) is None
        for text in port.source_ranges or ():
            assert str(ipaddress.ip_network(text)) == text and set(text) <= set(string.hexdigits + ".:/")
            assert family_of(ipaddress.ip_network(text)) is port.name.family
        limited = item.spec.load_balancer_source_ranges not in (None, [])
        assert (port.source_ranges is not None) is limited
        assert port.node_port is None or is_port(port.node_port)
        assert port.health_check_node_port is None or is_port(port.health_check_node_port)
        frontends = [exposure.frontend for exposure in port.exposures()]
        assert len(set(frontends)) == len(frontends)
        assert port.affinity_timeout_seconds is None or 1 <= port.affinity_timeout_seconds <= 86400
    assert all(problem.field and problem.reason for problem in problems)
