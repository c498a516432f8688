"""Pipes for moving bytes between sockets inside the kernel, and a bounded pool of them.

splice(2) wants a pipe between two sockets. A pipe costs two descriptors and up to 1 MiB of pages, so a half
of a relay has one only while it carries bulk. Unprivileged processes share an allowance of pipe pages per
user (/proc/sys/fs/pipe-user-pages-soft, pipe(7)); beyond it the kernel hands out pipes of two pages, which
are worse than copying, and we do without.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

PIPE_BYTES: Final = 1 << 20
"""The size that we ask for: what an unprivileged process may have by default (pipe-max-size)."""

_LEAST_PIPE_BYTES: Final = 1 << 16
_FLAGS: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipe:
    """One pipe. `level` is how many bytes are in it."""

    __slots__ = ("_read_fd", "_write_fd", "level")

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self.level = 0

    def fill(self, source_fd: int) -> int:
        """Move bytes from a socket into the empty pipe: how many; 0 is the end of the stream.

        BlockingIOError: the socket has none. Other OSErrors are the socket's.
        """
        moved = os.splice(source_fd, self._write_fd, PIPE_BYTES, flags=_FLAGS)
        self.level += moved
        return moved

    def drain(self, sink_fd: int) -> int:
        """Move bytes from the pipe, which has some, into a socket: how many.

        BlockingIOError: the socket takes none now. Other OSErrors are the socket's.
        """
        moved = os.splice(self._read_fd, sink_fd, self.level, flags=_FLAGS)
        self.level -= moved
        return moved

    def close(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)


class PipePool:
    """Lends pipes: at most `max_lent` at a time, and keeps at most `max_idle` for the next who asks."""

    def __init__(self, *, max_lent: int = 128, max_idle: int = 16) -> None:
        self._max_lent = max_lent
        self._max_idle = max_idle
        self._idle: list[Pipe] = []
        self.lent = 0

    def take(self) -> Pipe | None:
        """An empty pipe, to be given back; None if there is none to be had, and copying has to do."""
        if self.lent == self._max_lent:
            return None
        pipe = self._idle.pop() if self._idle else _open_pipe()
        if pipe is not None:
            self.lent += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """A pipe that still holds bytes of a connection is closed, never lent again."""
        self.lent -= 1
        if pipe.level == 0 and len(self._idle) < self._max_idle:
            self._idle.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        """Close the idle pipes; those that are lent are their borrowers' to give back first."""
        while self._idle:
            self._idle.pop().close()


def _open_pipe() -> Pipe | None:
    try:
        read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # EMFILE, ENFILE
        return None
    pipe = Pipe(read_fd, write_fd)
    try:
        size = fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:  # EPERM: beyond the user's allowance
        size = fcntl.fcntl(write_fd, fcntl.F_GETPIPE_SZ)
    if size < _LEAST_PIPE_BYTES:
        pipe.close()
        return None
    return pipe
