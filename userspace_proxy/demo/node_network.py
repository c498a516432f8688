"""One Kubernetes node as network namespaces: its pods, and a host beyond the node on the same network.

    outside eth0 192.0.2.1 ── 192.0.2.10 eth0 node ── cni0 10.244.1.1 ─┬─ eth0 10.244.1.2 pod
                                                                        └─ eth0 10.244.1.3 pod

With `PodWiring.UNNUMBERED` there is no bridge: each pod hangs on a host veth without an address, with proxy
ARP and a route of its own, which is how Calico does it.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from userspace_proxy.demo.closing import Closing
from userspace_proxy.demo.namespaces import Namespace

NODE_NETWORK: Final = IPv4Network("192.0.2.0/24")
NODE_NETWORK_V6: Final = IPv6Network("2001:db8::/64")
POD_NETWORK: Final = IPv4Network("10.244.1.0/24")
POD_NETWORK_V6: Final = IPv6Network("fd00:10:244:1::/64")
SERVICE_NETWORK: Final = IPv4Network("10.96.0.0/16")
SERVICE_NETWORK_V6: Final = IPv6Network("fd00:10:96::/112")

_UNNUMBERED_GATEWAY: Final = "169.254.1.1"


class PodWiring(Enum):
    """How pods hang on the node."""

    BRIDGE = "bridge"
    UNNUMBERED = "unnumbered"


class NodeNetwork(Closing):
    """A node, its pods, and a host outside; `close` takes all of them down.

    `prefix` begins the namespaces' names. With `ipv6` everything has an IPv6 address too.
    `second_node_address` gives the node another IPv4 address on eth0, 192.0.2.11.
    """

    def __init__(
        self,
        prefix: str = "",
        wiring: PodWiring = PodWiring.BRIDGE,
        *,
        ipv6: bool = False,
        second_node_address: bool = False,
    ) -> None:
        self.wiring = wiring
        self.ipv6 = ipv6
        self.pods: dict[str, Namespace] = {}
        self._prefix = prefix
        self._pod_hosts = itertools.count(2)
        self._open = ExitStack()
        with self.closed_on_failure():
            self.outside = self._namespace("outside", NODE_NETWORK[1], NODE_NETWORK_V6[1])
            self.node = self._namespace("node", NODE_NETWORK[10], NODE_NETWORK_V6[10])
            self._wire_node(second_node_address)

    def close(self) -> None:
        """Kill everything inside and delete the namespaces."""
        self._open.close()

    def add_pod(self, name: str) -> Namespace:
        """Start an empty pod with the next address and a default route to the node."""
        host = next(self._pod_hosts)
        pod = self._namespace(name, POD_NETWORK[host], POD_NETWORK_V6[host])
        veth = f"veth{host}"
        self.node.ip(f"link add {veth} type veth peer name eth0 netns {pod.name}")
        if self.wiring is PodWiring.BRIDGE:
            self._wire_bridged(pod, veth)
        else:
            self._wire_unnumbered(pod, veth)
        self.pods[name] = pod
        return pod

    def remove_pod(self, name: str) -> None:
        """Kill a pod with all that runs in it; its address answers nobody from now on."""
        self.pods.pop(name).close()

    def _namespace(self, name: str, address: IPv4Address, address_v6: IPv6Address) -> Namespace:
        namespace = Namespace(self._prefix + name, str(address), str(address_v6) if self.ipv6 else "")
        self._open.callback(namespace.close)
        if self.ipv6:  # an address that is still being checked for duplicates neither asks nor answers
            namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")
        return namespace

    def _wire_node(self, second_node_address: bool) -> None:
        node, outside = self.node, self.outside
        node.sysctl("net.ipv4.ip_forward", "1")
        outside.ip(
            f"link add eth0 type veth peer name eth0 netns {node.name}",
            f"addr add {outside.address}/24 dev eth0",
            "link set eth0 up",
        )
        node.ip(
            f"addr add {node.address}/24 dev eth0",
            *([f"addr add {NODE_NETWORK[11]}/24 dev eth0"] if second_node_address else []),
            "link set eth0 up",
            f"route add default via {outside.address}",
        )
        outside.ip(*(f"route add {network} via {node.address}" for network in (POD_NETWORK, SERVICE_NETWORK)))
        if self.wiring is PodWiring.BRIDGE:
            node.ip("link add cni0 type bridge", f"addr add {POD_NETWORK[1]}/24 dev cni0", "link set cni0 up")
        if self.ipv6:
            self._wire_node_v6()

    def _wire_node_v6(self) -> None:
        node, outside = self.node, self.outside
        node.sysctl("net.ipv6.conf.all.forwarding", "1")
        outside.ip(f"addr add {outside.address_v6}/64 dev eth0")
        node.ip(
            f"addr add {node.address_v6}/64 dev eth0",
            f"route add default via {outside.address_v6}",
        )
        if self.wiring is PodWiring.BRIDGE:
            node.ip(f"addr add {POD_NETWORK_V6[1]}/64 dev cni0")
        outside.ip(
            *(
                f"route add {network} via {node.address_v6}"
                for network in (POD_NETWORK_V6, SERVICE_NETWORK_V6)
            )
        )

    def _wire_bridged(self, pod: Namespace, veth: str) -> None:
        self.node.ip(f"link set {veth} master cni0", f"link set {veth} up")
        pod.ip(
            f"addr add {pod.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {POD_NETWORK[1]}",
        )
        if self.ipv6:
            pod.ip(
                f"addr add {pod.address_v6}/64 dev eth0",
                f"route add default via {POD_NETWORK_V6[1]}",
            )

    def _wire_unnumbered(self, pod: Namespace, veth: str) -> None:
        self.node.sysctl(f"net.ipv4.conf.{veth}.proxy_arp", "1")
        # Proxy ARP answers after a random delay of up to 0.8 s unless told otherwise; arp(7).
        self.node.sysctl(f"net.ipv4.neigh.{veth}.proxy_delay", "0")
        self.node.ip(f"link set {veth} up", f"route add {pod.address}/32 dev {veth}")
        pod.ip(
            f"addr add {pod.address}/32 dev eth0",
            "link set eth0 up",
            f"route add {_UNNUMBERED_GATEWAY} dev eth0 scope link",
            f"route add default via {_UNNUMBERED_GATEWAY}",
        )
        if self.ipv6:
            self.node.ip(f"route add {pod.address_v6}/128 dev {veth}")
            pod.ip(f"addr add {pod.address_v6}/128 dev eth0")
            link_local = self._link_local(veth)
            pod.ip(f"route add default via {link_local} dev eth0")

    def _link_local(self, device: str) -> str:
        """The IPv6 link-local address that the kernel gave `device`, which is the pods' way out."""
        shown = self.node.run("ip", "-6", "-oneline", "addr", "show", "dev", device, "scope", "link").stdout
        return shown.split()[3].split("/")[0]
