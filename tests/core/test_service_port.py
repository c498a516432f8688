from __future__ import annotations

import pytest

from userspace_proxy.core.service_port import (
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
CLUSTER, LOCAL = TrafficPolicy.CLUSTER, TrafficPolicy.LOCAL
IPV4_NAME = ServicePortName(WEB, "http", Protocol.TCP, IPFamily.IPV4)
IPV6_NAME = ServicePortName(WEB, "http", Protocol.UDP, IPFamily.IPV6)


def exposures(port: ServicePort) -> list[str]:
    """Each exposure as `frontend outside/inside`, and ` from RANGES` where not everybody is let in."""
    return [
        f"{item.frontend} {item.outside.value}/{item.inside.value}"
        + (f" from {','.join(item.source_ranges) or 'nobody'}" if item.source_ranges is not None else "")
        for item in port.exposures()
    ]


def test_names_are_written_as_kube_proxy_writes_them_and_keys_differ_by_protocol_and_family() -> None:
    named = ServicePortName(WEB, "http", Protocol.TCP, IPFamily.IPV4)
    unnamed = ServicePortName(WEB, "", Protocol.UDP, IPFamily.IPV6)
    assert (str(named), named.key) == ("default/web:http", "default/web:http TCP IPv4")
    assert (str(unnamed), unnamed.key) == ("default/web", "default/web UDP IPv6")
    assert [ServicePortName.from_key(name.key) for name in (named, unnamed)] == [named, unnamed]


@pytest.mark.parametrize("key", ["", "default/web", "web TCP IPv4", "default/web SCTP IPv4", "a/b TCP IPv5"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ServicePortName.from_key(key)


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


@pytest.mark.parametrize(
    ("internal", "external", "expected"),
    [
        (CLUSTER, CLUSTER, ["Cluster/Cluster", "Cluster/Cluster"]),
        (LOCAL, CLUSTER, ["Local/Local", "Cluster/Cluster"]),
        (CLUSTER, LOCAL, ["Cluster/Cluster", "Local/Cluster"]),
        (LOCAL, LOCAL, ["Local/Local", "Local/Cluster"]),
    ],
)
def test_one_policy_is_for_the_cluster_ip_and_the_other_for_what_comes_from_outside_to_the_rest(
    internal: TrafficPolicy, external: TrafficPolicy, expected: list[str]
) -> None:
    port = ServicePort(
        name=IPV4_NAME,
        cluster_ip="10.96.0.10",
        port=Port(80),
        internal_traffic_policy=internal,
        external_traffic_policy=external,
        node_port=Port(30080),
        external_ips=("198.51.100.1",),
        load_balancer_ips=("203.0.113.1",),
    )
    at_cluster_ip, elsewhere = expected
    assert exposures(port) == [
        f"10.96.0.10:80/TCP {at_cluster_ip}",
        f"203.0.113.1:80/TCP {elsewhere}",
        f"198.51.100.1:80/TCP {elsewhere}",
        f"0.0.0.0:30080/TCP {elsewhere}",
    ]


def test_a_node_port_is_on_every_address_of_its_family() -> None:
    port = ServicePort(name=IPV6_NAME, cluster_ip="fd00::a", port=Port(53), node_port=Port(30053))
    assert exposures(port) == ["[fd00::a]:53/UDP Cluster/Cluster", "[::]:30053/UDP Cluster/Cluster"]


@pytest.mark.parametrize(
    ("ranges", "suffix"),
    [
        pytest.param(None, "", id="everybody"),
        pytest.param(("192.0.2.0/24",), " from 192.0.2.0/24", id="some"),
        pytest.param((), " from nobody", id="nobody"),
    ],
)
def test_source_ranges_limit_the_load_balancers_addresses_alone(
    ranges: tuple[str, ...] | None, suffix: str
) -> None:
    port = ServicePort(
        name=IPV4_NAME,
        cluster_ip="10.96.0.10",
        port=Port(80),
        node_port=Port(30080),
        external_ips=("198.51.100.1",),
        load_balancer_ips=("203.0.113.1", "203.0.113.2"),
        source_ranges=ranges,
    )
    assert exposures(port) == [
        "10.96.0.10:80/TCP Cluster/Cluster",
        f"203.0.113.1:80/TCP Cluster/Cluster{suffix}",
        f"203.0.113.2:80/TCP Cluster/Cluster{suffix}",
        "198.51.100.1:80/TCP Cluster/Cluster",
        "0.0.0.0:30080/TCP Cluster/Cluster",
    ]


def test_an_external_ip_that_is_the_load_balancers_too_is_one_frontend_and_limited() -> None:
    port = ServicePort(
        name=IPV4_NAME,
        cluster_ip="10.96.0.10",
        port=Port(80),
        external_ips=("203.0.113.1", "203.0.113.1"),
        load_balancer_ips=("203.0.113.1", "203.0.113.1"),
        source_ranges=("192.0.2.0/24",),
    )
    assert exposures(port) == [
        "10.96.0.10:80/TCP Cluster/Cluster",
        "203.0.113.1:80/TCP Cluster/Cluster from 192.0.2.0/24",
    ]


def test_an_external_ip_that_is_the_cluster_ip_keeps_the_cluster_ips_policy() -> None:
    port = ServicePort(
        name=IPV4_NAME,
        cluster_ip="10.96.0.10",
        port=Port(80),
        internal_traffic_policy=LOCAL,
        external_ips=("10.96.0.10",),
    )
    assert exposures(port) == ["10.96.0.10:80/TCP Local/Local"]
