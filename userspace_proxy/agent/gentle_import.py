"""Lets an agent that starts leave the cores to the workers that serve meanwhile.

Importing takes about half a second of CPU time, most of what a start takes. Each thread has a nice value of
its own, and lowering it again needs a privilege; so what may take its time is done in a thread that is nice,
and the rest of the process is not. Workers are imported at once: somebody may be waiting for them. (Where the
kernel groups tasks by session, each session has the same share anyway.) Source: sched(7), nice(2).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Final

_NICE: Final = 5
"""A worker on the same core gets three times as much."""


def import_gently(module: str) -> None:
    """Import `module` in a nice thread, and wait for it; whoever imports it after that has it at once."""
    with ThreadPoolExecutor(1, initializer=os.nice, initargs=(_NICE,)) as thread:
        thread.submit(import_module, module).result()
