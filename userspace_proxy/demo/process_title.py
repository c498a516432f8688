"""What `ps` shows of a process that was forked, not started by a command of its own."""

from __future__ import annotations

import ctypes
import os
from typing import Final

TITLE_ROOM: Final = "-" * 200
"""An argument that nobody reads: a title is written over the arguments that a process was started with."""

_PR_SET_NAME: Final = 15

_libc = ctypes.CDLL(None)


def set_title(title: str, name: str) -> None:
    """Be shown as `title`, cut to the room there is, and as `name` where the kernel is brief (15 bytes).

    The arguments lie in memory where the kernel put them, from arg_start to arg_end, fields 48 and 49 in
    proc(5). A forked process has a copy of them.
    """
    # Read without the buffers of Python's files, and the modules behind them: each forked process would have
    # written to pages that it shares with all others until then.
    stat = os.open("/proc/self/stat", os.O_RDONLY)
    fields = os.read(stat, 4096).rpartition(b")")[2].split()
    os.close(stat)
    start, end = int(fields[45]), int(fields[46])
    written = title.encode()[: end - start - 1]
    ctypes.memmove(start, written + bytes(end - start - len(written)), end - start)
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
