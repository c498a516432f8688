"""The demo cluster's network: nodes and a control plane on a LAN with a host outside, pods behind the nodes.

    outside 192.0.2.1 ── lan0 ─┬─ 192.0.2.2 control-plane
                               ├─ 192.0.2.11 node-1 ── cni0 10.244.1.1 ─┬─ 10.244.1.2 pod
                               │                                        └─ 10.244.1.3 pod
                               └─ 192.0.2.12 node-2 ── cni0 10.244.2.1 ─── 10.244.2.2 pod

Everything is routed, nothing is translated: each node knows by whom the other nodes' pods are reached, and so
does the host outside. That one knows no way to clusterIPs, only to addresses of load balancers that were
announced to it. With IPv6 all of it exists once more: 2001:db8::11 is node-1, fd00:10:244:1::2 its first pod.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Final

from userspace_proxy.demo.closing import Closing
from userspace_proxy.demo.namespaces import run
from userspace_proxy.demo.sandbox import Sandbox, make_places_for
from userspace_proxy.errors import StartupError

logger = logging.getLogger(__name__)

OUTSIDE: Final = "outside"
CONTROL_PLANE: Final = "control-plane"

LAN: Final = IPv4Network("192.0.2.0/24")
LAN_V6: Final = IPv6Network("2001:db8::/64")
MAX_NODES: Final = 99

_POD_NETWORKS: Final = IPv4Network("10.244.0.0/16")
_POD_NETWORKS_V6: Final = IPv6Network("fd00:10:244::/48")
_LAST_POD: Final = 254
_CONCURRENT: Final = 4


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
        v4 = f"{_POD_NETWORKS.network_address + self.number * 256}/24"
        v6 = f"{_POD_NETWORKS_V6[number << 64]}/64"
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
            *(f"addr add {gateway}/{_prefix(gateway)} dev cni0" for gateway in gateways),
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
            *(f"addr add {address}/{_prefix(address)} dev eth0" for address in pod.addresses),
            "link set eth0 up",
            *(f"route add default via {gateway}" for gateway in self.own.pod_addresses(1)),
        )


class ClusterNetwork(Closing):
    """All of it, for nodes of these names; `close` takes it down. `nodes` are by name.

    `resolv_conf(namespace)` is what the pods of a namespace have as /etc/resolv.conf.
    """

    def __init__(self, names: Sequence[str], *, ipv6: bool, resolv_conf: Callable[[str], str]) -> None:
        self.ipv6 = ipv6
        self.nodes: dict[str, Node] = {}
        self._open = ExitStack()
        self._announced: dict[str, tuple[str, ...]] = {}
        make_places_for("/etc/resolv.conf", "/etc/hosts")
        with self.closed_on_failure(), ThreadPoolExecutor(_CONCURRENT) as threads:
            self.outside = self._machine(OUTSIDE, 1)
            self._wire_outside()
            control_plane = threads.submit(self._machine, CONTROL_PLANE, 2)
            nodes = [
                threads.submit(Node, name, NodeAddresses(number, ipv6), resolv_conf)
                for number, name in enumerate(names, start=1)
            ]
            failures = []
            for name, made in zip(names, nodes, strict=True):
                if (failure := made.exception()) is None:
                    self.nodes[name] = made.result()
                    self._open.callback(made.result().close)
                else:
                    failures.append(failure)
            self.control_plane = control_plane.result()
            if failures:
                raise failures[0]
            for number, machine in enumerate(self._machines()):
                self._attach(machine, number)
            self._route()

    @cached_property
    def control_plane_addresses(self) -> tuple[str, ...]:
        """Where the API server listens inside the cluster; IPv4 first."""
        return _addresses(self.control_plane)

    def places(self) -> dict[str, Sandbox]:
        """All there is, by name; pods by `namespace/name`."""
        nodes = self.nodes.values()
        return {
            OUTSIDE: self.outside,
            CONTROL_PLANE: self.control_plane,
            **{node.name: node.sandbox for node in nodes},
            **{key: pod for node in nodes for key, pod in node.pods.items()},
        }

    async def announce(self, addresses: Mapping[str, Iterable[str]]) -> None:
        """Let the host outside send what is for these addresses to these nodes, and forget all others.

        Where an address has several nodes, connections are spread over them, if the kernel can.
        """
        wanted = {
            address: tuple(sorted(name for name in names if name in self.nodes))
            for address, names in addresses.items()
        }
        wanted = {address: names for address, names in wanted.items() if names and self._has(address)}
        before, self._announced = self._announced, wanted
        for address in before.keys() - wanted.keys():
            await asyncio.to_thread(self.outside.ip, f"route del {address}")
        for address, names in wanted.items():
            if before.get(address) != names:
                await asyncio.to_thread(self._route_to, address, self._hops(address, names))

    def _route_to(self, address: str, hops: Sequence[str]) -> None:
        try:
            self.outside.ip(f"route replace {address} {' '.join(f'nexthop via {hop}' for hop in hops)}")
        except subprocess.CalledProcessError as error:
            logger.warning("One node gets all that is for %s: %s", address, error.stderr.strip())
            self.outside.ip(f"route replace {address} via {hops[0]}")

    def close(self) -> None:
        """Kill everything inside and delete the namespaces."""
        self._open.close()

    def _has(self, address: str) -> bool:
        return self.ipv6 or ip_address(address).version == 4

    def _hops(self, address: str, names: Iterable[str]) -> list[str]:
        index = 0 if ip_address(address).version == 4 else 1
        return [self.nodes[name].own.addresses[index] for name in names]

    def _machine(self, name: str, number: int) -> Sandbox:
        machine = Sandbox(name, str(LAN[number]), str(LAN_V6[number]) if self.ipv6 else "")
        self._open.callback(machine.close)
        if self.ipv6:
            machine.sysctl("net.ipv6.conf.default.accept_dad", "0")
        return machine

    def _machines(self) -> list[Sandbox]:
        return [self.control_plane, *(node.sandbox for node in self.nodes.values())]

    def _wire_outside(self) -> None:
        for family in ("ipv4", "ipv6") if self.ipv6 else ("ipv4",):
            # By ports as well: the connections of one client go to several nodes.
            policy = Path("/proc/sys/net", family, "fib_multipath_hash_policy")
            if policy.exists():
                self.outside.sysctl(f"net.{family}.fib_multipath_hash_policy", "1")
        self.outside.ip(
            "link add lan0 type bridge",
            *_addressed(self.outside, "lan0"),
            "link set lan0 up",
        )

    def _attach(self, machine: Sandbox, number: int) -> None:
        """Plug a machine into the LAN."""
        port = f"port{number}"
        self.outside.ip(
            f"link add {port} type veth peer name eth0 netns {machine.name}",
            f"link set {port} master lan0",
            f"link set {port} up",
        )
        machine.ip(
            *_addressed(machine, "eth0"),
            "link set eth0 up",
            *(f"route add default via {address}" for address in _addresses(self.outside)),
        )

    def _route(self) -> None:
        for machine in (self.outside, *self._machines()):
            machine.ip(
                *(
                    f"route add {cidr} via {address}"
                    for node in self.nodes.values()
                    if node.sandbox is not machine
                    for cidr, address in zip(node.own.pod_cidrs, node.own.addresses, strict=True)
                )
            )


def has_ipv6() -> bool:
    """Whether the kernel has IPv6, seen from a namespace whose loopback is up."""
    path = Path("/proc/thread-self/net/if_inet6")
    return path.exists() and bool(path.read_text().strip())


def missing_programs() -> list[str]:
    """Programs that network and agents need and that are not on PATH, with Debian's packages for them."""
    needed = {
        "ip": "iproute2",
        "iptables": "iptables",
        "nsenter": "util-linux",
        "unshare": "util-linux",
        "hostname": "hostname",
    }
    return [f"{program} (package {package})" for program, package in needed.items() if not _is_there(program)]


def _is_there(program: str) -> bool:
    return run("sh", "-c", f"command -v {program}", check=False).returncode == 0


def _addresses(machine: Sandbox) -> tuple[str, ...]:
    return tuple(address for address in (machine.address, machine.address_v6) if address)


def _addressed(machine: Sandbox, device: str) -> list[str]:
    return [f"addr add {address}/{_prefix(address)} dev {device}" for address in _addresses(machine)]


def _prefix(address: str) -> int:
    return 64 if ":" in address else 24
