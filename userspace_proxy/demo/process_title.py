"""What `ps` shows of a process that was forked, not started by a command of its own."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

TITLE_ROOM: Final = "-" * 200
"""An argument that nobody reads: a title is written over the arguments that a process was started with."""

_PR_SET_NAME: Final = 15


def set_title(title: str, name: str) -> None:
    """Be shown as `title`, cut to the room there is, and as `name` where the kernel is brief (15 bytes).

    The arguments lie in memory where the kernel put them, from arg_start to arg_end, fields 48 and 49 in
    proc(5). A forked process has a copy of them.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    written = title.encode()[: end - start - 1]
    ctypes.memmove(start, written + bytes(end - start - len(written)), end - start)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
