"""A process's log: what Python's root logger is told goes to standard error, as a line each."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from userspace_proxy.logs.formats import FORMATTERS, at_verbosity
from userspace_proxy.logs.line_writer import LineWriter

STANDARD_ERROR: Final = 2


class Log(logging.Handler):
    """Formats records and has a `LineWriter` write them to standard error, once `start` was called.

    What cannot be formatted is counted as lost. Python closes it at the end of the process.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        super().__init__()
        if descriptor is None:
            # Without a standard error the number may be anybody's by now.
            descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else STANDARD_ERROR
        self._writer = LineWriter(descriptor, self._lost_line)
        self.log_format, self.verbosity = "text", 0
        self.setFormatter(FORMATTERS[self.log_format]())

    def shape(self, log_format: str, verbosity: int) -> None:
        """From now on lines look so, and the root logger lets through what `-v VERBOSITY` shows."""
        self.log_format, self.verbosity = log_format, verbosity
        self.setFormatter(FORMATTERS[log_format]())
        logging.getLogger().setLevel(max(at_verbosity(verbosity), 1))

    def start(self) -> None:
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self._line(record))
        except Exception:  # a wrong template must not end whoever logs it
            self._writer.lose(1)

    def close(self) -> None:
        self._writer.close()
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _lost_line(self, lines: int) -> bytes:
        return self._line(
            logging.LogRecord(
                __name__, logging.WARNING, __file__, 0, "Log lines were lost: lines=%d", (lines,), None
            )
        )


def configure_logging(verbosity: int = 0, log_format: str = "text") -> Log:
    """Have the root logger log so, and nowhere else. To be started by the caller."""
    log = Log()
    logging.basicConfig(handlers=[log], force=True)
    log.shape(log_format, verbosity)
    return log
