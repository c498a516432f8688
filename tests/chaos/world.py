"""The node that faults happen to: its pods, its Service, its agent, and what is right."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.ledger import Ledger
from tests.support import objects
from tests.support.agent import Agent
from tests.support.container import Container
from tests.support.faulty_api_server import FaultyApiServer
from tests.support.other_version import other_version
from tests.support.service_node import (
    ENDPOINT_PORTS,
    PORTS,
    SERVER_FLAGS,
    UDP,
    ServedService,
    ServiceNode,
    read_proxy_port,
)
from tests.support.waiting import wait_until
from userspace_proxy.core.objects import SliceEndpoint
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import SERVICE_NETWORK, SERVICE_NETWORK_V6
from userspace_proxy.demo.pods import start_server

SERVICE = ServedService("web", str(SERVICE_NETWORK[10]), ("greet", "http", "name", "echo"))
ADDRESS_V6 = str(SERVICE_NETWORK_V6[10])
FAMILIES = {"IPv4": "iptables", "IPv6": "ip6tables"}
TCP_PORTS = ("greet", "http")
UDP_PORTS = ("name", "echo")
ENDPOINTS = 4
WORKERS = 2
REPAIR_SECONDS = 60.0
"""What is promised is 2 s on a machine that has nothing else to do. Beyond this it counts as never."""

PROXY_PORT = re.compile(r"(?<=[ :])(?:1[1-9]|2[0-9])[0-9]{3}\b")
"""One of the range. Who begins without workers and without rules chooses others, which is as right."""

OTHERS_NAT = "".join(
    f"""
    table {family} others {{
        chain masquerading {{
            type nat hook postrouting priority 100
            oifname "eth9" masquerade
        }}
    }}
    """
    for family in ("ip", "ip6")
)
"""Where the last rule goes that translates addresses, the kernel ends that for what is established, too."""


class Pod:
    """An endpoint. `entry` is what its EndpointSlice says of it, None where it is not there."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.name = namespace.name
        self.entry: SliceEndpoint | None = None
        self._server = self._start()

    def refuse_new(self, *target: str) -> None:
        self._iptables("-A", "INPUT", "-p", "tcp", "--syn", "-j", *target)

    def drop_everything(self) -> None:
        self._iptables("-A", "INPUT", "-j", "DROP")

    def let_in(self) -> None:
        self._iptables("-F", "INPUT")

    def _iptables(self, *arguments: str) -> None:
        for tool in FAMILIES.values():
            self.namespace.run(tool, *arguments)

    def kill(self) -> None:
        self._server.kill()
        self._server.wait()

    def revive(self) -> None:
        self._server = self._start()

    def _start(self) -> subprocess.Popen[str]:
        ports = (f"{flag}={ENDPOINT_PORTS[name]}" for name, flag in SERVER_FLAGS.items())
        return start_server(self.namespace, "--bind=0.0.0.0", "--bind=::", *ports)


class World:
    """`node` serves `service`. `folder` is for logs and for another version of the agent.

    Objects come from `api_server`, if there is one. `are_removed_cut` is whether connections to endpoints
    that are removed end. Agents run in containers of their own if they are `supervised`.
    """

    def __init__(
        self,
        node: ServiceNode,
        folder: Path,
        ledger: Ledger,
        *,
        api_server: FaultyApiServer | None = None,
        are_removed_cut: bool = False,
        is_supervised: bool = False,
    ) -> None:
        self.node = node
        self.ledger = ledger
        self.api_server = api_server
        self.are_removed_cut = are_removed_cut
        self.is_supervised = is_supervised
        self.logs: list[Path] = []
        self._folder = folder
        self._other_version = other_version(folder / "other")
        self._versions = itertools.cycle([("env", "-C", str(self._other_version)), ()])
        self._version: tuple[str, ...] = ()
        self._lock = threading.Lock()
        node.node.run("nft", "-f", "-", stdin=OTHERS_NAT)
        node.endpoints = [node.network.add_pod(f"web-{number + 1}") for number in range(ENDPOINTS)]
        self.pods = [Pod(namespace) for namespace in node.endpoints]
        node.agent = self._new_agent()
        node.agent.start()
        self.service = SERVICE
        for pod in self.pods:
            pod.entry = node.endpoint_on(pod.namespace)
        self._apply_endpoints()
        ports = [f"{name}:{PORTS[name]}/{'UDP' if name in UDP else 'TCP'}" for name in SERVICE.port_names]
        node.objects.apply(objects.service("web", at=[SERVICE.cluster_ip, ADDRESS_V6], ports=ports))
        node.wait_for_rules(SERVICE)
        wait_until(lambda: len([rule for rule in self._rules_now() if '"default/web:' in rule]) == 16)
        self.rules = self._rules_now()

    @property
    def agent(self) -> Agent:
        return self.node.agent

    def set_entry(self, pod: Pod, entry: SliceEndpoint | None) -> None:
        """Have the EndpointSlice say this of the pod."""
        with self._lock:
            pod.entry = entry
            self._apply_endpoints()

    def _apply_endpoints(self) -> None:
        entries = [pod.entry for pod in self.pods if pod.entry is not None]
        self.node.apply_endpoints("web", *entries, port_names=self.service.port_names, suffix="-chaos")

    def let_connecting_through(self) -> None:
        """Wait until all who have come so far are served, or have failed."""
        now = time.monotonic()
        wait_until(lambda: not self.ledger.are_connecting_since(now), REPAIR_SECONDS)

    # Rules

    def are_rules_right(self) -> bool:
        return self._rules_now() == self.rules

    def wait_for_repair(self) -> None:
        wait_until(self.are_rules_right, REPAIR_SECONDS)

    def _rules_now(self) -> list[str]:
        return [rule for family in FAMILIES for rule in self._rules_of(family)]

    def _rules_of(self, family: str) -> list[str]:
        """Rules that are ours, neighbours' aside, and who is first in the chains that lead to them."""
        rules = self.node.rules(family=family)
        firsts = [
            next((rule for rule in rules if rule.startswith(f"-A {chain} ")), "")
            for chain in ("PREROUTING", "OUTPUT", "INPUT")
        ]
        ours = [rule for rule in rules if "KUBE-" in rule]
        these = [*(rule for rule in ours if '"default/' not in rule or '"default/web:' in rule), *firsts]
        return [PROXY_PORT.sub("(proxy port)", rule) for rule in these]

    @property
    def iptables(self) -> list[str]:
        """The tools of both families."""
        variant = "legacy" if self.is_legacy else "nft"
        return [f"{tool}-{variant}" for tool in FAMILIES.values()]

    @property
    def is_legacy(self) -> bool:
        return bool({"legacy", "python-iptables"} & {*self.agent.flags})

    # The agent and its workers

    def kill_agent(self) -> None:
        pid = self.agent.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in self.node.node.pids())

    def start_agent(self) -> None:
        """Start an agent of the version that ran last, where none runs."""
        self.node.agent = self._new_agent()
        self.agent.start(prefix=self._version)

    def take_over(self, *, upgrade: bool = False) -> None:
        """Start an agent beside the one that runs."""
        if upgrade:
            self._version = next(self._versions)
        predecessor, successor = self.agent, self._new_agent()
        successor.start(prefix=self._version)
        wait_until(lambda: not predecessor.is_running, REPAIR_SECONDS)
        self.node.agent = successor
        if isinstance(predecessor, Container):
            predecessor.wait_for(1, "is not started again")
            predecessor.end()
        else:
            assert predecessor.exit_status == 0

    def serving_workers(self) -> dict[int, set[str]]:
        """Pids of workers with listeners of ours, and the names of the Service's ports that they serve.

        Waits until the rules say which these are.
        """
        deadline = time.monotonic() + REPAIR_SECONDS
        while not (serving := self._look_who_serves()):
            assert time.monotonic() < deadline, "no worker serves"
            time.sleep(0.05)
        return serving

    def _look_who_serves(self) -> dict[int, set[str]]:
        rules = self.node.rules_of(self.service)
        ports = {}
        for name in self.service.port_names:
            if not any(f'"default/web:{name}"' in rule for rule in rules):
                return {}
            ports[str(read_proxy_port(rules, f"default/web:{name}"))] = name
        serving: dict[int, set[str]] = {}
        for line in self.node.node.run("ss", "-Htulnp").stdout.splitlines():
            name = ports.get(line.split()[4].rpartition(":")[2], "")
            for pid in self.agent.worker_pids:
                if name and f"pid={pid}," in line:
                    serving.setdefault(pid, set()).add(name)
        return serving

    def _new_agent(self) -> Agent:
        log = self._folder / f"agent-{len(self.logs)}.log"
        self.logs.append(log)
        kind = Container if self.is_supervised else Agent
        return kind(self.node.node, log, *self.node.agent.flags)


def tracebacks(logs: Sequence[Path]) -> list[str]:
    """Lines that no log of ours should have."""
    return [
        f"{log.name}: {line}"
        for log in logs
        if log.exists()
        for line in log.read_text().splitlines()
        if "Traceback (most recent call last)" in line or " CRITICAL " in line
    ]
