"""`python -m benchmarks profile`: where a worker's time goes: flame graphs, system calls per connection.

Each work is done once for the flame graph (py-spy) and once, as that slows it, for the calls (strace).
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from benchmarks.generators import MeasurementError
from benchmarks.peers import REPOSITORY, Ours
from benchmarks.processes import cpu_seconds
from benchmarks.results import require_folder
from benchmarks.runs import NOTHING_CAME_OF_IT, PeerSet, Progress, require_programs
from benchmarks.tables import NOTHING, markdown, number
from benchmarks.testbed import wait_until
from benchmarks.works import WORKS, Figures, Work
from userspace_proxy.errors import StartupError

_FEWER_IS_NOTHING: Final = 0.005
"""Calls per thing that are left out: what a worker does by itself from time to time."""
_STOP_SECONDS: Final = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command understands."""
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORK",
        choices=WORKS,
        default=list(WORKS),
        help=f"of {', '.join(WORKS)} (default: all)",
    )
    parser.add_argument(
        "--seconds", type=int, default=5, help="how long each work is done (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=REPOSITORY / "benchmarks" / "results",
        help="the folder for results (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Profile, write, print."""
    require_programs([Ours.name])
    py_spy = find_py_spy()
    if shutil.which("strace") is None:
        raise StartupError("strace is missing; install it with: apt-get install strace")
    folder = arguments.output.resolve() / f"profile-{datetime.now().astimezone():%Y-%m-%d-%H%M}"
    require_folder(folder)
    progress = Progress()
    counted: dict[str, Mapping[str, float]] = {}
    with PeerSet() as ready:
        ours = Ours(ready.testbed(Ours.name))
        ours.start()
        for name in arguments.only:
            work, seconds = WORKS[name], arguments.seconds
            progress.say(work.title)
            try:
                worker = busiest_worker(ours, work)
                with flame_graph(py_spy, worker, folder / f"{name}.svg", seconds):
                    work.measure(ours, seconds)
                with system_calls(worker, folder / f"{name}.strace") as report:
                    figures = work.measure(ours, seconds)
                counted[name] = per_thing(read_system_calls(report.read_text()), figures)
            except NOTHING_CAME_OF_IT as error:
                progress.say(f"  {error}")
    page = f"# System calls\n\nOf the worker, {units(counted)}.\n\n{calls_table(counted)}\n"
    (folder / "system-calls.md").write_text(page)
    print(f"\n{page}\nwritten to {folder}, with a flame graph of each work")
    return 0


def find_py_spy() -> str:
    """The program, from the virtual environment or elsewhere. Raises StartupError, with what to install."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise StartupError("flame graphs need py-spy; install it with: pip install -e '.[bench]'")
    return found


def busiest_worker(ours: Ours, work: Work) -> int:
    """The worker that carries this work, found by trying; beside it there is a spare."""
    before = {pid: cpu_seconds([pid]) for pid in ours.workers()}
    work.measure(ours, 1)
    return max(before, key=lambda pid: cpu_seconds([pid]) - before[pid])


@contextmanager
def flame_graph(py_spy: str, pid: int, target: Path, seconds: int) -> Iterator[None]:
    """Sample a process for so long, beginning with the block."""
    command = [py_spy, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", "250"]
    with subprocess.Popen(
        [*command, "--output", str(target)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as recording:
        yield
        _, said = recording.communicate(timeout=_STOP_SECONDS)
        if not target.exists():
            raise MeasurementError(f"py-spy drew nothing: {said.strip()[-300:]}")


@contextmanager
def system_calls(pid: int, report: Path) -> Iterator[Path]:
    """Count the system calls of a process during the block; the path has `strace -c`'s table after it."""
    with subprocess.Popen(
        ["strace", "-c", "-f", "-p", str(pid), "-o", str(report)], stderr=subprocess.DEVNULL
    ) as counting:
        wait_until(lambda: is_traced(pid), seconds=_STOP_SECONDS, what="strace")
        try:
            yield report
        finally:
            counting.send_signal(signal.SIGINT)
            counting.wait(_STOP_SECONDS)


def is_traced(pid: int) -> bool:
    """Whether somebody looks on."""
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


def read_system_calls(table: str) -> dict[str, int]:
    """How often each system call was made, from what `strace -c` printed."""
    calls = {}
    for line in table.splitlines():
        words = line.split()
        if len(words) in (5, 6) and words[3].isdigit() and words[-1] != "total":
            calls[words[-1]] = int(words[3])
    return calls


def per_thing(calls: Mapping[str, int], figures: Figures) -> dict[str, float]:
    """Divided by what was done, the most frequent first."""
    ordered = sorted(calls.items(), key=lambda item: -item[1])
    return {name: count / figures["done"] for name, count in ordered}


def units(counted: Mapping[str, object]) -> str:
    """What the columns are per."""
    things = {name: _thing(WORKS[name]) for name in counted}
    return "; ".join(f"{name}: per {thing}" for name, thing in things.items()) or "of nothing"


def _thing(work: Work) -> str:
    [unit] = [metric.unit for metric in work.metrics if metric.key == "cpu"]
    return unit.partition(" per ")[2]


def calls_table(counted: Mapping[str, Mapping[str, float]]) -> str:
    """A row for each system call, a column for each work."""
    totals = {
        call: sum(calls.get(call, 0) for name, calls in counted.items() if not name.startswith("bulk"))
        for calls in counted.values()
        for call in calls
    }
    shown = [
        call
        for call in sorted(totals, key=lambda call: -totals[call])
        if any(calls.get(call, 0) >= _FEWER_IS_NOTHING for calls in counted.values())
    ]
    rows = [
        [call, *(number(calls[call]) if call in calls else NOTHING for calls in counted.values())]
        for call in shown
    ]
    rows.append(["all", *(number(sum(calls.values())) for calls in counted.values())])
    return markdown(["", *counted], rows)
