"""What processes cost, as the kernel counts it: proc(5). One that has ended costs nothing any more."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all its descendants that are alive."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    except OSError:  # gone meanwhile
        return []
    return [pid, *(descendant for child in sorted(children) for descendant in family(child))]


def cpu_seconds(pids: Iterable[int]) -> float:
    """The CPU time of all threads of these processes, their system calls included.

    Exact where the kernel keeps schedstat, else in ticks. Threads that have ended are not in it.
    """
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return _cpu_ticks(pid) / _TICKS


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes, pages that they share with each other counted once."""
    total = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def descriptors(pids: Iterable[int]) -> int:
    """How many descriptors these processes have open together."""
    total = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            total += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return total
