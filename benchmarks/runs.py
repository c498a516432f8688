"""A run: peers side by side, works one after the other, rounds in turn."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.generators import compile_load
from benchmarks.peer import Peer
from benchmarks.peers import PEERS
from benchmarks.samples import Samples
from benchmarks.tables import number
from benchmarks.testbed import Testbed, share_cores
from benchmarks.works import Metric, Work
from userspace_proxy.demo.closing import Closing
from userspace_proxy.errors import StartupError, UserspaceProxyError

FOLDER: Final = Path("/run/benchmarks")
"""On the isolation's own tmpfs: it vanishes with the run."""

NOTHING_CAME_OF_IT: Final = (UserspaceProxyError, OSError, subprocess.SubprocessError)
"""How a measurement fails when a proxy or a program dies under it; the others go on."""

_PROGRAMS: Final = {
    "wrk": "wrk",
    "iperf3": "iperf3",
    "nginx": "nginx-light",
    "cc": "gcc libc6-dev",
    "taskset": "util-linux",
    "iptables": "iptables",
}


def missing_packages(peers: Iterable[str]) -> list[str]:
    """The Debian packages of the programs that the suite or one of the peers needs and that are not here."""
    needed = dict(_PROGRAMS)
    for peer in peers:
        needed.update(PEERS[peer].programs)
    return sorted({package for program, package in needed.items() if shutil.which(program) is None})


def require_programs(peers: Iterable[str]) -> None:
    """Raises StartupError, with what to install, if a program is missing."""
    if missing := missing_packages(peers):
        raise StartupError(f"programs are missing; install them with: apt-get install {' '.join(missing)}")


class Progress:
    """Says on standard error what is being measured and what came of it."""

    def say(self, text: str) -> None:
        """A line."""
        print(text, file=sys.stderr, flush=True)

    def figures(self, what: str, metrics: Sequence[Metric], figures: Mapping[str, float]) -> None:
        """One line for what was measured."""
        shown = (
            f"{metric.title} {number(figures[metric.key])} {metric.unit}".strip()
            for metric in metrics
            if metric.key in figures
        )
        self.say(f"  {what} {'  '.join(shown)}")


class PeerSet(Closing):
    """Peers that stand ready, each on a testbed of its own; `close` ends all of them."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}
        self.load = FOLDER / "load"
        self.cores = share_cores()
        os.sched_setaffinity(0, self.cores.load_numbers)  # we are not to disturb a proxy either
        self._open = ExitStack()
        FOLDER.mkdir(exist_ok=True)
        compile_load(self.load)

    def close(self) -> None:
        """Kill everything and delete the namespaces and files."""
        self._open.close()

    def testbed(self, name: str) -> Testbed:
        """A new testbed, which ends with this."""
        return self._open.enter_context(Testbed(name, FOLDER / name, self.load, self.cores))

    def add(self, name: str, peer: Peer) -> None:
        """Start a peer and keep it under that name."""
        peer.start()
        self.peers[name] = peer


def alternate(
    peers: Mapping[str, Peer], works: Sequence[Work], *, rounds: int, seconds: int, progress: Progress
) -> tuple[Samples, list[str]]:
    """Measure every work `rounds` times with each peer, the peers in turn.

    Returns what came to nothing too, in sentences.
    """
    samples, failures = Samples(), []
    for work in works:
        progress.say(work.title)
        able = {name: peer for name, peer in peers.items() if peer.takes_part(needs_udp=work.needs_udp)}
        for round_number in range(rounds):
            # Each round begins with another peer, so that none is always behind the same one.
            names = list(able)
            turn = round_number % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                try:
                    figures = work.measure(able[name], seconds)
                except NOTHING_CAME_OF_IT as error:
                    failures.append(f"{work.name}, round {round_number + 1}, {name}: {error}")
                    progress.say(f"  {failures[-1]}")
                    continue
                samples.add(work.name, name, round_number, figures)
                progress.figures(f"{work.name} {round_number + 1}: {name:<9}", work.metrics, figures)
                time.sleep(0.05)  # what is closing closes before the next begins
    return samples, failures
