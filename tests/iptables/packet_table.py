"""One node, its portals, and where packets to them must end: traced on values here, sent for real in netns.

The addresses are those of `userspace_proxy.demo.node_network`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tests.support.packet_tracer import Delivered, Dropped, Ending, Node, Packet, PassedOn, Refused
from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, ProxyPort
from userspace_proxy.iptables.portal_rules import CaptureSettings, Portal, Refusal
from userspace_proxy.iptables.rules import PortRange

TCP, UDP = Protocol.TCP, Protocol.UDP
NODE_ADDRESS = "192.0.2.10"
POD_BRIDGE = "10.244.1.1"
PROXY_PORTS = PortRange(20000, 20099)
REFUSING_PORT = ProxyPort(20098)
SILENT_PORT = ProxyPort(20099)
UNRELATED_PORT = 2222
"""A server of the node's own that is none of our business."""


def portal(
    address: str, protocol: Protocol, port: int, proxy_port: int, refusal: Refusal | None = None
) -> Portal:
    frontend = Frontend(address, protocol, Port(port))
    return Portal(frontend, ProxyPort(proxy_port), f"default/s{proxy_port}:p", refusal)


PORTALS = (
    portal("10.96.0.1", TCP, 80, 20001),
    portal("10.96.0.10", TCP, 53, 20002),
    portal("10.96.0.10", UDP, 53, 20003),
    portal("10.96.0.2", TCP, 80, 20004, Refusal.REJECT),
    portal("10.96.0.2", UDP, 53, 20005, Refusal.REJECT),
    portal("10.96.0.3", TCP, 80, 20006, Refusal.DROP),
    portal("10.96.0.3", UDP, 53, 20007, Refusal.DROP),
)


class Sender(Enum):
    POD = "pod"
    OUTSIDE = "outside"
    NODE = "node"


@dataclass(frozen=True)
class Wiring:
    """How the node's pods hang on it and what its settings are then."""

    name: str
    node: Node
    pod_interface: str
    settings: CaptureSettings
    proxy_address_for: dict[Sender, str]


BRIDGED = Wiring(
    "bridged pods",
    Node({"eth0": (NODE_ADDRESS,), "cni0": (POD_BRIDGE,)}, REFUSING_PORT),
    "cni0",
    CaptureSettings(IPFamily.IPV4, PROXY_PORTS, REFUSING_PORT, SILENT_PORT),
    {Sender.POD: POD_BRIDGE, Sender.OUTSIDE: NODE_ADDRESS, Sender.NODE: "127.0.0.1"},
)
UNNUMBERED = Wiring(
    "unnumbered veths",
    Node({"eth0": (NODE_ADDRESS,), "veth2": ()}, REFUSING_PORT),
    "veth2",
    CaptureSettings(IPFamily.IPV4, PROXY_PORTS, REFUSING_PORT, SILENT_PORT, node_address=NODE_ADDRESS),
    {Sender.POD: NODE_ADDRESS, Sender.OUTSIDE: NODE_ADDRESS, Sender.NODE: "127.0.0.1"},
)
BOUND = Wiring(
    "a bind address",
    Node({"eth0": (NODE_ADDRESS,), "cni0": (POD_BRIDGE,)}, REFUSING_PORT),
    "cni0",
    CaptureSettings(IPFamily.IPV4, PROXY_PORTS, REFUSING_PORT, SILENT_PORT, bind_address=NODE_ADDRESS),
    dict.fromkeys(Sender, NODE_ADDRESS),
)
WIRINGS = (BRIDGED, UNNUMBERED, BOUND)


@dataclass(frozen=True)
class Sent:
    """A packet, and the proxy port that answers it or what happens instead."""

    sender: Sender
    protocol: Protocol
    destination: str
    port: int
    ends: int | Ending

    def __str__(self) -> str:
        return f"{self.sender.value} to {self.destination}:{self.port} {self.protocol.value}"

    def ending(self, wiring: Wiring) -> Ending:
        if isinstance(self.ends, int):
            return Delivered(wiring.proxy_address_for[self.sender], self.ends)
        return self.ends

    def packet(self, wiring: Wiring) -> Packet:
        interfaces = {Sender.POD: wiring.pod_interface, Sender.OUTSIDE: "eth0", Sender.NODE: None}
        return Packet(self.protocol, self.destination, self.port, interfaces[self.sender])


def _from(sender: Sender) -> tuple[Sent, ...]:
    return (
        Sent(sender, TCP, "10.96.0.1", 80, 20001),
        Sent(sender, TCP, "10.96.0.10", 53, 20002),
        Sent(sender, UDP, "10.96.0.10", 53, 20003),
        Sent(sender, TCP, "10.96.0.2", 80, Refused("tcp-reset")),
        Sent(sender, UDP, "10.96.0.2", 53, Refused("icmp-port-unreachable")),
        Sent(sender, TCP, "10.96.0.3", 80, Dropped()),
        Sent(sender, UDP, "10.96.0.3", 53, Dropped()),
        Sent(sender, UDP, "10.96.0.1", 80, PassedOn()),
        Sent(sender, TCP, "10.96.0.1", 81, PassedOn()),
        Sent(sender, TCP, NODE_ADDRESS, 20001, Dropped()),
        Sent(sender, UDP, NODE_ADDRESS, 20003, Dropped()),
        Sent(sender, TCP, NODE_ADDRESS, 20004, Dropped()),
        Sent(sender, TCP, NODE_ADDRESS, UNRELATED_PORT, Delivered(NODE_ADDRESS, UNRELATED_PORT)),
        Sent(sender, UDP, NODE_ADDRESS, UNRELATED_PORT, Delivered(NODE_ADDRESS, UNRELATED_PORT)),
    )


PACKETS = (
    *(packet for sender in Sender for packet in _from(sender)),
    Sent(Sender.NODE, TCP, "127.0.0.1", 20001, Dropped()),
    Sent(Sender.NODE, UDP, "127.0.0.1", 20003, Dropped()),
)
