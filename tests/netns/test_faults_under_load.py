"""Two of three endpoints fail and recover at random while clients keep coming: none of them fails.

Ten seconds by default, without a look at the clock. A minute, with one:

    USERSPACE_PROXY_TEST_FAULT_SECONDS=60 pytest -s tests/netns/test_faults_under_load.py

The seed is printed; USERSPACE_PROXY_TEST_SEED repeats it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections import Counter
from pathlib import Path
from random import Random, SystemRandom

import pytest

from tests.support.service_node import ENDPOINT_PORTS, ServiceNode
from tests.support.steady_load import SteadyLoad, quantile
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.pods import start_server

SECONDS = float(os.environ.get("USERSPACE_PROXY_TEST_FAULT_SECONDS", "10"))
SEED = int(os.environ.get("USERSPACE_PROXY_TEST_SEED", SystemRandom().randrange(1_000_000)))
IS_TIMED = SECONDS >= 60
RATE = 200.0
STATES = ("killed", "black hole", "alive")


class Pod:
    """An endpoint that can be broken and mended."""

    def __init__(self, namespace: Namespace) -> None:
        self.state = "alive"
        self._namespace = namespace
        self._server = self._start()

    def become(self, state: str) -> None:
        """Return once it is so."""
        if state == self.state:
            return
        if self.state == "killed":
            self._server = self._start()
        if self.state != "alive":
            self._namespace.run("iptables", "-F", "INPUT")
        if state == "killed":
            self._refuse_new("REJECT", "--reject-with", "tcp-reset")
            self._server.kill()
            self._server.wait()
        elif state == "black hole":
            self._refuse_new("DROP")
            self._namespace.run("iptables", "-A", "INPUT", "-j", "DROP")
        self.state = state

    def _refuse_new(self, *target: str) -> None:
        self._namespace.run("iptables", "-A", "INPUT", "-p", "tcp", "--syn", "-j", *target)
        # What an endpoint accepted before it fails is its own to lose, proxy or no proxy: it may finish that.
        wait_until(lambda: not self._connections())

    def _connections(self) -> str:
        return self._namespace.run("ss", "-Htn", "state", "connected", "exclude", "time-wait").stdout

    def _start(self) -> subprocess.Popen[str]:
        return start_server(self._namespace, f"--greet={ENDPOINT_PORTS['greet']}")


async def break_and_mend(pods: list[Pod], random: Random, seconds: float) -> list[float]:
    """Let up to two pods fail at a time, and never the last one that lives; returns when each fault began."""
    ends = time.monotonic() + seconds
    faults: list[float] = []
    while time.monotonic() < ends or not faults:
        victims = random.sample(pods, 2)
        [survivor] = set(pods) - {*victims}
        await asyncio.to_thread(survivor.become, "alive")
        for victim in victims:
            state = random.choice(STATES)
            if state not in ("alive", victim.state):
                faults.append(time.monotonic())
            await asyncio.to_thread(victim.become, state)
        await asyncio.sleep(random.uniform(1.5, 4))
    return faults


def test_no_connection_fails_while_endpoints_come_and_go(tmp_path: Path) -> None:
    print(f"\nseed {SEED}")
    random = Random(SEED)
    with ServiceNode(tmp_path, endpoints=0) as node:
        node.agent.start()
        namespaces = [node.network.add_pod(f"pod-{number}") for number in range(3)]
        pods = [Pod(namespace) for namespace in namespaces]
        service = node.serve("greet", endpoints=[namespace.address for namespace in namespaces])
        load = SteadyLoad(node.client, service["greet"], RATE)

        async def run() -> list[float]:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run())
                await asyncio.sleep(1)
                faults = await break_and_mend(pods, random, SECONDS)
                load.stop.set()
            return faults

        faults = asyncio.run(run())
        ejections = node.agent.lines_with("Endpoint keeps failing")
    late = [
        visit.seconds * 1000
        for visit in load.visits
        if not any(fault <= visit.began < fault + 1 for fault in faults)
    ]
    p50, p99 = quantile(late, 0.5), quantile(late, 0.99)
    print(
        f"{len(load.visits)} connections, {len(faults)} faults, {len(ejections)} first ejections; "
        f"{len(late)} connections from a second after each fault on: p50 {p50:.1f} ms, p99 {p99:.0f} ms, "
        f"slowest of all {max(visit.seconds for visit in load.visits) * 1000:.0f} ms"
    )
    assert Counter(visit.failure for visit in load.visits) == {"": len(load.visits)}
    assert ejections
    if IS_TIMED:
        assert p99 < 300


@pytest.mark.parametrize("fault", ["REJECT", "DROP"])
def test_an_endpoint_that_recovers_is_used_again(tmp_path: Path, fault: str) -> None:
    target = (fault, "--reject-with", "tcp-reset") if fault == "REJECT" else (fault,)
    with ServiceNode(tmp_path, endpoints=2) as node:
        node.agent.start()
        service = node.serve("greet")
        victim = node.endpoints[0]
        load = SteadyLoad(node.client, service["greet"], 100)

        def greeters() -> set[str]:
            return {visit.greeted_by for visit in load.visits[-20:]}

        async def until(expected: set[str]) -> None:
            async with asyncio.timeout(60):
                while greeters() != expected:
                    await asyncio.sleep(0.01)

        async def run() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run())
                await until({"web-1", "web-2"})
                victim.run("iptables", "-A", "INPUT", "-p", "tcp", "--syn", "-j", *target)
                await until({"web-2"})
                victim.run("iptables", "-F", "INPUT")
                await until({"web-1", "web-2"})
                load.stop.set()

        asyncio.run(run())
        assert {visit.failure for visit in load.visits} == {""}
        assert node.agent.lines_with("Endpoint keeps failing", f"endpoint={victim.address}:8080")
        assert node.agent.lines_with("Endpoint is used again", f"endpoint={victim.address}:8080")
