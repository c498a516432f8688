"""The first process of a container: starts the agent, again if it dies, and waits for its workers.

When the first process of a container ends, everything in it is killed. The agent must not be that process,
since its workers are to outlive it. Orphans become children of this one (PR_SET_CHILD_SUBREAPER has it so
where it is not pid 1) and are reaped here. Source: prctl(2), pid_namespaces(7).

An agent that ends with status 0 was told to, by a signal or by another agent that took over; it is not
started again. This process stays even then until it is told to end, so that nobody restarts the container
beside its successor.

Whatever keeps a further agent from starting (no memory, a program that is just being replaced) is no reason
to end, since workers run: it is tried again, ever less often.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from userspace_proxy.core.back_off import delay_seconds
from userspace_proxy.errors import PrivilegeError, StartupError, UsageError

logger = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER: Final = 36
_STABLE_SECONDS: Final = 10.0
_NOT_TO_BE_HEALED: Final = frozenset({UsageError.exit_code, PrivilegeError.exit_code})
"""Exit statuses of an agent for which time is no cure, unless it has run before."""


def supervise(command: Sequence[str]) -> int:
    """Run `command` until SIGTERM or SIGINT, and until every process that came of it has ended.

    Returns the exit status of this process: 0, or that of a command which cannot come to work by being
    started again, since it was called in a wrong way or lacks a privilege. Raises `StartupError` if it cannot
    be started the first time.
    """
    return _Supervisor(command).run()


class _Supervisor:
    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._agent: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_at: float | None = 0.0
        self._failures = 0
        self._is_told_to_end = False
        self._has_children = True
        self._status = 0

    def run(self) -> int:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        woken, waker = socket.socketpair()
        with woken, waker:
            for end in (woken, waker):
                end.setblocking(False)
            # Blocked signals would stay blocked in the agent; handlers do not outlive exec.
            signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            signal.signal(signal.SIGCHLD, lambda *_: None)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._end)
            while not self._is_told_to_end or self._has_children:
                self._start_if_due()
                select.select([woken], [], [], self._patience())
                with suppress(BlockingIOError):
                    woken.recv(4096)
                self._reap()
            signal.set_wakeup_fd(-1)
        return self._status

    def _end(self, *_: object) -> None:
        self._is_told_to_end = True
        self._start_at = None
        if self._agent is not None:
            logger.info("The agent is told to end, its workers are waited for")
            with suppress(ProcessLookupError):  # it has just been reaped
                os.kill(self._agent.pid, signal.SIGTERM)

    def _patience(self) -> float | None:
        return None if self._start_at is None else max(0.0, self._start_at - time.monotonic())

    def _start_if_due(self) -> None:
        if self._start_at is not None and time.monotonic() >= self._start_at:
            self._start_at = None
            is_first = not self._started_at
            self._started_at = time.monotonic()
            try:
                self._agent = subprocess.Popen(self._command)
            except OSError as error:
                if is_first:
                    raise StartupError(f"{self._command[0]} cannot be started: {error}") from error
                self._failed(f"not started ({error})")
                return
            self._has_children = True
            if self._is_told_to_end:  # while it started, when there was nobody to tell
                self._end()

    def _reap(self) -> None:
        """Reap whoever has ended, the agent's orphans included."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if self._agent is not None and pid == self._agent.pid:
                    self._agent.returncode = os.waitstatus_to_exitcode(status)
                    self._agent_ended(self._agent.returncode)
        except ChildProcessError:
            self._has_children = False

    def _agent_ended(self, status: int) -> None:
        self._agent = None
        lived = time.monotonic() - self._started_at
        if self._is_told_to_end:
            return
        if status == 0:
            logger.info("The agent has ended as it was told to, and is not started again")
            return
        if lived > _STABLE_SECONDS:
            self._failures = 0
        elif status in _NOT_TO_BE_HEALED and not self._failures:
            self._status, self._is_told_to_end = status, True
            return
        self._failed(f"died (status {status})")

    def _failed(self, what: str) -> None:
        self._failures += 1
        if self._is_told_to_end:
            return
        delay = 0.0 if self._failures == 1 else delay_seconds(self._failures, 0.5)
        self._start_at = time.monotonic() + delay
        logger.error("The agent has %s, it is started again: in_seconds=%.1f", what, delay)
