"""Restarts and upgrades in a row under load: `python -m tests.chaos.outliving --help`.

Clients in a pod connect at a steady rate, are greeted, and close first; others hold one connection each, over
which they talk all the time. Meanwhile the agent is killed, stopped and replaced, by its own version and by
another one. It prints how many connections failed, the longest that one took, and how many of the held ones
were cut.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from tests.support.agent import Agent
from tests.support.clients import Address, sockets
from tests.support.other_version import other_version
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo import isolation

CLIENTS = 25


@dataclass
class Load:
    """What clients met. `longest` are the slowest connections: seconds, and when they began."""

    made: int = 0
    failures: list[str] = field(default_factory=list)
    longest: list[tuple[float, float]] = field(default_factory=list)
    cut: int = 0


class Clients:
    """`rate` connections a second, and `held` ones that stay."""

    def __init__(self, node: ServiceNode, greet: Address, digest: Address, *, rate: float, held: int) -> None:
        self.load = Load()
        self._node = node
        self._greet = greet
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._connect, args=[CLIENTS / rate]) for _ in range(CLIENTS)
        ]
        self._held = sockets(node.client, held)
        for client in self._held:
            client.connect(digest)
        self._threads.append(threading.Thread(target=self._talk))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        for client in self._held:
            client.close()

    def _connect(self, pause: float) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            [client] = sockets(self._node.client, 1)
            began, failure = time.monotonic(), ""
            with client:
                try:
                    client.connect(self._greet)
                    if not client.recv(100):
                        failure = "closed without a word"
                except OSError as error:
                    failure = repr(error)
            took = time.monotonic() - began
            with self._lock:
                self.load.made += 1
                if failure:
                    self.load.failures.append(failure)
                self.load.longest = sorted([*self.load.longest, (took, began)], reverse=True)[:5]
            due = max(due + pause, time.monotonic())
            self._ended.wait(due - time.monotonic())

    def _talk(self) -> None:
        """Bytes go in all the time; what the endpoint sends back comes once the client has ended."""
        alive = list(self._held)
        while not self._ended.wait(0.05):
            for client in list(alive):
                try:
                    client.send(b"x" * 100)
                except OSError:
                    alive.remove(client)
                    self.load.cut += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--held", type=int, default=20)
    arguments = parser.parse_args()
    isolation.enter()
    with tempfile.TemporaryDirectory() as name, ServiceNode(Path(name)) as node:
        folder = Path(name)
        versions = cycle([("env", "-C", str(other_version(folder / "other"))), ()])
        node.client.sysctl("net.ipv4.tcp_tw_reuse", "1")
        node.agent.start()
        service = node.serve("greet", "digest", "name")
        for kind in ("nothing", "kill and restart", "stop and restart", "take over", "upgrade"):
            clients = Clients(
                node, service["greet"], service["digest"], rate=arguments.rate, held=arguments.held
            )
            clients.start()
            time.sleep(1)
            began = time.monotonic()
            for _ in range(arguments.rounds):
                step(node, folder, kind, next(versions) if kind == "upgrade" else ())
                time.sleep(0.5)
            seconds = time.monotonic() - began
            clients.stop()
            report(kind, arguments.rounds, seconds, clients.load)


def step(node: ServiceNode, folder: Path, kind: str, prefix: tuple[str, ...]) -> None:
    if kind == "kill and restart":
        os.kill(node.agent.pid, signal.SIGKILL)
        wait_until(lambda: not node.agent.is_running)
    elif kind == "stop and restart":
        assert node.agent.stop() == 0
    if kind == "nothing":
        time.sleep(1)  # what the machine itself costs
    elif "restart" in kind:
        node.agent.start()
    else:
        successor = Agent(node.node, folder / f"agent-{time.monotonic_ns()}.log", *node.agent.flags)
        successor.start(prefix=prefix)
        wait_until(lambda: node.agent.exit_status == 0)
        node.agent = successor


def report(kind: str, rounds: int, seconds: float, load: Load) -> None:
    slowest = ", ".join(f"{took * 1e3:.0f}" for took, _ in load.longest)
    print(
        f"{kind} x {rounds} in {seconds:.0f} s: {load.made} connections ({load.made / seconds:.0f}/s), "
        f"{len(load.failures)} failed, {load.cut} held ones cut; the slowest took {slowest} ms"
    )
    for failure in sorted(set(load.failures)):
        print(f"  {load.failures.count(failure)} x {failure}")


if __name__ == "__main__":
    main()
