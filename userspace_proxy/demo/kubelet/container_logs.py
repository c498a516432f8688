"""What containers print, kept in files of bounded size, as `kubectl logs` reads it.

Each line is stored behind the moment at which it came. A file that is full becomes `….1`, in the place of an
older one. Of a container its current run is kept, and the one before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

MOST_FILE_BYTES: Final = 1 << 20
MOST_LINE_BYTES: Final = 16384

_PIECE_BYTES: Final = 131072
"""More than the longest line: what one read of the pipe may hold, and what was left over before."""

_STAMP_BYTES: Final = len("2026-01-01T00:00:00.000000Z ")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What of a log is asked for; the fields of PodLogOptions."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: datetime | None = None


class ContainerLog:
    """The log of one run of a container, in `path`. Its process writes to the pipe that `open` returns."""

    def __init__(self, path: Path, most_file_bytes: int = MOST_FILE_BYTES) -> None:
        self.path = path
        self.older_path = path.with_name(path.name + ".1")
        self.is_open = False
        self._most_file_bytes = most_file_bytes
        self._file = -1
        self._pipe = -1
        self._line = bytearray()
        self._older_start = 0  # positions count from the first byte ever written
        self._start = 0
        self._end = 0
        self._changed = asyncio.Event()

    def open(self) -> int:
        """Begin to collect; returns the end to write to, which is the caller's to close."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._pipe, writer = os.pipe()
        os.set_blocking(self._pipe, False)
        asyncio.get_running_loop().add_reader(self._pipe, self._read)
        self.is_open = True
        return writer

    def close(self) -> None:
        """Take what is in the pipe still, and collect no more. Safe to repeat."""
        if not self.is_open:
            return
        self._read()
        if self.is_open:
            self._close()

    def remove(self) -> None:
        """Close it and delete its files."""
        self.close()
        for path in (self.path, self.older_path):
            path.unlink(missing_ok=True)

    async def lines(self, options: LogOptions) -> AsyncIterator[bytes]:
        """What is there in pieces of whole lines, and with `follow` what comes, until the run ends."""
        position = self._older_start
        if options.tail_lines is not None:
            position = await self._tail(options.tail_lines)
        left = options.limit_bytes
        since = _stamp(options.since) if options.since is not None else b""
        while left is None or left > 0:
            changed, more_may_come = self._changed, options.follow and self.is_open
            position, data = await self._read_from(position)
            if not data:
                if not more_may_come:
                    return
                await changed.wait()
                continue
            chosen = _chosen(data, since, options.timestamps)
            if left is not None:
                chosen = chosen[:left]
                left -= len(chosen)
            if chosen:
                yield chosen

    def _read(self) -> None:
        """Store what the process has said."""
        with suppress(BlockingIOError):
            data = os.read(self._pipe, 65536)
            if not data:
                self._close()
                return
            self._line += data
            *lines, rest = bytes(self._line).split(b"\n")
            if len(rest) >= MOST_LINE_BYTES:
                lines, rest = [*lines, rest], b""  # a line for us, however long it may become
            self._line[:] = rest
            self._store(lines)

    def _store(self, lines: list[bytes]) -> None:
        if not lines:
            return
        stamp = _stamp(datetime.now(UTC))
        data = b"".join(stamp + line + b"\n" for line in lines)
        with suppress(OSError):  # a full disk costs lines, and not the pod
            if self._end > self._start and self._end - self._start + len(data) > self._most_file_bytes:
                self._rotate()
            self._end += os.write(self._file, data)
        self._tell()

    def _rotate(self) -> None:
        self.path.replace(self.older_path)
        full, self._file = self._file, os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.close(full)
        self._older_start, self._start = self._start, self._end

    def _close(self) -> None:
        self.is_open = False
        asyncio.get_running_loop().remove_reader(self._pipe)
        os.close(self._pipe)
        if self._line:
            self._store([bytes(self._line)])
            self._line.clear()
        os.close(self._file)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _read_from(self, position: int) -> tuple[int, bytes]:
        """Whole lines from `position` on, or from where the files begin by now, and the position behind."""
        position = max(position, self._older_start)
        is_older = position < self._start
        path, start = (self.older_path, self._older_start) if is_older else (self.path, self._start)
        end = self._start if is_older else self._end
        data = await _read(path, position - start, min(end - position, _PIECE_BYTES))
        data = data[: data.rfind(b"\n") + 1]
        return position + len(data), data

    async def _tail(self, lines: int) -> int:
        """The position where the last `lines` begin."""
        older_start, start, end = self._older_start, self._start, self._end
        older, newer = await asyncio.gather(
            _read(self.older_path, 0, start - older_start), _read(self.path, 0, end - start)
        )
        data = older + newer
        index = len(data)
        for _ in range(lines + 1):
            index = data.rfind(b"\n", 0, index)
            if index < 0:
                break
        return older_start + (index + 1 if lines else len(data))


async def _read(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes, or fewer where there are no more; none of a file that has been removed."""
    if size == 0:
        return b""
    try:
        file = os.open(path, os.O_RDONLY)  # at once: a moment later another file may have this name
    except FileNotFoundError:
        return b""
    try:
        return await asyncio.to_thread(os.pread, file, size, offset)
    finally:
        os.close(file)


def _chosen(data: bytes, since: bytes, timestamps: bool) -> bytes:
    if timestamps and not since:
        return data
    start = 0 if timestamps else _STAMP_BYTES
    # Stamps of one length, in UTC, are in the order of time.
    return b"".join(line[start:] for line in data.splitlines(keepends=True) if line >= since)


def _stamp(moment: datetime) -> bytes:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ ").encode()
