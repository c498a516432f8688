"""A whole node to try: the real agent, endpoint pods with real servers, and a pod for clients."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.support import objects
from tests.support.agent import Agent
from tests.support.clients import Address
from tests.support.cluster_objects import ClusterObjects, ManifestDirectory
from tests.support.kernel_state import installed_rules
from tests.support.waiting import wait_until
from userspace_proxy.core.objects import SliceEndpoint
from userspace_proxy.demo.closing import Closing
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import NodeNetwork, PodWiring
from userspace_proxy.demo.pods import start_server

SERVER_FLAGS = {
    "greet": "--greet",
    "digest": "--digest",
    "reset": "--reset",
    "name": "--udp",
    "echo": "--echo-udp",
    "http": "--http",
}
"""What a Service port of that name leads to; see `userspace_proxy.demo.server`."""

PORTS = {"greet": 80, "digest": 81, "reset": 82, "name": 83, "echo": 84, "http": 85}
UDP = frozenset({"name", "echo"})
ENDPOINT_PORTS = {name: 8000 + port for name, port in PORTS.items()}

_LEGACY_LOCK = Path("/run/xtables.lock")
"""Left by whatever uses legacy tables; /run is this test run's own."""

PROXY_PORTS = range(11000, 30000)


@dataclass(frozen=True, slots=True)
class ServedService:
    """A Service of a test, and the addresses of its ports by their names."""

    name: str
    cluster_ip: str
    port_names: tuple[str, ...]
    affinity_seconds: int | None = None

    def __getitem__(self, port_name: str) -> Address:
        return self.cluster_ip, PORTS[port_name]


DEFAULT_BACKEND = os.environ.get("USERSPACE_PROXY_TEST_BACKEND", "")
"""The `--iptables-backend` of agents for which a test does not choose one: to try the whole suite with it."""


NOT_OBSERVED = ("--healthz-bind-address=", "--metrics-bind-address=")
"""Nothing listens but what serves, so that tests can look for it."""


class ServiceNode(Closing):
    """A node that serves what `objects` hold: those of `cluster`, or a directory of manifests in `folder`.

    `flags` go to the agent, which serves health checks and metrics if it `is_observed`. `endpoints` pods run
    all servers. `state_folder` is where the workers are found.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        wiring: PodWiring = PodWiring.BRIDGE,
        ipv6: bool = False,
        second_node_address: bool = False,
        endpoints: int = 3,
        cluster: ClusterObjects | None = None,
        is_observed: bool = False,
    ) -> None:
        self.network = NodeNetwork(wiring=wiring, ipv6=ipv6, second_node_address=second_node_address)
        self.node = self.network.node
        if DEFAULT_BACKEND and "--iptables-backend" not in flags:
            flags = ("--iptables-backend", DEFAULT_BACKEND, *flags)
        if not is_observed:
            flags = (*NOT_OBSERVED, *flags)
        inode = self.node.call(lambda: Path("/proc/thread-self/ns/net").stat().st_ino)
        self.state_folder = Path("/run/userspace-proxy") / str(inode)
        self._variant = "legacy" if {"legacy", "python-iptables"} & {*flags} else "nft"
        self.objects = ManifestDirectory(folder / "manifests") if cluster is None else cluster
        self._numbers = iter(range(10, 255))
        with self.closed_on_failure():
            self.client = self.network.add_pod("client")
            self.endpoints = [self.network.add_pod(f"web-{number + 1}") for number in range(endpoints)]
            with ThreadPoolExecutor(max(1, endpoints)) as threads:
                list(threads.map(self.start_servers, self.endpoints))
            self.apply_node()
            self.agent = Agent(
                self.node,
                folder / "agent.log",
                *("--hostname-override", "node-1", "--workers", "2"),
                *self.objects.flags,
                *flags,
            )

    def close(self) -> None:
        self.network.close()
        shutil.rmtree(self.state_folder, ignore_errors=True)
        _LEGACY_LOCK.unlink(missing_ok=True)

    @property
    def manifests(self) -> ManifestDirectory:
        """For tests of manifests alone."""
        assert isinstance(self.objects, ManifestDirectory)
        return self.objects

    def start_servers(self, pod: Namespace) -> None:
        """Start every kind of server in a pod; they call themselves like the pod."""
        addresses = ("0.0.0.0", "::") if pod.address_v6 else ("0.0.0.0",)
        start_server(
            pod,
            *(f"--bind={address}" for address in addresses),
            *(f"{flag}={ENDPOINT_PORTS[name]}" for name, flag in SERVER_FLAGS.items()),
        )

    def apply_node(self, *, zone: str | None = None, pod_cidrs: Sequence[str] = ()) -> None:
        """Write this node's Node object."""
        addresses = [address for address in (self.node.address, self.node.address_v6) if address]
        self.objects.apply(objects.node("node-1", zone=zone, internal_ips=addresses, pod_cidrs=pod_cidrs))

    @property
    def control_sockets(self) -> list[Path]:
        """The files by which a next agent finds the workers."""
        return list(self.state_folder.glob("worker-*"))

    @property
    def endpoint_addresses(self) -> list[str]:
        return [pod.address for pod in self.endpoints]

    def serve(
        self,
        *port_names: str,
        endpoints: Sequence[str] | None = None,
        affinity_seconds: int | None = None,
        name: str = "",
    ) -> ServedService:
        """Create a Service of its own with these ports, and wait until its rules stand.

        `endpoints` are addresses; the endpoint pods' by default.
        """
        number = next(self._numbers)
        service = ServedService(name or f"web-{number}", f"10.96.0.{number}", port_names, affinity_seconds)
        self.set_endpoints(service, self.endpoint_addresses if endpoints is None else endpoints)
        self.apply(service)
        self.wait_for_rules(service, is_refused=endpoints == [])
        return service

    def apply(self, service: ServedService) -> None:
        """Write the Service as it stands here."""
        self.objects.apply(
            objects.service(
                service.name,
                at=service.cluster_ip,
                ports=[_port(name, PORTS[name]) for name in service.port_names],
                affinity="ClientIP" if service.affinity_seconds is not None else None,
                affinity_timeout_seconds=service.affinity_seconds,
            )
        )

    def set_endpoints(self, service: ServedService, addresses: Sequence[str]) -> None:
        self.objects.apply(
            objects.endpoint_slice(
                f"{service.name}-1",
                of=service.name,
                ports=[_port(name, ENDPOINT_PORTS[name]) for name in service.port_names],
                endpoints=addresses,
            )
        )

    def apply_endpoints(
        self,
        of: str,
        *endpoints: SliceEndpoint,
        port_names: Sequence[str] = ("greet", "name"),
        suffix: str = "",
    ) -> None:
        """Write the slices of the Service `of`, one for each family; an endpoint has addresses of both."""
        for family in ("IPv4", "IPv6") if self.network.ipv6 else ("IPv4",):
            entries = [
                msgspec.structs.replace(
                    endpoint,
                    addresses=[text for text in endpoint.addresses if (":" in text) is (family == "IPv6")],
                )
                for endpoint in endpoints
            ]
            self.objects.apply(
                objects.endpoint_slice(
                    f"{of}-{family.lower()}{suffix}",
                    of=of,
                    ports=[_port(name, ENDPOINT_PORTS[name]) for name in port_names],
                    endpoints=entries,
                    address_type=family,
                )
            )

    def endpoint_on(
        self,
        pod: Namespace,
        node: str | None = None,
        *,
        ready: bool | None = None,
        serving: bool | None = None,
        terminating: bool | None = None,
    ) -> SliceEndpoint:
        """A pod as an endpoint in every family that it has."""
        addresses = [address for address in (pod.address, pod.address_v6) if address]
        return objects.endpoint(*addresses, node=node, ready=ready, serving=serving, terminating=terminating)

    def remove(self, service: ServedService) -> None:
        """Delete the Service and its slice, and wait until its rules are gone."""
        self.forget(service)
        wait_until(lambda: not self.rules_of(service))

    def forget(self, service: ServedService) -> None:
        """Delete the Service and its slice."""
        self.objects.delete(
            objects.service(service.name), objects.endpoint_slice(f"{service.name}-1", of=service.name)
        )

    def rules(self, *, counters: bool = False, family: str = "IPv4") -> list[str]:
        """All rules and chains of a family on the node, in the variant that the agent uses."""
        return installed_rules(self.node, self._variant, counters=counters, family=family)

    def rules_of(self, service: ServedService) -> list[str]:
        """The rules that name the Service."""
        return [rule for rule in self.rules() if f'"default/{service.name}:' in rule]

    def proxy_port(self, service: ServedService, port_name: str) -> int:
        """Where the rules lead a Service port."""
        return read_proxy_port(self.rules_of(service), f"default/{service.name}:{port_name}")

    def wait_for_rules(self, service: ServedService, *, is_refused: bool = False) -> None:
        """Wait until the Service's rules stand: each port in both chains, leading to endpoints or nowhere."""
        expected = [is_refused] * 2 * len(service.port_names)
        wait_until(lambda: ["has no endpoints" in rule for rule in self.rules_of(service)] == expected)


def read_proxy_port(rules: Sequence[str], service_port: str) -> int:
    """The proxy port that the capture rules for `namespace/name:port` agree on."""
    captures = [rule for rule in rules if f'"{service_port}"' in rule and "-A KUBE-PORTALS-GUARD" not in rule]
    [port] = {int(rule.replace(":", " ").split()[-1]) for rule in captures}
    return port


def _port(name: str, number: int) -> str:
    return f"{name}:{number}/{'UDP' if name in UDP else 'TCP'}"
