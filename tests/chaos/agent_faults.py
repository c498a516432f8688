"""What happens to the agent and its workers."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.chaos.faults import Fault
from tests.chaos.ledger import ALL_PHASES, Excuse, Phase
from tests.chaos.world import REPAIR_SECONDS, UDP_PORTS, World
from tests.support.agent import USERSPACE_PROXY, userspace_proxy
from tests.support.container import SERVING, Container
from tests.support.kernel_state import descriptors
from tests.support.waiting import wait_until


class AgentKilled(Fault):
    def inflict(self) -> None:
        self.world.kill_agent()

    def heal(self) -> None:
        self.world.start_agent()


class AgentStopped(AgentKilled):
    def inflict(self) -> None:
        assert self.world.agent.stop() == 0


class ContainerFault(Fault):
    """Of the container that the agent is in."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        assert isinstance(world.agent, Container)
        self.container = world.agent


class SupervisedAgentKilled(ContainerFault):
    """It is started again in place, and once more while it may be starting still."""

    def inflict(self) -> None:
        self.world.kill_agent()
        if self.random.random() < 0.5:
            wait_until(lambda: self.container.is_running, REPAIR_SECONDS)
            time.sleep(self.random.uniform(0, 1))
            self.world.kill_agent()
        self.served = self.container.log.count(SERVING)  # those that are dead by now, also the one between

    def heal(self) -> None:
        wait_until(lambda: self.container.log.count(SERVING) > self.served, REPAIR_SECONDS)


class ContainerTold(ContainerFault):
    """SIGTERM ends the agent; the container stays until its workers are done, and another one follows."""

    def inflict(self) -> None:
        self.container.end()
        wait_until(lambda: not self.container.is_running, REPAIR_SECONDS)

    def heal(self) -> None:
        self.world.start_agent()


class SupervisedAgentTold(ContainerTold):
    """The agent alone is told, and is not started again: another container must follow."""

    def inflict(self) -> None:
        os.kill(self.container.pid, signal.SIGTERM)
        wait_until(lambda: not self.container.is_running, REPAIR_SECONDS)

    def heal(self) -> None:
        super().heal()
        self.container.end()


class AgentFrozen(Fault):
    def inflict(self) -> None:
        os.kill(self.world.agent.pid, signal.SIGSTOP)

    def heal(self) -> None:
        os.kill(self.world.agent.pid, signal.SIGCONT)


class TakenOver(Fault):
    def inflict(self) -> None:
        self.world.take_over()


class Upgraded(Fault):
    """Another version takes over, and replaces the workers; the old ones drain."""

    def inflict(self) -> None:
        self.world.take_over(upgrade=True)


class UpgradeCannotStart(Fault):
    """A new agent that is told nonsense ends, and everything goes on."""

    def inflict(self) -> None:
        wrong = (*self.world.agent.flags, "--bind-address", "203.0.113.9")
        completed = userspace_proxy(self.world.node.node, "run", *wrong, timeout=REPAIR_SECONDS)
        assert completed.returncode == 1, completed.stderr
        assert self.world.agent.is_running


class Drained(Fault):
    """It takes nothing new, and what runs goes on, until somebody is tired of waiting."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        reason = "the node was drained"
        self.excuses = (
            Excuse(reason, {Phase.CONNECTING}),
            Excuse(reason, {Phase.ESTABLISHED}, service_ports=UDP_PORTS),
        )

    def inflict(self) -> None:
        self.draining = self.world.node.node.popen(*USERSPACE_PROXY, "drain")
        wait_until(lambda: self.world.agent.lines_with("Draining"), REPAIR_SECONDS)

    def heal(self) -> None:
        cut = Excuse("a drain was cut short", {Phase.ESTABLISHED})
        window = self.world.ledger.excuse(cut, time.monotonic())
        self.world.agent.kill_everything()
        self.draining.wait(REPAIR_SECONDS)
        self.world.start_agent()
        window.until = time.monotonic()


class AllKilled(AgentKilled):
    """Agent and workers die at one moment, and everything with them, until an agent is back."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        self.excuses = (Excuse("agent and workers were killed at one moment", ALL_PHASES),)

    def inflict(self) -> None:
        self.world.agent.kill_everything()


class WorkerFault(Fault):
    """Of a worker that serves the Service."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        serving = world.serving_workers()
        self.pid = random.choice(sorted(serving))
        self.ports = serving[self.pid]
        self.detail = f"which serves {', '.join(sorted(self.ports))}"


class WorkerKilled(WorkerFault):
    """What is in its hands is lost; who waits, and who comes, is served by its successor."""

    excuses_end_with_inflict = True

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        self.excuses = (Excuse("the worker died with it", ALL_PHASES, service_ports=self.ports),)

    def inflict(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: self.pid not in self.world.node.node.pids(), REPAIR_SECONDS)

    def heal(self) -> None:
        wait_until(lambda: set().union(*self.world.serving_workers().values()) >= self.ports, REPAIR_SECONDS)


class WorkerFrozen(WorkerFault):
    """Whoever it serves waits."""

    def inflict(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def heal(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)


class DescriptorsScarce(WorkerFault):
    """A worker may open a few descriptors more, and then none; connections wait until it may again."""

    def inflict(self) -> None:
        self._allow(descriptors(self.pid) + self.random.randrange(0, 20))

    def heal(self) -> None:
        with suppress(FileNotFoundError):  # it has ended
            self._allow(resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    def _allow(self, number: int) -> None:
        """As the worker's own user, who may do that with no capability."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        user, group = (int(status.split(f"{name}:\t")[1].split()[0]) for name in ("Uid", "Gid"))
        subprocess.run(
            ["prlimit", f"--pid={self.pid}", f"--nofile={number}:"],
            user=user,
            group=group,
            extra_groups=[],
            check=True,
        )
