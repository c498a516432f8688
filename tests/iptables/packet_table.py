"""One node, its portals, and where packets to them must end: traced on values here, sent for real in netns.

The addresses are those of `userspace_proxy.demo.node_network`; both families have the same portals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import ip_address

from userspace_proxy.core.local_traffic import LocalTraffic
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import (
    EVERY_LOCAL_ADDRESS,
    Frontend,
    IPFamily,
    Port,
    Protocol,
    ProxyPort,
)
from userspace_proxy.iptables.packet_tracer import Delivered, Dropped, Ending, Node, Packet, PassedOn, Refused
from userspace_proxy.iptables.portal_rules import (
    CaptureSettings,
    Destination,
    Portal,
    Refusal,
)

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
TCP, UDP = Protocol.TCP, Protocol.UDP
REJECT, DROP = Refusal.REJECT, Refusal.DROP
PROXY_PORTS = PortRange(20000, 20099)
REFUSING_PORT = ProxyPort(20098)
SILENT_PORT = ProxyPort(20099)
UNRELATED_PORT = 2222
"""A server of the node's own that is none of our business."""


class Sender(Enum):
    POD = "pod"
    ENDPOINT = "endpoint"
    OUTSIDE = "outside"
    NODE = "node"


@dataclass(frozen=True)
class Addresses:
    """What there is in one family. `service` and `external` are beginnings of addresses."""

    node: str
    pod_bridge: str
    loopback: str
    service: str
    external: str
    external_network: str
    pod_network: str
    node_network: str
    senders: Mapping[Sender, str]


ADDRESSES = {
    V4: Addresses(
        node="192.0.2.10",
        pod_bridge="10.244.1.1",
        loopback="127.0.0.1",
        service="10.96.0.",
        external="198.51.100.",
        external_network="198.51.100.0/24",
        pod_network="10.244.1.0/24",
        node_network="192.0.2.0/24",
        senders={
            Sender.POD: "10.244.1.2",
            Sender.ENDPOINT: "10.244.1.3",
            Sender.OUTSIDE: "192.0.2.1",
            Sender.NODE: "192.0.2.10",
        },
    ),
    V6: Addresses(
        node="2001:db8::a",
        pod_bridge="fd00:10:244:1::1",
        loopback="::1",
        service="fd00:10:96::",
        external="2001:db8:1::",
        external_network="2001:db8:1::/64",
        pod_network="fd00:10:244:1::/64",
        node_network="2001:db8::/64",
        senders={
            Sender.POD: "fd00:10:244:1::2",
            Sender.ENDPOINT: "fd00:10:244:1::3",
            Sender.OUTSIDE: "2001:db8::1",
            Sender.NODE: "2001:db8::a",
        },
    ),
}
NODE_ADDRESS = ADDRESSES[V4].node


def to(place: int | Refusal) -> Destination:
    """A destination that serves at a proxy port or refuses."""
    return (
        Destination(ProxyPort(20050), place) if isinstance(place, Refusal) else Destination(ProxyPort(place))
    )


def portal(
    address: str,
    protocol: Protocol,
    port: int,
    outside: int | Refusal,
    inside: int | Refusal | None = None,
    source_ranges: tuple[str, ...] | None = None,
) -> Portal:
    """A portal where both classes go to one place, unless it says another for what comes from inside."""
    return Portal(
        Frontend(address, protocol, Port(port)),
        f"default/s{port}:p",
        to(outside),
        to(outside if inside is None else inside),
        source_ranges,
    )


def portals(family: IPFamily) -> tuple[Portal, ...]:
    """Of every kind, in one family."""
    addresses = ADDRESSES[family]
    service, external, everywhere = addresses.service, addresses.external, EVERY_LOCAL_ADDRESS[family]
    outside_only = (f"{addresses.senders[Sender.OUTSIDE]}",)
    pods_and_a_stranger = ("203.0.113.0/24" if family is V4 else "2001:db8:9::/48", addresses.pod_network)
    return (
        portal(f"{service}1", TCP, 80, 20001),
        portal(f"{service}10", TCP, 53, 20002),
        portal(f"{service}10", UDP, 53, 20003),
        portal(f"{service}2", TCP, 80, REJECT),
        portal(f"{service}2", UDP, 53, REJECT),
        portal(f"{service}3", TCP, 80, DROP),
        portal(f"{service}3", UDP, 53, DROP),
        portal(f"{external}1", TCP, 80, 20010, 20011),
        portal(f"{external}1", UDP, 53, 20010, 20011),
        portal(f"{external}2", TCP, 80, DROP, 20012),
        portal(f"{external}2", UDP, 53, DROP, 20012),
        portal(f"{external}3", TCP, 80, 20013, 20014, outside_only),
        portal(f"{external}3", UDP, 53, 20013, 20014, outside_only),
        portal(f"{external}4", TCP, 80, 20015, 20016, pods_and_a_stranger),
        portal(f"{external}4", UDP, 53, 20015, 20016, pods_and_a_stranger),
        portal(f"{external}5", TCP, 80, 20017, 20018, (addresses.node_network,)),
        portal(f"{external}6", TCP, 80, REJECT, source_ranges=outside_only),
        portal(f"{external}7", TCP, 80, 20019, source_ranges=()),
        portal(everywhere, TCP, 30080, 20020, 20021),
        portal(everywhere, UDP, 30080, 20020, 20021),
        portal(everywhere, TCP, 30081, DROP, 20022),
        portal(everywhere, UDP, 30081, DROP, 20022),
        portal(everywhere, TCP, 30082, REJECT),
        portal(everywhere, UDP, 30082, REJECT),
        portal(everywhere, UDP, 30083, 20023),
    )


PORTALS = portals(V4)


@dataclass(frozen=True)
class Wiring:
    """How the node's pods hang on it, in one family, and what its settings are then."""

    name: str
    node: Node
    pod_interface: str
    settings: CaptureSettings

    @property
    def family(self) -> IPFamily:
        return self.settings.family

    @property
    def addresses(self) -> Addresses:
        return ADDRESSES[self.family]

    def __str__(self) -> str:
        return f"{self.name} {self.family.value}"

    def knows_as_inside(self, sender: Sender) -> bool:
        is_pod = sender in (Sender.POD, Sender.ENDPOINT)
        return sender is Sender.NODE or (is_pod and bool(self.settings.local_traffic))

    def proxy_address_for(self, sender: Sender) -> str:
        """Where a proxy port is for what this sender sends."""
        if self.settings.bind_address:
            return self.settings.bind_address
        if self.settings.node_address:
            return self.settings.node_address
        if sender is Sender.NODE:
            return self.addresses.loopback
        return self.node.interfaces[self.interface_of(sender) or "lo"][0]

    def interface_of(self, sender: Sender) -> str | None:
        if sender is Sender.NODE:
            return None
        return "eth0" if sender is Sender.OUTSIDE else self.pod_interface


def wirings(family: IPFamily) -> tuple[Wiring, ...]:
    addresses = ADDRESSES[family]
    settings = CaptureSettings(family, PROXY_PORTS, REFUSING_PORT, SILENT_PORT)
    by_network = (LocalTraffic(source=addresses.pod_network),)
    bridged = Node({"eth0": (addresses.node,), "cni0": (addresses.pod_bridge,)}, REFUSING_PORT)
    unnumbered = Node({"eth0": (addresses.node,), "veth2": ()}, REFUSING_PORT)
    return (
        Wiring("bridged pods", bridged, "cni0", replace(settings, local_traffic=by_network)),
        Wiring(
            "pods known by their bridge",
            bridged,
            "cni0",
            replace(settings, local_traffic=(LocalTraffic(in_interface="cni0"),)),
        ),
        Wiring(
            "unnumbered veths",
            unnumbered,
            "veth2",
            replace(
                settings, node_address=addresses.node, local_traffic=(LocalTraffic(in_interface="veth+"),)
            ),
        ),
        Wiring("a bind address", bridged, "cni0", replace(settings, bind_address=addresses.node)),
    )


BRIDGED, BY_BRIDGE, UNNUMBERED, BOUND = wirings(V4)
WIRINGS = (*wirings(V4), *wirings(V6))


@dataclass(frozen=True)
class Classes:
    """The proxy ports that answer, or what happens instead, to each class of traffic."""

    outside: int | Ending
    inside: int | Ending


@dataclass(frozen=True)
class Sent:
    """A packet, and the proxy port that answers it or what happens instead."""

    sender: Sender
    protocol: Protocol
    destination: str
    port: int
    ends: int | Ending | Classes

    def __str__(self) -> str:
        return f"{self.sender.value} to {self.destination}:{self.port} {self.protocol.value}"

    def ending(self, wiring: Wiring) -> Ending:
        ends = self.ends
        if isinstance(ends, Classes):
            ends = ends.inside if wiring.knows_as_inside(self.sender) else ends.outside
        return Delivered(wiring.proxy_address_for(self.sender), ends) if isinstance(ends, int) else ends

    def packet(self, wiring: Wiring) -> Packet:
        addresses = wiring.addresses
        to_itself = ip_address(self.destination).is_loopback
        source = addresses.loopback if to_itself else addresses.senders[self.sender]
        return Packet(self.protocol, self.destination, self.port, wiring.interface_of(self.sender), source)


def packets(wiring: Wiring) -> tuple[Sent, ...]:
    """The table. What a sender meets who is in none of a portal's source ranges is silence."""
    addresses, family = wiring.addresses, wiring.family
    local_addresses = [address for own in wiring.node.interfaces.values() for address in own]
    return (
        *(sent for sender in Sender for sent in _to_addresses(sender, addresses, family)),
        *(
            sent
            for sender in Sender
            for address in local_addresses
            for sent in _to_the_node(sender, address, family)
        ),
        *_to_the_node(Sender.NODE, addresses.loopback, family),
    )


def _to_addresses(sender: Sender, addresses: Addresses, family: IPFamily) -> Iterator[Sent]:
    service, external = addresses.service, addresses.external
    is_pod = sender in (Sender.POD, Sender.ENDPOINT)

    def sent(address: str, protocol: Protocol, port: int, ends: int | Ending | Classes) -> Sent:
        return Sent(sender, protocol, address, port, ends)

    yield sent(f"{service}1", TCP, 80, 20001)
    yield sent(f"{service}10", TCP, 53, 20002)
    yield sent(f"{service}10", UDP, 53, 20003)
    yield sent(f"{service}2", TCP, 80, Refused("tcp-reset"))
    yield sent(f"{service}2", UDP, 53, _udp_refused(family))
    yield sent(f"{service}3", TCP, 80, Dropped())
    yield sent(f"{service}3", UDP, 53, Dropped())
    yield sent(f"{service}1", UDP, 80, PassedOn())
    yield sent(f"{service}1", TCP, 81, PassedOn())
    yield sent(f"{service}1", TCP, 30080, PassedOn())
    for protocol, port in ((TCP, 80), (UDP, 53)):
        yield sent(f"{external}1", protocol, port, Classes(20010, 20011))
        yield sent(f"{external}2", protocol, port, Classes(Dropped(), 20012))
        may_use_3 = sender is Sender.OUTSIDE
        yield sent(f"{external}3", protocol, port, 20013 if may_use_3 else Dropped())
        yield sent(f"{external}4", protocol, port, Classes(20015, 20016) if is_pod else Dropped())
    yield sent(f"{external}5", TCP, 80, Dropped() if is_pod else Classes(20017, 20018))
    yield sent(f"{external}6", TCP, 80, Refused("tcp-reset") if sender is Sender.OUTSIDE else Dropped())
    yield sent(f"{external}7", TCP, 80, Dropped())


def _to_the_node(sender: Sender, address: str, family: IPFamily) -> Iterator[Sent]:
    """NodePorts, proxy ports themselves, and what is none of our business."""
    for protocol in Protocol:
        yield Sent(sender, protocol, address, 30080, Classes(20020, 20021))
        yield Sent(sender, protocol, address, 30081, Classes(Dropped(), 20022))
        refused = Refused("tcp-reset") if protocol is TCP else _udp_refused(family)
        yield Sent(sender, protocol, address, 30082, refused)
        yield Sent(sender, protocol, address, 20001, Dropped())
        yield Sent(sender, protocol, address, SILENT_PORT, Dropped())
        yield Sent(sender, protocol, address, UNRELATED_PORT, Delivered(address, UNRELATED_PORT))
    yield Sent(sender, UDP, address, 30083, 20023)


def _udp_refused(family: IPFamily) -> Refused:
    return Refused("icmp-port-unreachable" if family is V4 else "icmp6-port-unreachable")
