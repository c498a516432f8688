from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given

from tests.support.object_strategies import services
from tests.support.objects import service
from userspace_proxy.core import objects
from userspace_proxy.core.service_checks import (
    family_of,
    is_dns_subdomain,
    is_port,
    read_service,
    why_not_dialled,
)
from userspace_proxy.core.service_port import (
    Frontend,
    IPFamily,
    Port,
    Protocol,
    ServiceName,
    ServicePort,
    ServicePortName,
    TrafficPolicy,
    UdpIdleTimeouts,
    udp_idle_timeouts,
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


def test_a_service_port_is_what_the_service_says() -> None:
    item = service(
        at="10.96.0.10",
        ports=["http:80"],
        affinity="ClientIP",
        affinity_timeout_seconds=60,
        internal_traffic_policy="Local",
        created="2026-01-01T00:00:00Z",
    )
    assert only_port(item) == ServicePort(
        name=ServicePortName(WEB, "http", Protocol.TCP, IPFamily.IPV4),
        cluster_ip="10.96.0.10",
        port=Port(80),
        affinity_timeout_seconds=60,
        internal_traffic_policy=TrafficPolicy.LOCAL,
        created="2026-01-01T00:00:00Z",
    )


def test_what_a_service_does_not_say_is_the_default() -> None:
    port = only_port(objects.Service(objects.ObjectMeta("web", "default"), service().spec))
    assert (port.affinity_timeout_seconds, port.internal_traffic_policy, port.created) == (
        None,
        TrafficPolicy.CLUSTER,
        "",
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
            "spec.clusterIPs[1]: 10.96.0.2 is a second address of its family",
            id="two of one family",
        ),
        pytest.param(
            service(at=["fd00::a%eth0"]),
            [],
            "spec.clusterIPs[0]: fd00::a%eth0 is an address with a zone",
            id="address with a zone",
        ),
        pytest.param(
            service(ports=["80", "sctp:80/SCTP"]),
            ["10.96.0.10:80/TCP"],
            "spec.ports[1].protocol: 'SCTP' is not carried (TCP and UDP are)",
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
            "spec.sessionAffinity: 'Cookie' is neither 'None' nor 'ClientIP'",
            id="unknown affinity",
        ),
        pytest.param(
            service(internal_traffic_policy="Nearby"),
            ["10.96.0.10:80/TCP"],
            "spec.internalTrafficPolicy: 'Nearby' is neither 'Cluster' nor 'Local'; Cluster is used",
            id="unknown policy",
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
    ("address", "reason"),
    [
        ("10.96.0.10", None),
        ("192.168.1.1", None),
        ("8.8.8.8", None),
        ("fd00::a", None),
        ("2001:db8::1", None),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("127.0.0.1", "loopback"),
        ("127.8.8.8", "loopback"),
        ("::1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("::ffff:127.0.0.1", "IPv4-mapped"),
        ("2001:db8::1%eth0", "zone"),
    ],
)
def test_addresses_that_would_reach_the_node_itself_or_many_are_refused(
    address: str, reason: str | None
) -> None:
    answer = why_not_dialled(ipaddress.ip_address(address))
    assert answer is None if reason is None else answer is not None and reason in answer


def test_the_family_of_an_address() -> None:
    assert family_of(ipaddress.ip_address("10.0.0.1")) is IPFamily.IPV4
    assert family_of(ipaddress.ip_address("fd00::a")) is IPFamily.IPV6


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("a", True),
        ("web-1.example", True),
        ("0", True),
        ("a" * 253, True),
        ("", False),
        ("a" * 254, False),
        ("-a", False),
        ("a-", False),
        ("a.", False),
        (".a", False),
        ("a..b", False),
        ("a.-b", False),
        ("Web", False),
        ("a_b", False),
        ("a/b", False),
        ("a\n", False),
        ("ä", False),
        ('a" -j ACCEPT', False),
    ],
)
def test_names_that_kubernetes_allows(name: str, is_one: bool) -> None:
    assert is_dns_subdomain(name) is is_one


@pytest.mark.parametrize(
    ("number", "is_one"), [(-1, False), (0, False), (1, True), (65535, True), (65536, False)]
)
def test_ports_are_16_bits_without_zero(number: int, is_one: bool) -> None:
    assert is_port(number) is is_one


def test_names_are_written_as_kube_proxy_writes_them_and_keys_differ_by_protocol_and_family() -> None:
    named = ServicePortName(WEB, "http", Protocol.TCP, IPFamily.IPV4)
    unnamed = ServicePortName(WEB, "", Protocol.UDP, IPFamily.IPV6)
    assert (str(named), named.key) == ("default/web:http", "default/web:http TCP IPv4")
    assert (str(unnamed), unnamed.key) == ("default/web", "default/web UDP IPv6")


@pytest.mark.parametrize(
    ("port", "override", "timeouts"),
    [
        pytest.param(8125, None, UdpIdleTimeouts(30.0, 120.0), id="as conntrack keeps them"),
        pytest.param(53, None, UdpIdleTimeouts(10.0, 1.0), id="DNS is over once answered"),
        pytest.param(53, 5.0, UdpIdleTimeouts(5.0, 5.0), id="the flag sets all"),
    ],
)
def test_udp_flows_live_as_long_as_their_service_needs(
    port: int, override: float | None, timeouts: UdpIdleTimeouts
) -> None:
    assert udp_idle_timeouts(Port(port), override) == timeouts


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
        assert port.affinity_timeout_seconds is None or 1 <= port.affinity_timeout_seconds <= 86400
    assert all(problem.field and problem.reason for problem in problems)
