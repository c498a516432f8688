"""Services of tests with every kind of frontend in both families, and who gets where by them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.support import objects
from tests.support.clients import (
    PATIENCE_SECONDS,
    REFUSED,
    SILENCE_SECONDS,
    SILENT,
    Address,
    outcome,
)
from tests.support.service_node import PORTS, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.core.objects import Service, SliceEndpoint
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import NODE_NETWORK, POD_NETWORK, POD_NETWORK_V6

FAMILIES = ("IPv4", "IPv6")
PROTOCOLS = ("TCP", "UDP")
KINDS = ("clusterIP", "ingress", "externalIP", "own", "second", "bridge", "loopback")
"""Where a Service is reached; from "own" on these are addresses of the node, for its NodePort."""

EXTERNAL_KINDS = ("ingress", "externalIP", "own")
PLACES = ("pod", "node", "outside", "endpoint")
EVERYBODY = {"web-1", "web-2", "web-3"}

LOCAL = {
    ("second", "IPv4"): str(NODE_NETWORK[11]),
    ("second", "IPv6"): "2001:db8::11",
    ("bridge", "IPv4"): str(POD_NETWORK[1]),
    ("bridge", "IPv6"): str(POD_NETWORK_V6[1]),
    ("loopback", "IPv4"): "127.0.0.1",
    ("loopback", "IPv6"): "::1",
}


@dataclass(frozen=True, slots=True)
class ExposedService:
    """A dual-stack LoadBalancer; its `number` makes addresses and NodePorts its own."""

    name: str
    number: int

    @property
    def node_port(self) -> int:
        """Of TCP and of UDP."""
        return 30000 + self.number

    def manifest(self, **more: Any) -> Service:
        """The Service; `more` is what `objects.service` takes."""
        given: dict[str, Any] = {
            "at": [self.address("clusterIP", family) for family in FAMILIES],
            "type": "LoadBalancer",
            "ports": [f"greet:80@{self.node_port}", f"name:83@{self.node_port}/UDP"],
            "ingress": [self.address("ingress", family) for family in FAMILIES],
            "external_ips": [self.address("externalIP", family) for family in FAMILIES],
        }
        return objects.service(self.name, **given | more)

    def address(self, kind: str, family: str) -> str:
        """An address that is the Service's own."""
        host = self.number + {"clusterIP": 0, "ingress": 0, "externalIP": 100}[kind]
        if kind == "clusterIP":
            return f"10.96.1.{host}" if family == "IPv4" else f"fd00:10:96::{host}"
        return f"203.0.113.{host}" if family == "IPv4" else f"2001:db8:113::{host}"

    def frontend(self, node: ServiceNode, kind: str, family: str, protocol: str) -> Address:
        """Where clients of a kind send to."""
        if kind == "own":
            return (node.node.address if family == "IPv4" else node.node.address_v6), self.node_port
        if (kind, family) in LOCAL:
            return LOCAL[kind, family], self.node_port
        return self.address(kind, family), PORTS["greet" if protocol == "TCP" else "name"]

    def frontends(self, node: ServiceNode, kind: str) -> list[tuple[str, Address]]:
        """Protocol and address: TCP and UDP in each family."""
        return [
            (protocol, self.frontend(node, kind, family, protocol))
            for family in FAMILIES
            for protocol in PROTOCOLS
        ]


def wire_external_addresses(node: ServiceNode) -> None:
    """Let the host outside find the Services' external addresses at the node; give that a second IPv6 one."""
    node.node.ip(f"addr add {LOCAL['second', 'IPv6']}/64 dev eth0")
    node.network.outside.ip(
        f"route add 203.0.113.0/24 via {node.node.address}",
        f"route add 2001:db8:113::/64 via {node.node.address_v6}",
    )


def place_of(node: ServiceNode, place: str) -> Namespace:
    """Where a client is."""
    return {
        "pod": node.client,
        "node": node.node,
        "outside": node.network.outside,
        "endpoint": node.endpoints[0],
    }[place]


def meet(
    where: Namespace,
    frontends: Iterable[tuple[str, Address]],
    count: int = 3,
    *,
    patience_seconds: float = SILENCE_SECONDS,
) -> list[set[str]]:
    """What `count` new clients meet at each of these protocols and addresses, all at once."""

    def client(frontend: tuple[str, Address]) -> str:
        return outcome(where, *frontend, patience_seconds=patience_seconds)

    with ThreadPoolExecutor(12) as threads:
        met = [[threads.submit(client, frontend) for _ in range(count)] for frontend in frontends]
        return [{future.result() for future in futures} for futures in met]


def expect(where: Namespace, frontends: Sequence[tuple[str, Address]], names: set[str]) -> None:
    """New clients meet just `names` at each of these protocols and addresses."""
    if names == {REFUSED}:  # UDP clients hear so six times at once, then once a second; icmp(7)
        for frontend in frontends:
            wait_until_met(where, frontend, names)
    elif names == {SILENT}:
        assert meet(where, frontends, 1) == [names] * len(frontends)
    else:
        assert meet(where, frontends, patience_seconds=PATIENCE_SECONDS) == [names] * len(frontends)


def wait_until_met(where: Namespace, frontend: tuple[str, Address], names: Collection[str]) -> None:
    """Wait until a new client at a protocol and address meets one of `names`."""
    wait_until(lambda: outcome(where, *frontend) in names)


def hinted(endpoint: SliceEndpoint, hints: SliceEndpoint) -> SliceEndpoint:
    """`endpoint` with the hints of another."""
    return msgspec.structs.replace(endpoint, hints=hints.hints)
