"""Restarts and upgrades in a row under load: `python -m tests.chaos.outliving --help`.

Clients in a pod connect at a steady rate, are greeted, and close first; others hold one connection each, over
which they talk all the time. Meanwhile the agent is killed, stopped and replaced, by its own version and by
another one; after each such step nothing is done for as long, to see what the machine itself costs.

It prints how many connections failed, the largest gaps (the longest that connections took) while steps were
taken and while nothing was done, how many of the held connections were cut, and the CPU time that a start
takes: of the agent, its children, and the workers that it started.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TypeAlias

from tests.support.agent import Agent
from tests.support.clients import Address, sockets
from tests.support.other_version import other_version
from tests.support.service_node import ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo import isolation

CLIENTS = 25
SETTLE_SECONDS = 0.5
KINDS = ("kill and restart", "stop and restart", "take over", "upgrade")

Span: TypeAlias = tuple[float, float]


@dataclass
class Load:
    """What clients met. Of each connection when it began, and when it had its answer; a monotonic clock."""

    connections: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    cut: int = 0

    def gaps(self, spans: list[Span]) -> list[float]:
        """How long connections took that touch one of `spans`, the longest first; in seconds."""
        return sorted(
            (
                ended - began
                for began, ended in self.connections
                if any(began < end and ended > start for start, end in spans)
            ),
            reverse=True,
        )


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
            ended = time.monotonic()
            with self._lock:
                self.load.connections.append((began, ended))
                if failure:
                    self.load.failures.append(failure)
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
    parser.add_argument("--kind", choices=KINDS, action="append", help="all of them by default")
    parser.add_argument("--held", type=int, default=20)
    arguments = parser.parse_args()
    isolation.enter()
    with tempfile.TemporaryDirectory() as name, ServiceNode(Path(name)) as node:
        folder = Path(name)
        versions = cycle([("env", "-C", str(other_version(folder / "other"))), ()])
        node.client.sysctl("net.ipv4.tcp_tw_reuse", "1")
        node.agent.start()
        service = node.serve("greet", "digest", "name")
        for kind in arguments.kind or KINDS:
            clients = Clients(
                node, service["greet"], service["digest"], rate=arguments.rate, held=arguments.held
            )
            clients.start()
            time.sleep(1)
            steps, rests, cpu_seconds = [], [], []
            for _ in range(arguments.rounds):
                workers = node.agent.worker_pids
                began = time.monotonic()
                step(node, folder, kind, next(versions) if kind == "upgrade" else ())
                time.sleep(SETTLE_SECONDS)
                steps.append((began, time.monotonic()))
                cpu_seconds.append(spent([node.agent.pid, *set(node.agent.worker_pids) - set(workers)]))
                began = time.monotonic()
                time.sleep(began - steps[-1][0])
                rests.append((began, time.monotonic()))
            clients.stop()
            report(kind, steps, rests, cpu_seconds, clients.load)


def step(node: ServiceNode, folder: Path, kind: str, prefix: tuple[str, ...]) -> None:
    if kind == "kill and restart":
        os.kill(node.agent.pid, signal.SIGKILL)
        wait_until(lambda: not node.agent.is_running)
    elif kind == "stop and restart":
        assert node.agent.stop() == 0
    if "restart" in kind:
        node.agent.start()
    else:
        successor = Agent(node.node, folder / f"agent-{time.monotonic_ns()}.log", *node.agent.flags)
        successor.start(prefix=prefix)
        wait_until(lambda: node.agent.exit_status == 0)
        node.agent = successor


def spent(pids: list[int]) -> float:
    """The CPU seconds of these processes and of the children that they have waited for."""
    seconds = 0.0
    for pid in pids:
        with suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # proc_pid_stat(5)
    return seconds


def report(kind: str, steps: list[Span], rests: list[Span], cpu_seconds: list[float], load: Load) -> None:
    seconds = rests[-1][1] - steps[0][0]
    made = len(load.connections)
    print(
        f"{kind} x {len(steps)} in {seconds:.0f} s: {made} connections ({made / seconds:.0f}/s), "
        f"{len(load.failures)} failed, {load.cut} held ones cut\n"
        f"  largest gaps: {shown(load.gaps(steps))} ms; with nothing done: {shown(load.gaps(rests))} ms\n"
        f"  CPU time of a start: {median(cpu_seconds):.2f} s",
        flush=True,
    )
    for failure in sorted(set(load.failures)):
        print(f"  {load.failures.count(failure)} x {failure}")


def shown(gaps: list[float]) -> str:
    return ", ".join(f"{seconds * 1e3:.0f}" for seconds in gaps[:3])


if __name__ == "__main__":
    main()
