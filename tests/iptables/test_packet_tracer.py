"""What following a packet costs whoever waits meanwhile; tests of the rules try where it ends."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network

import pytest

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Port, Protocol
from userspace_proxy.iptables import packet_tracer
from userspace_proxy.iptables.chains import Chain, Table
from userspace_proxy.iptables.packet_tracer import Delivered, Node, Packet, trace
from userspace_proxy.iptables.rules import Hook, Jump, Place, Redirect, Rule, RuleSet

PORTALS = Chain(Table.NAT, "PORTALS")


def portal(address: str, proxy_port: int) -> Rule:
    return Rule(
        target=Redirect(Port(proxy_port)),
        protocol=Protocol.TCP,
        destination=address,
        destination_ports=PortRange(80, 80),
    )


def test_addresses_of_many_services_are_compared_and_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(text: str) -> IPv4Network:
        read.append(text)
        return IPv4Network(ip_network(text))

    monkeypatch.setattr(packet_tracer, "ip_network", counted)
    rules = (*(portal(f"10.96.0.{host}", 11000 + host) for host in range(250)), portal("10.97.0.0/16", 12000))
    hook = Hook(Chain(Table.NAT, "PREROUTING"), PORTALS, Rule(target=Jump("PORTALS")), Place.FIRST)
    rule_set = RuleSet(chains={PORTALS: rules}, hooks=(hook,))
    node = Node({"eth0": ("192.0.2.1",)})
    for destination, proxy_port in (("10.96.0.249", 11249), ("10.97.3.4", 12000)):
        packet = Packet(Protocol.TCP, destination, 80, "eth0", "203.0.113.1")
        assert trace(rule_set, packet, node) == Delivered("192.0.2.1", proxy_port)
    assert read == ["10.97.0.0/16"]
