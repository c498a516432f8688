from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given

from tests.support.object_strategies import endpoint_slices
from tests.support.objects import endpoint, endpoint_slice
from userspace_proxy.core import objects
from userspace_proxy.core.endpoint import (
    CheckedSlice,
    Endpoint,
    EndpointHost,
    SlicePort,
    parse_endpoint,
    read_endpoint_slice,
)
from userspace_proxy.core.ip_addresses import family_of, why_not_dialled
from userspace_proxy.core.service_checks import is_port
from userspace_proxy.core.service_port import IPFamily, Port, Protocol, ServiceName


def checked(item: objects.EndpointSlice) -> CheckedSlice:
    read, _ = read_endpoint_slice(item, "test")
    assert read is not None
    return read


def complaints(item: objects.EndpointSlice) -> list[str]:
    return [f"{problem.field}: {problem.reason}" for problem in read_endpoint_slice(item, "test")[1]]


def test_a_slice_becomes_hosts_and_ports_of_its_service() -> None:
    item = endpoint_slice(
        of="web",
        endpoints=["10.244.1.2", endpoint("10.244.1.3", node="node-1", for_nodes=["n"], for_zones=["z"])],
        ports=["http:8080", "dns:53/UDP"],
    )
    nothing: frozenset[str] = frozenset()
    assert read_endpoint_slice(item, "test") == (
        CheckedSlice(
            ServiceName("default", "web"),
            IPFamily.IPV4,
            hosts=(
                EndpointHost("10.244.1.2", True, True, False, None, nothing, nothing),
                EndpointHost("10.244.1.3", True, True, False, "node-1", frozenset({"n"}), frozenset({"z"})),
            ),
            ports=(
                SlicePort("http", Protocol.TCP, Port(8080)),
                SlicePort("dns", Protocol.UDP, Port(53)),
            ),
        ),
        (),
    )


def test_an_ipv6_address_gets_its_canonical_spelling() -> None:
    item = endpoint_slice(address_type="IPv6", endpoints=["FD00:0:0::A"])
    assert [host.address for host in checked(item).hosts] == ["fd00::a"]


@pytest.mark.parametrize(
    ("said", "ready", "serving", "terminating"),
    [
        pytest.param(endpoint("10.244.1.2"), True, True, False, id="nothing said"),
        pytest.param(endpoint("10.244.1.2", ready=True), True, True, False, id="ready"),
        pytest.param(endpoint("10.244.1.2", ready=False), False, False, False, id="serving is as ready"),
        pytest.param(
            endpoint("10.244.1.2", ready=False, serving=True, terminating=True),
            False,
            True,
            True,
            id="serving while terminating",
        ),
        pytest.param(
            endpoint("10.244.1.2", serving=False), True, False, False, id="ready unknown, not serving"
        ),
        pytest.param(endpoint("10.244.1.2", ready=False, terminating=True), False, False, True, id="going"),
    ],
)
def test_conditions_that_are_not_said_have_kubernetes_defaults(
    said: objects.SliceEndpoint, ready: bool, serving: bool, terminating: bool
) -> None:
    (host,) = checked(endpoint_slice(endpoints=[said])).hosts
    assert (host.ready, host.serving, host.terminating) == (ready, serving, terminating)


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(endpoint_slice(of=None), id="of no Service"),
        pytest.param(endpoint_slice(of=""), id="of a Service without a name"),
        pytest.param(endpoint_slice(address_type="FQDN", endpoints=["web.example"]), id="FQDN"),
    ],
)
def test_a_slice_that_no_service_can_use_is_no_problem(item: objects.EndpointSlice) -> None:
    assert read_endpoint_slice(item, "test") == (None, ())


def test_a_slice_of_an_unknown_address_type_is_skipped_and_named() -> None:
    item = endpoint_slice(address_type="IPv5")
    assert read_endpoint_slice(item, "test")[0] is None
    assert complaints(item) == ["addressType: 'IPv5' is none of IPv4, IPv6 and FQDN"]


def test_a_slice_may_be_empty() -> None:
    item = objects.EndpointSlice(endpoint_slice().metadata, "IPv4")
    assert read_endpoint_slice(item, "test") == (
        CheckedSlice(ServiceName("default", "web"), IPFamily.IPV4, (), ()),
        (),
    )


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        pytest.param("10.244.1.300", "'10.244.1.300' is not an IP address", id="no address"),
        pytest.param(
            "fd00::a", "fd00::a is not an IPv4 address as the slice's addressType says", id="family"
        ),
        pytest.param("0.0.0.0", "0.0.0.0 is the unspecified address", id="unspecified"),
        pytest.param("127.0.0.1", "127.0.0.1 is a loopback address", id="loopback"),
        pytest.param("169.254.169.254", "169.254.169.254 is a link-local address", id="link-local"),
        pytest.param("224.0.0.1", "224.0.0.1 is a multicast address", id="multicast"),
    ],
)
def test_a_bad_address_is_named_and_costs_one_endpoint(bad: str, complaint: str) -> None:
    item = endpoint_slice(endpoints=["10.244.1.2", bad, "10.244.1.4"])
    assert [host.address for host in checked(item).hosts] == ["10.244.1.2", "10.244.1.4"]
    assert complaints(item) == [f"endpoints[1].addresses[0]: {complaint}"]


def test_only_the_first_address_of_an_endpoint_counts() -> None:
    item = endpoint_slice(endpoints=[endpoint("10.244.1.2", "no address"), endpoint()])
    assert [host.address for host in checked(item).hosts] == ["10.244.1.2"]
    assert complaints(item) == []


def test_a_bad_port_is_named_and_costs_one_port() -> None:
    item = endpoint_slice(ports=["a:0", "b:65536", "c:8080"])
    assert [port.name for port in checked(item).ports] == ["c"]
    assert complaints(item) == [
        "ports[0].port: 0 is not a port (1-65535)",
        "ports[1].port: 65536 is not a port (1-65535)",
    ]


@pytest.mark.parametrize(
    "port",
    [
        pytest.param(objects.EndpointPort(name="any"), id="all ports"),
        pytest.param(objects.EndpointPort(name="sctp", port=80, protocol="SCTP"), id="SCTP"),
    ],
)
def test_a_port_that_no_service_port_can_mean_is_skipped(port: objects.EndpointPort) -> None:
    item = objects.EndpointSlice(endpoint_slice().metadata, "IPv4", ports=[port])
    assert checked(item).ports == ()
    assert complaints(item) == []


def test_a_problem_says_whose_it_is() -> None:
    _, (problem,) = read_endpoint_slice(endpoint_slice("web-1", ports=["0"]), "web.yaml")
    assert str(problem) == "web.yaml: EndpointSlice default/web-1: ports[0].port: 0 is not a port (1-65535)"


def test_an_ipv6_endpoint_is_written_in_brackets() -> None:
    assert str(Endpoint("10.244.1.2", Port(80))) == "10.244.1.2:80"
    assert str(Endpoint("fd00::a", Port(80))) == "[fd00::a]:80"


@given(endpoint_slices())
def test_whatever_a_slice_says_it_is_read_and_its_endpoints_can_be_dialled(
    item: objects.EndpointSlice,
) -> None:
    read, _ = read_endpoint_slice(item, "test")
    for host in read.hosts if read else ():
        address = ipaddress.ip_address(host.address)
        assert str(address) == host.address
        assert read is not None and family_of(address) is read.family
        assert why_not_dialled(address) is None
    assert all(is_port(port.number) for port in (read.ports if read else ()))


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("192.0.2.1:80", ("192.0.2.1", 80)),
        ("192.0.2.1", ("192.0.2.1", None)),
        ("[2001:DB8::1]:80", ("2001:db8::1", 80)),
        ("[2001:db8::1]", ("2001:db8::1", None)),
        ("2001:db8:0::1", ("2001:db8::1", None)),
    ],
)
def test_what_people_write_for_an_endpoint(text: str, parsed: tuple[str, int | None]) -> None:
    assert parse_endpoint(text) == parsed


@pytest.mark.parametrize(
    "text", ["", "web-1", "web-1:80", "192.0.2.1:http", "[2001:db8::1:80", "192.0.2.1:80:80"]
)
def test_what_is_no_endpoint_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no endpoint such as"):
        parse_endpoint(text)
