"""What the node runs out of, for a while."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from itertools import product
from pathlib import Path
from random import Random

from tests.chaos.agent_faults import WorkerKilled
from tests.chaos.faults import Fault
from tests.chaos.ledger import Excuse, Phase
from tests.chaos.world import FAMILIES, World
from userspace_proxy.demo.namespaces import run

RANGE = "net.ipv4.ip_local_port_range"
NEW_DROPPED = ("-m", "conntrack", "--ctstate", "NEW", "-j", "DROP")
PROTOCOLS = ("tcp", "udp")
FILLING = Path("/run/filling")
"""/run is this run's own."""
SPARE_FILES = 1000


class SourcePortsScarce(Fault):
    """The node has a few ports towards each endpoint. Who finds none waits, and not for ever."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        self.ports = random.randrange(4, 40)
        self.detail = f"{self.ports} of them"
        self.excuses = (Excuse("no source port was left", {Phase.CONNECTING}),)

    def inflict(self) -> None:
        path = Path("/proc/sys", *RANGE.split("."))
        self.before = self.world.node.node.call(path.read_text)
        self.world.node.node.sysctl(RANGE, f"40000 {40000 + self.ports - 1}")

    def heal(self) -> None:
        self.world.node.node.sysctl(RANGE, self.before)


class ConntrackFull(Fault):
    """Nobody new is tracked. The table's limit is one for all namespaces, so rules drop what it would."""

    def inflict(self) -> None:
        self._rules("-A")

    def heal(self) -> None:
        self._rules("-D")

    def _rules(self, verb: str) -> None:
        for tool, chain, protocol in product(FAMILIES.values(), ("PREROUTING", "OUTPUT"), PROTOCOLS):
            self.world.node.node.run(tool, "-t", "mangle", verb, chain, "-p", protocol, *NEW_DROPPED)


class DiskFull(WorkerKilled):
    """A worker that is started then has no control socket, and cannot be handed over: it dies in the end."""

    excuses_end_with_inflict = False

    def inflict(self) -> None:
        there = os.statvfs("/run")
        self.files = there.f_files
        self._allow(there.f_files - there.f_ffree + SPARE_FILES)
        FILLING.mkdir()
        with suppress(OSError):
            for number in range(2 * SPARE_FILES):
                (FILLING / str(number)).touch()
        self.workers = {*self.world.agent.worker_pids}
        super().inflict()
        super().heal()

    def heal(self) -> None:
        self._allow(self.files)
        shutil.rmtree(FILLING)
        for pid in sorted({*self.world.agent.worker_pids} - self.workers):
            self.pid = pid
            super().inflict()
        super().heal()

    def _allow(self, files: int) -> None:
        run("mount", "-o", f"remount,nr_inodes={files}", "/run")
