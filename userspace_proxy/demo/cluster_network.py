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
import logging
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from userspace_proxy.demo.closing import Closing
from userspace_proxy.demo.cluster_node import LAN, LAN_V6, Node, NodeAddresses, prefix_length
from userspace_proxy.demo.namespaces import run
from userspace_proxy.demo.sandbox import Sandbox, make_places_for

logger = logging.getLogger(__name__)

OUTSIDE: Final = "outside"
CONTROL_PLANE: Final = "control-plane"

MAX_NODES: Final = 99

_CONCURRENT: Final = 4


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
    return [f"addr add {address}/{prefix_length(address)} dev {device}" for address in _addresses(machine)]
