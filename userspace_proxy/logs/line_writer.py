"""Writing lines without waiting for who reads them.

A log goes to a pipe, a terminal or a socket, whose reader may have stopped, and then write(2) blocks for as
long as that lasts. So a thread writes. Lines wait for it, up to a number; what is more is lost, counted, and
the count is written as soon as somebody reads again. A regular file has no reader: it is written at once.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_WAITING_LINES: Final = 4096
_BATCH_LINES: Final = 64


class LineWriter:
    """Writes to `descriptor`, which it does not own. `lost_line` words how many lines were lost.

    Lines wait until `start`: capabilities belong to threads, so one is not to begin before they are given up.
    A reader that is gone (EPIPE, EIO) and a disk that is full cost lines, and nothing else.
    """

    def __init__(
        self, descriptor: int, lost_line: Callable[[int], bytes], max_waiting: int = MAX_WAITING_LINES
    ) -> None:
        self.lost = 0
        self._descriptor = descriptor
        self._lost_line = lost_line
        self._max_waiting = max_waiting
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._waiting: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._is_writing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write from now on. Safe to repeat."""
        if not self._is_file and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def write(self, line: bytes) -> None:
        """Write a line, which ends with a newline, now or soon. Never blocks."""
        if self._is_file:
            self._put([line])
            return
        with self._changed:
            if len(self._waiting) < self._max_waiting:
                self._waiting.append(line)
                self._changed.notify()
            else:
                self.lost += 1

    def lose(self, lines: int) -> None:
        """Count lines that are not to be seen."""
        with self._changed:
            self.lost += lines

    def close(self, seconds: float = 1.0) -> None:
        """Write what waits, for so long at most. Lines may come after it, too."""
        self.start()
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_writing, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                self._is_writing = True
                count = min(len(self._waiting), _BATCH_LINES)
                lines = [self._waiting.popleft() for _ in range(count)]
            self._put(lines)

    def _put(self, lines: list[bytes]) -> None:
        lost = self.lost
        if lost:
            lines = [*lines, self._lost_line(lost)]
        try:
            self._write_all(b"".join(lines))
        except OSError:
            self.lose(len(lines) - bool(lost))
        else:
            self.lose(-lost)

    def _write_all(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody who shares it made it so
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll()
