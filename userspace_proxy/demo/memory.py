"""What the processes of a demo cluster take, as /proc tells."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def memory_of_all() -> tuple[int, int]:
    """How many processes there are in this PID namespace, and their memory in bytes.

    That is Pss of smaps_rollup; proc(5): what n processes share counts as an nth for each, so that the sum is
    what all of them take together. Takes a millisecond or two for each process.
    """
    processes = kibibytes = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, IndexError):  # it ended meanwhile
                lines = (entry / "smaps_rollup").read_text().splitlines()
                kibibytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
                processes += 1
    return processes, kibibytes * 1024
