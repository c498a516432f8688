"""Where a worker's log lines go: to where its first agent's go, or to the agent that has adopted it.

A worker has its standard error from the agent that started it. Once that agent is gone nobody may look there:
another one that adopts the worker is sent what it logs, as messages, and logs it as if it were its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeAlias

from userspace_proxy.dataplane.messages import Logged
from userspace_proxy.logs.log import Log

Tell: TypeAlias = Callable[[Logged], bool]

_LOST: Final = "Log lines of a worker were lost: lines=%d"
_TRACEBACKS: Final = logging.Formatter()


class WorkerLog(logging.Handler):
    """Hands records to `own`, or to an agent: `tell` says whether that took them, and is None without one."""

    def __init__(self, own: Log) -> None:
        super().__init__()
        self.tell: Tell | None = None
        self._own = own
        self._lost = 0

    def shape(self, log_format: str, verbosity: int) -> None:
        """An agent says how its log looks."""
        self._own.shape(log_format, verbosity)

    def show(self, verbosity: int) -> None:
        """From now on let through what `-v VERBOSITY` shows."""
        self._own.shape(self._own.log_format, verbosity)

    def emit(self, record: logging.LogRecord) -> None:
        if self.tell is None:
            self._own.handle(record)
        elif self._lost and self.tell(Logged(0, record.created, logging.WARNING, _LOST, (self._lost,))):
            self._lost = 0
            self._send(self.tell, record)
        else:
            self._send(self.tell, record)

    def _send(self, tell: Tell, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        plain = tuple(each if isinstance(each, int | float) else str(each) for each in arguments)
        trace = _TRACEBACKS.formatException(record.exc_info) if record.exc_info else ""
        if not tell(Logged(0, record.created, record.levelno, str(record.msg), plain, trace)):
            self._lost += 1


def log_again(message: Logged, logger: logging.Logger) -> None:
    """Log what a worker has logged, with its time."""
    if logger.isEnabledFor(message.level):
        record = logging.makeLogRecord(
            {
                "name": logger.name,
                "levelno": message.level,
                "levelname": logging.getLevelName(message.level),
                "msg": message.template,
                "args": message.arguments,
                "created": message.created,
                "msecs": message.created % 1 * 1000,
                "exc_text": message.trace or None,
            }
        )
        logger.handle(record)
