"""Which UDP conntrack entries go, and which stay; those of TCP are in `test_conntrack_tcp`."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import (
    EVERY_LOCAL_ADDRESS,
    Frontend,
    IPFamily,
    Port,
    Protocol,
    ProxyPort,
)
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.netlink import conntrack
from userspace_proxy.netlink.conntrack import ConntrackError, delete_stale_entries

CAPTURED = Frontend("10.96.0.1", Protocol.UDP, Port(53))
UNCAPTURED = Frontend("10.96.0.2", Protocol.UDP, Port(53))
UNTOUCHED = Frontend("10.96.0.3", Protocol.UDP, Port(53))
PROXY_PORT = ProxyPort(20001)
OTHER_PORT = ProxyPort(20002)


def allowed(port: ProxyPort | None) -> list[ProxyPort]:
    return [] if port is None else [port]


FAMILIES = {
    IPFamily.IPV4: ("", "10.96.0.0/16", socket.AF_INET),
    IPFamily.IPV6: ("6", "fd00:96::/112", socket.AF_INET6),
}


class Flows:
    """A namespace that sends itself datagrams, of which those to CAPTURED are redirected to PROXY_PORT."""

    def __init__(self, namespace: Namespace, family: IPFamily) -> None:
        self.namespace = namespace
        self.family = family
        suffix, network, self.af = FAMILIES[family]
        namespace.ip(f"route add local {network} dev lo")
        for table, rule in (
            ("filter", ["OUTPUT", "-m", "conntrack", "--ctstate", "NEW"]),
            (
                "nat",
                ["OUTPUT", "-p", "udp", "-d", self.of(CAPTURED).address, "--dport", "53", "-j", "REDIRECT"],
            ),
        ):
            redirect = ["--to-ports", str(PROXY_PORT)] if table == "nat" else []
            namespace.run(f"ip{suffix}tables-nft", "-t", table, "-A", *rule, *redirect)

    def of(self, frontend: Frontend) -> Frontend:
        """The frontend in this family."""
        if self.family is IPFamily.IPV4:
            return frontend
        host = int(ip_address(frontend.address)) & 0xFF
        return Frontend(f"fd00:96::{host:x}", frontend.protocol, frontend.port)

    def send(self, *frontends: Frontend) -> None:
        self.send_to(*map(self.of, frontends))

    def send_to(self, *frontends: Frontend) -> None:
        with self.namespace.call(lambda: socket.socket(self.af, socket.SOCK_DGRAM)) as client:
            for frontend in frontends:
                client.sendto(b"x", (frontend.address, frontend.port))

    def entries(self) -> list[Frontend]:
        """The frontends that conntrack has UDP entries of."""
        text = self.namespace.run("conntrack", "-L", "-f", self.family.value.lower(), "-p", "udp").stdout
        originals = (
            dict(word.split("=") for word in reversed(line.split()) if "=" in word)
            for line in text.splitlines()
        )
        found = {(entry["dst"], int(entry["dport"])) for entry in originals}
        return [
            frontend
            for frontend in (CAPTURED, UNCAPTURED, UNTOUCHED)
            if any(ip_address(dst) == ip_address(self.of(frontend).address) for dst, _ in found)
        ]

    def delete_stale(self, expected: dict[Frontend, ProxyPort | None]) -> int:
        in_family = {self.of(frontend): allowed(port) for frontend, port in expected.items()}
        return self.namespace.call(lambda: delete_stale_entries(self.family, in_family))


@pytest.fixture(params=list(IPFamily), ids=lambda family: family.value)
def flows(request: pytest.FixtureRequest) -> Iterator[Flows]:
    with Namespace("conntrack") as namespace:
        yield Flows(namespace, request.param)


@pytest.fixture(params=[conntrack.FILTERED_DUMPS, 0], ids=["asked for each", "asked once"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "FILTERED_DUMPS", request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("expected", "stay"),
    [
        ({CAPTURED: PROXY_PORT}, [CAPTURED, UNCAPTURED, UNTOUCHED]),
        ({CAPTURED: OTHER_PORT}, [UNCAPTURED, UNTOUCHED]),
        ({CAPTURED: None}, [UNCAPTURED, UNTOUCHED]),
        ({UNCAPTURED: PROXY_PORT}, [CAPTURED, UNTOUCHED]),
        ({CAPTURED: PROXY_PORT, UNCAPTURED: None}, [CAPTURED, UNTOUCHED]),
        ({Frontend("10.96.0.1", Protocol.UDP, Port(54)): None}, [CAPTURED, UNCAPTURED, UNTOUCHED]),
        ({Frontend("10.96.0.1", Protocol.TCP, Port(53)): None}, [CAPTURED, UNCAPTURED, UNTOUCHED]),
        ({}, [CAPTURED, UNCAPTURED, UNTOUCHED]),
    ],
    ids=[
        "leads where expected",
        "leads to another port",
        "must lead nowhere",
        "from before its rule",
        "several frontends",
        "another port of the address",
        "another protocol",
        "nothing asked",
    ],
)
def test_what_is_deleted(
    flows: Flows, expected: dict[Frontend, ProxyPort | None], stay: list[Frontend]
) -> None:
    flows.send(CAPTURED, UNCAPTURED, UNTOUCHED)
    assert flows.entries() == [CAPTURED, UNCAPTURED, UNTOUCHED]
    assert flows.delete_stale(expected) == 3 - len(stay)
    assert flows.entries() == stay


@pytest.mark.usefixtures("way")
def test_a_node_port_is_at_every_address_of_the_node_and_at_no_other(flows: Flows) -> None:
    own = flows.of(Frontend("10.96.0.9", Protocol.UDP, Port(30053)))
    loopback = Frontend("127.0.0.1" if flows.af == socket.AF_INET else "::1", Protocol.UDP, Port(30053))
    elsewhere = Frontend(flows.of(UNTOUCHED).address, Protocol.UDP, Port(30053))
    flows.namespace.ip(f"addr add {own.address} dev lo")
    for frontend in (own, loopback, elsewhere):
        flows.send_to(frontend)
    every = Frontend(EVERY_LOCAL_ADDRESS[flows.family], Protocol.UDP, Port(30053))
    assert flows.namespace.call(lambda: delete_stale_entries(flows.family, {every: [PROXY_PORT]})) == 2
    assert flows.entries() == [UNTOUCHED]


def test_node_ports_that_are_open_on_some_addresses(flows: Flows) -> None:
    """What leads elsewhere at the others is none of ours."""
    addresses = [flows.of(Frontend(f"10.96.0.{host}", Protocol.UDP, Port(30053))) for host in (9, 10)]
    flows.namespace.ip(*(f"addr add {frontend.address} dev lo" for frontend in addresses))
    flows.send_to(*addresses)
    every = Frontend(EVERY_LOCAL_ADDRESS[flows.family], Protocol.UDP, Port(30053))
    networks = [str(ip_network(addresses[0].address))]
    assert (
        flows.namespace.call(
            lambda: delete_stale_entries(flows.family, {every: [PROXY_PORT]}, node_port_networks=networks)
        )
        == 1
    )


@pytest.mark.parametrize(
    ("allowed_ports", "captured", "deleted"),
    [
        ({}, PortRange(20000, 20010), 1),
        ({}, PortRange(20010, 20020), 0),
        ({CAPTURED: [PROXY_PORT]}, PortRange(20000, 20010), 0),
        ({CAPTURED: [OTHER_PORT, PROXY_PORT]}, PortRange(20000, 20010), 0),
        ({UNCAPTURED: [PROXY_PORT]}, PortRange(20000, 20010), 2),
    ],
    ids=["nothing is ours", "other ports", "as it should be", "one of several", "something else is ours"],
)
def test_all_that_leads_to_a_proxy_port_can_be_looked_through(
    flows: Flows, allowed_ports: dict[Frontend, list[ProxyPort]], captured: PortRange, deleted: int
) -> None:
    flows.send(CAPTURED, UNCAPTURED, UNTOUCHED)
    in_family = {flows.of(frontend): ports for frontend, ports in allowed_ports.items()}
    found = flows.namespace.call(
        lambda: delete_stale_entries(flows.family, in_family, captured_ports=captured)
    )
    assert found == deleted
    assert UNTOUCHED in flows.entries()


@pytest.mark.parametrize(("is_bound_there", "deleted"), [(True, 0), (False, 1)])
def test_what_leads_to_another_address_than_listeners_are_bound_to_is_deleted(
    flows: Flows, is_bound_there: bool, deleted: int
) -> None:
    loopback = "127.0.0.1" if flows.af == socket.AF_INET else "::1"
    flows.send(CAPTURED)
    expected = {flows.of(CAPTURED): [PROXY_PORT]}
    bind_address = loopback if is_bound_there else flows.of(UNTOUCHED).address
    found = flows.namespace.call(
        lambda: delete_stale_entries(flows.family, expected, bind_address=bind_address)
    )
    assert found == deleted


def test_what_leads_to_an_address_that_the_node_has_no_more_is_deleted(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "read_local_addresses", lambda family: ())
    flows.send(CAPTURED)
    assert flows.delete_stale({CAPTURED: PROXY_PORT}) == 1


def test_every_client_of_a_frontend_is_freed(flows: Flows) -> None:
    for _ in range(5):
        flows.send(CAPTURED, UNTOUCHED)
    assert flows.delete_stale({CAPTURED: OTHER_PORT}) == 5
    assert flows.entries() == [UNTOUCHED]
    assert flows.delete_stale({CAPTURED: OTHER_PORT}) == 0


def test_an_uncaptured_frontend_on_the_proxy_port_s_number_is_not_mistaken_for_captured(flows: Flows) -> None:
    lookalike = Frontend(UNCAPTURED.address, Protocol.UDP, Port(PROXY_PORT))
    flows.send(lookalike)
    assert flows.delete_stale({lookalike: PROXY_PORT}) == 1


def test_thousands_of_frontends_take_one_dump(flows: Flows) -> None:
    flows.send(CAPTURED, UNCAPTURED)
    many = {
        Frontend(f"10.97.{number >> 8}.{number & 255}", Protocol.UDP, Port(53)): [PROXY_PORT]
        for number in range(5000)
    }
    expected = {flows.of(CAPTURED): [OTHER_PORT], **many}
    assert flows.namespace.call(lambda: delete_stale_entries(flows.family, expected)) == 1
    assert flows.entries() == [UNCAPTURED]


def test_a_refusal_of_the_kernel_s_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, af: socket.AddressFamily) -> None:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(conntrack, "ConntrackSocket", Refusing)
    with pytest.raises(ConntrackError, match="Operation not permitted"):
        delete_stale_entries(IPFamily.IPV4, {CAPTURED: ()})
