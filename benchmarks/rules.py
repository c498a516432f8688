"""What capture rules cost with many Services: installing all of them, changing one, connecting through one.

Run as `python benchmarks/rules.py`, as root or where user namespaces are allowed. Everything happens in
network namespaces of this run's own. Prints a table for each variant of iptables.
"""

from __future__ import annotations

import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, ProxyPort
from userspace_proxy.demo import isolation
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import SERVICE_NETWORK, NodeNetwork
from userspace_proxy.iptables.capture import Capture
from userspace_proxy.iptables.portal_rules import (
    CaptureSettings,
    Destination,
    Portal,
    PortalRules,
    Refusal,
)
from userspace_proxy.iptables.variant import BackendChoice, open_backend

PORTS: Final = (80, 443)
PROXY_PORT: Final = ProxyPort(20000)
CHANGES: Final = 11
CONNECTS: Final = 4000
SETTINGS: Final = CaptureSettings(
    IPFamily.IPV4, PortRange(11000, 29999), refusing_port=ProxyPort(11000), silent_port=ProxyPort(11001)
)
UNNUMBERED: Final = replace(SETTINGS, node_address="192.0.2.10")
"""Where pods hang on interfaces without an address, all is captured by DNAT."""

SERVES: Final = Destination(PROXY_PORT)
REFUSES: Final = Destination(PROXY_PORT, Refusal.REJECT)


def portals_of(services: int) -> list[Portal]:
    """Two ports each, on addresses that are spread as an API server spreads them: at random."""
    hosts = random.Random(services).sample(range(1, SERVICE_NETWORK.num_addresses - 1), services)
    return [
        Portal(
            Frontend(str(SERVICE_NETWORK[host]), Protocol.TCP, Port(port)),
            f"namespace/service-{number}:port-{port}",
            SERVES,
            SERVES,
        )
        for number, host in enumerate(hosts)
        for port in PORTS
    ]


class Rules:
    """The rules of one namespace, computed and committed as the agent does it."""

    def __init__(self, where: Namespace, choice: BackendChoice, settings: CaptureSettings = SETTINGS) -> None:
        self._where = where
        self._settings = settings
        self._computed = PortalRules()
        self._capture = where.call(lambda: Capture(open_backend(choice, IPFamily.IPV4)))

    def install(self, portals: list[Portal]) -> tuple[float, int]:
        """Seconds from portals to committed rules, and how many rules were written or deleted."""

        def work() -> tuple[float, int]:
            started = time.perf_counter()
            synced = self._capture.sync(self._computed.rule_set(portals, self._settings))
            return time.perf_counter() - started, synced.rule_count

        return self._where.call(work)


@dataclass(frozen=True)
class Row:
    what: str
    measured: str
    target: str


def all_rules(services: int, target: str, choice: BackendChoice) -> Row:
    with Namespace("all") as namespace:
        seconds, rules = Rules(namespace, choice).install(portals_of(services))
    return Row(f"all of {services:,} Services with 2 ports: {rules:,} rules", f"{seconds:.2f} s", target)


def one_changed(services: int, settings: CaptureSettings, choice: BackendChoice) -> Row:
    """One Service loses its endpoints and gets them back, again and again."""
    portals = portals_of(services)
    took, written = [], set()
    with Namespace("change") as namespace:
        rules = Rules(namespace, choice, settings)
        rules.install(portals)
        for turn in range(CHANGES):
            place = REFUSES if turn % 2 == 0 else SERVES
            portals[: len(PORTS)] = [
                replace(portal, outside=place, inside=place) for portal in portals[: len(PORTS)]
            ]
            seconds, count = rules.install(portals)
            took.append(seconds)
            written.add(count)
    middle, worst = statistics.median(took) * 1000, max(took) * 1000
    edits = "/".join(map(str, sorted(written)))
    how = " by DNAT" if settings is UNNUMBERED else ""
    what = f"one Service changed among {services:,}{how}: {edits} rules"
    return Row(what, f"{middle:.0f} ms (worst of {CHANGES}: {worst:.0f})", "< 200 ms")


@contextmanager
def connects(name: str, portals: list[Portal], choice: BackendChoice) -> Iterator[Callable[[], float]]:
    """A function that connects from a pod to the last of the portals and says how long that took."""
    last = max(portals, key=lambda portal: (IPv4Address(portal.frontend.address), portal.frontend.port))
    frontend = (last.frontend.address, int(last.frontend.port))
    with NodeNetwork(prefix=f"{name}-") as network:
        pod = network.add_pod(f"{name}-pod")
        Rules(network.node, choice).install(portals)
        with network.node.call(socket.socket) as listener:
            listener.bind(("", PROXY_PORT))
            listener.listen()
            clients = iter(pod.call(lambda: [socket.socket() for _ in range(CONNECTS)]))

            def connect() -> float:
                with next(clients) as client:
                    started = time.perf_counter()
                    client.connect(frontend)
                    seconds = time.perf_counter() - started
                    listener.accept()[0].close()
                return seconds

            yield connect


def connect_cost(services: int, choice: BackendChoice) -> Row:
    portals = portals_of(services)
    with ExitStack() as stack:
        through_the_last = stack.enter_context(connects("many", portals, choice))
        through_the_only = stack.enter_context(connects("one", portals[:1], choice))
        last, only = [], []
        for _ in range(CONNECTS):
            last.append(through_the_last())
            only.append(through_the_only())
    costs = statistics.median(last) * 1e6, statistics.median(only) * 1e6
    return Row(
        f"connecting through the last of {len(portals):,} portals / the only one",
        f"{costs[0]:.1f} / {costs[1]:.1f} µs = {costs[0] / costs[1]:.3f}",
        "≤ 1.1",
    )


def main() -> None:
    refusal = isolation.refusal()
    if refusal is not None:
        sys.exit(f"no namespaces here: {refusal}")
    isolation.enter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XTABLES_LOCKFILE"] = str(Path(folder, "xtables.lock"))
        for choice in (BackendChoice.NFT, BackendChoice.LEGACY):
            print(f"\n| {choice.value} | measured | target |\n|---|---|---|")
            for measure in (
                partial(all_rules, 1_000, "< 1 s"),
                partial(all_rules, 10_000, "< 5 s"),
                partial(one_changed, 10_000, SETTINGS),
                partial(one_changed, 10_000, UNNUMBERED),
                partial(connect_cost, 10_000),
            ):
                row = measure(choice)
                print(f"| {row.what} | {row.measured} | {row.target} |", flush=True)


if __name__ == "__main__":
    main()
