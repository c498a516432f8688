"""Lines out of chunks, without a limit as low as a stream reader's: one EndpointSlice can be 300 KB."""

from __future__ import annotations

MAX_LINE_BYTES = 16 * 1024 * 1024


class LineTooLongError(ValueError):
    """A line has no end within the limit."""


class Lines:
    """Collects what is not yet a whole line."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._begun: list[bytes] = []
        self._begun_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their ends; empty ones are left out."""
        *complete, rest = chunk.split(b"\n")
        if complete:
            complete[0] = b"".join((*self._begun, complete[0]))
            self._begun.clear()
            self._begun_bytes = 0
        if rest:
            self._begun.append(rest)
            self._begun_bytes += len(rest)
            if self._begun_bytes > self._max_line_bytes:
                raise LineTooLongError(f"more than {self._max_line_bytes} bytes")
        return [line for line in complete if line]
