"""--nodeport-addresses, and addresses and interfaces that come and go while NodePorts are served."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import objects
from tests.support.clients import REFUSED, SILENT, outcomes, udp_client, who_answers
from tests.support.exposed_service import (
    EVERYBODY,
    FAMILIES,
    PROTOCOLS,
    ExposedService,
    expect,
    meet,
    place_of,
    wait_until_met,
    wire_external_addresses,
)
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.node_network import PodWiring

SERVICE = ExposedService("serving", 1)
CIDRS = {
    "192.0.2.8/30,2001:db8::10/124": {("second", "IPv4"), ("own", "IPv4"), ("second", "IPv6")},
    "192.0.2.11/32,::1/128": {("second", "IPv4"), ("loopback", "IPv6")},
    "127.0.0.0/8": {("loopback", "IPv4"), *((kind, "IPv6") for kind in ("own", "second", "loopback"))},
    "primary": {("own", "IPv4"), ("own", "IPv6")},
}
"""What the flag says, and which of the addresses are served."""


@pytest.mark.parametrize("backend", ["nft", "python-iptables"])
@pytest.mark.parametrize("cidrs", CIDRS)
def test_node_ports_are_on_these_addresses_alone(tmp_path: Path, cidrs: str, backend: str) -> None:
    flags = ("--nodeport-addresses", cidrs, "--iptables-backend", backend)
    with ServiceNode(tmp_path, *flags, ipv6=True, second_node_address=True, endpoints=1) as node:
        wire_external_addresses(node)
        node.objects.apply(SERVICE.manifest())
        node.apply_endpoints("serving", node.endpoint_on(node.endpoints[0]))
        node.agent.start()
        for family in FAMILIES:
            wait_until_met(node.node, ("UDP", SERVICE.frontend(node, "clusterIP", family, "UDP")), {"web-1"})
        for place in ("node", "outside", "pod"):
            for kind in ("own", "second", "loopback"):
                if kind == "loopback" and place != "node":
                    continue
                for family in FAMILIES:
                    expected = "web-1" if (kind, family) in CIDRS[cidrs] else REFUSED
                    for protocol in PROTOCOLS:
                        address = SERVICE.frontend(node, kind, family, protocol)
                        wait_until_met(place_of(node, place), (protocol, address), {expected})


@pytest.mark.parametrize("backend", ["nft", "python-iptables"])
def test_lasting_udp_clients_follow_node_ports_to_other_addresses(tmp_path: Path, backend: str) -> None:
    """Rules change, and what conntrack remembers of clients has to go."""
    flags = ("--nodeport-addresses", "primary", "--iptables-backend", backend)
    with ServiceNode(tmp_path, *flags, ipv6=True, second_node_address=True, endpoints=1) as node:
        wire_external_addresses(node)
        node.objects.apply(SERVICE.manifest())
        node.apply_endpoints("serving", node.endpoint_on(node.endpoints[0]))
        node.agent.start()
        own, second = (
            [SERVICE.frontend(node, kind, family, "UDP") for family in FAMILIES] for kind in ("own", "second")
        )
        for address in own:
            wait_until_met(node.network.outside, ("UDP", address), {"web-1"})
        with ExitStack() as stack:
            before, after = (
                [stack.enter_context(udp_client(node.network.outside, address)) for address in addresses]
                for addresses in (own, second)
            )
            wait_until_heard(before, "web-1")
            wait_until_heard(after, REFUSED)
            node.objects.apply(objects.node("node-1", internal_ips=[host for host, _ in second]))
            wait_until_heard(before, REFUSED)
            wait_until_heard(after, "web-1")


def wait_until_heard(clients: Sequence[socket.socket], expected: str) -> None:
    """Wait until each client hears that. Refusals are told once a second, so not all at one time."""
    waiting = list(clients)
    while waiting:
        wait_until(lambda: answer(waiting[0]) == expected)
        del waiting[0]


def answer(client: socket.socket) -> str:
    """What a client hears that asks once more."""
    client.settimeout(0.2)
    try:
        return who_answers([client])[0]
    except ConnectionRefusedError:
        return REFUSED
    except TimeoutError:
        return SILENT


def test_addresses_and_interfaces_come_and_go(tmp_path: Path) -> None:
    with ServiceNode(tmp_path, ipv6=True, second_node_address=True) as node:
        wire_external_addresses(node)
        node.objects.apply(SERVICE.manifest())
        node.apply_endpoints("serving", *map(node.endpoint_on, node.endpoints))
        node.agent.start()
        wait_until_met(node.node, ("UDP", ("::1", SERVICE.node_port)), EVERYBODY)
        outside = node.network.outside
        for address, network in (("192.0.2.77", "24"), ("2001:db8::77", "64")):
            node.node.ip(f"addr add {address}/{network} dev eth0")
            for protocol in PROTOCOLS:
                wait_until_met(outside, (protocol, (address, SERVICE.node_port)), EVERYBODY)
                assert outcomes(node.node, protocol, (address, SERVICE.node_port)) == EVERYBODY
            node.node.ip(f"addr del {address}/{network} dev eth0")
            for kind in ("own", "clusterIP"):
                expect(outside, SERVICE.frontends(node, kind), EVERYBODY)
        # A pod behind a host veth without an address, and all of them served from then on and after it left.
        node.network.wiring = PodWiring.UNNUMBERED
        pod = node.network.add_pod("unnumbered")
        for kind in ("clusterIP", "own", "ingress"):
            wait_until(lambda kind=kind: meet(pod, SERVICE.frontends(node, kind)) == [EVERYBODY] * 4)  # type: ignore[misc]
        for place in ("pod", "node", "outside", "endpoint"):
            for kind in ("clusterIP", "own", "ingress"):
                expect(place_of(node, place), SERVICE.frontends(node, kind), EVERYBODY)
        node.network.remove_pod("unnumbered")
        for place in ("pod", "node", "outside"):
            expect(place_of(node, place), SERVICE.frontends(node, "own"), EVERYBODY)
