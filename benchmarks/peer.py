"""What every peer has in common."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from typing import ClassVar

from benchmarks.processes import family
from benchmarks.testbed import SERVICE_ADDRESS, SERVICE_PORTS, ServicePort, Testbed


class Peer(ABC):
    """A proxy on a testbed of its own. `start` returns once the Service answers; the testbed ends it."""

    name: ClassVar[str]
    title: ClassVar[str]
    carries_udp: ClassVar[bool] = True
    is_for_udp_alone: ClassVar[bool] = False
    """Whether it takes part in works over UDP only, because over TCP it is as another peer."""
    programs: ClassVar[dict[str, str]] = {}
    """The programs that it needs, each with the Debian package that has it."""

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot take part here though all its programs were installed; None if it can."""
        return None

    def __init__(self, testbed: Testbed) -> None:
        self.testbed = testbed
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and return once the Service answers. Raises StartupError where it does not."""
        self.launch()
        self.testbed.await_service(self.process)

    @abstractmethod
    def launch(self) -> None:
        """Start the program, if there is one, and have the Service's traffic led to it."""

    def processes(self) -> list[int]:
        """Every process that it consists of; none for the kernel's own."""
        return [] if self.process is None else family(self.process.pid)

    def takes_part(self, *, needs_udp: bool) -> bool:
        """Whether it does works that are over UDP, or over TCP."""
        return self.carries_udp if needs_udp else not self.is_for_udp_alone

    def ports(self) -> list[ServicePort]:
        """The Service's ports that it can carry."""
        return [port for port in SERVICE_PORTS if self.carries_udp or port.protocol == "TCP"]

    def capture(self) -> None:
        """REDIRECT the Service's ports to `proxy_port`, which is how our own rules and kube-proxy's do it."""
        for port in self.ports():
            self.append_rule("PREROUTING", port, f"-j REDIRECT --to-ports {port.proxy_port}")
        # Ours sets this by itself. Without, clients that close first use up the node's ports to an endpoint.
        self.testbed.node.sysctl("net.ipv4.tcp_tw_reuse", "1")

    def append_rule(self, chain: str, port: ServicePort, action: str) -> None:
        """Add a rule to a chain of nat for what is sent to a port of the Service."""
        match = f"-d {SERVICE_ADDRESS} -p {port.protocol.lower()} --dport {port.port}"
        self.testbed.node.run("iptables", "-w", "-t", "nat", "-A", chain, *match.split(), *action.split())
