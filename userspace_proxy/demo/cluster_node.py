"""A node of the demo cluster: its namespaces, its addresses, and the pods behind it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

from userspace_proxy.demo.closing import Closing
from userspace_proxy.demo.sandbox import Sandbox
from userspace_proxy.errors import StartupError

LAN: Final = IPv4Network("192.0.2.0/24")
LAN_V6: Final = IPv6Network("2001:db8::/64")

POD_NETWORKS: Final = IPv4Network("10.244.0.0/16")
POD_NETWORKS_V6: Final = IPv6Network("fd00:10:244::/48")
_LAST_POD: Final = 254


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """What node number `number`, from 1 on, has of the cluster's networks; IPv4 first."""

    number: int
    ipv6: bool

    @property
    def addresses(self) -> tuple[str, ...]:
        """The node's own addresses. The last digits of all are alike: node 2 is 192.0.2.12, 2001:db8::12."""
        own = str(LAN[10 + self.number]), str(LAN_V6[int(str(10 + self.number), 16)])
        return own if self.ipv6 else own[:1]

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        """The networks of the node's pods, as spec.podCIDRs has them."""
        number = int(str(self.number), 16)
        v4 = f"{POD_NETWORKS.network_address + self.number * 256}/24"
        v6 = f"{POD_NETWORKS_V6[number << 64]}/64"
        return (v4, v6) if self.ipv6 else (v4,)

    def pod_addresses(self, host: int) -> tuple[str, ...]:
        """The addresses of the pod with the number `host` on this node; 1 is the node's end of the bridge."""
        v4, *v6 = self.pod_cidrs
        hosts = [str(IPv4Network(v4)[host])]
        return (*hosts, *(str(IPv6Network(network)[int(str(host), 16)]) for network in v6))


class PodSandbox(Sandbox):
    """A pod's namespaces. `addresses` are in the order of status.podIPs."""

    def __init__(
        self, name: str, addresses: Sequence[str], *, hostname: str, files: Mapping[str, str]
    ) -> None:
        super().__init__(name, *addresses, hostname=hostname, files=files)
        self.addresses = tuple(addresses)
        self.namespace_path: Path = self.path


class Node(Closing):
    """A node and the pods behind it; `resolv_conf(namespace)` is the text of their /etc/resolv.conf."""

    def __init__(self, name: str, own: NodeAddresses, resolv_conf: Callable[[str], str]) -> None:
        self.name = name
        self.own = own
        self.pods: dict[str, PodSandbox] = {}
        self._resolv_conf = resolv_conf
        self._hosts = itertools.cycle(range(2, _LAST_POD + 1))
        self._taken: dict[str, int] = {}
        self.sandbox = Sandbox(name, *own.addresses)
        with self.closed_on_failure():
            self._wire()

    @property
    def node_namespace_path(self) -> Path:
        """The file that names the node's network namespace."""
        return self.sandbox.path

    async def add_pod(self, key: str) -> PodSandbox:
        """Make the sandbox of the pod `namespace/name`, with the next free addresses and a way to everybody.

        Raises OSError or CalledProcessError where the kernel refuses, StartupError if no address is left.
        """
        return await asyncio.to_thread(self.make_pod, key)

    async def remove_pod(self, key: str) -> None:
        """Kill what runs in a pod and take it down. Safe to repeat."""
        await asyncio.to_thread(self.unmake_pod, key)

    def make_pod(self, key: str) -> PodSandbox:
        """`add_pod`, for who may wait."""
        host = self._free_host(key)
        addresses = self.own.pod_addresses(host)
        namespace, _, hostname = key.rpartition("/")
        files = {
            "/etc/resolv.conf": self._resolv_conf(namespace),
            "/etc/hosts": "".join(
                f"{address}\t{name}\n"
                for address, name in (
                    ("127.0.0.1", "localhost"),
                    ("::1", "localhost ip6-localhost"),
                    *((address, hostname) for address in addresses),
                )
            ),
        }
        try:
            pod = PodSandbox(f"{self.name}-{host}", addresses, hostname=hostname, files=files)
        except BaseException:
            del self._taken[key]
            raise
        self.pods[key] = pod
        try:
            self._wire_pod(pod, host)
        except BaseException:
            self.unmake_pod(key)
            raise
        return pod

    def unmake_pod(self, key: str) -> None:
        """`remove_pod`, for who may wait."""
        pod = self.pods.pop(key, None)
        if pod is not None:
            pod.close()
            self._taken.pop(key, None)

    def close(self) -> None:
        """Take the node down with its pods."""
        for key in tuple(self.pods):
            self.unmake_pod(key)
        self.sandbox.close()

    def _free_host(self, key: str) -> int:
        """Addresses are given again late: who still speaks to a pod that is gone should meet nobody."""
        taken = set(self._taken.values())
        for host in itertools.islice(self._hosts, _LAST_POD):
            if host not in taken:
                self._taken[key] = host
                return host
        raise StartupError(f"{self.name} has no pod address left: {_LAST_POD - 1} pods run there")

    def _wire(self) -> None:
        node = self.sandbox
        node.sysctl("net.ipv4.ip_forward", "1")
        if self.own.ipv6:
            node.sysctl("net.ipv6.conf.default.accept_dad", "0")
            node.sysctl("net.ipv6.conf.all.forwarding", "1")
        gateways = self.own.pod_addresses(1)
        node.ip(
            "link add cni0 type bridge",
            *(f"addr add {gateway}/{prefix_length(gateway)} dev cni0" for gateway in gateways),
            "link set cni0 up",
        )

    def _wire_pod(self, pod: PodSandbox, host: int) -> None:
        if self.own.ipv6:
            pod.sysctl("net.ipv6.conf.default.accept_dad", "0")
        veth = f"veth{host}"
        self.sandbox.ip(
            f"link add {veth} type veth peer name eth0 netns {pod.name}",
            f"link set {veth} master cni0",
            f"link set {veth} up",
        )
        pod.ip(
            *(f"addr add {address}/{prefix_length(address)} dev eth0" for address in pod.addresses),
            "link set eth0 up",
            *(f"route add default via {gateway}" for gateway in self.own.pod_addresses(1)),
        )


def prefix_length(address: str) -> int:
    """How much of an address names its network, in every network of the cluster."""
    return 64 if ":" in address else 24
