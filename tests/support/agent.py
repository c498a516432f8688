"""The real agent, as a process inside a node's namespace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import COMMAND_SECONDS, Namespace

USERSPACE_PROXY = (sys.executable, "-m", "userspace_proxy")

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class Agent:
    """`userspace-proxy run` with `flags` on `node`; may be started again after it has ended.

    `log` is what the present process, and its workers, have said.
    """

    def __init__(self, node: Namespace, log_file: Path, *flags: str) -> None:
        self.flags = flags
        self._node = node
        self._log_file = log_file
        self._process: subprocess.Popen[str] | None = None

    def start(
        self,
        *,
        prefix: Sequence[str] = (),
        program: Sequence[str] = USERSPACE_PROXY,
        verbs: Sequence[str] = ("run",),
        until: str = "Serving:",
    ) -> None:
        """Start `program` with `verbs` behind the command `prefix`; return once it has logged `until`."""
        with self._log_file.open("w") as log:
            self._process = self._node.popen(*prefix, *program, *verbs, *self.flags, stdout=log, stderr=log)
        process = self._process
        wait_until(lambda: until in self.log or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, f"the agent ended with {process.returncode}:\n{self.log}"

    @property
    def log(self) -> str:
        return self._log_file.read_text()

    def lines_with(self, *texts: str) -> list[str]:
        """The lines of the log that have all of `texts`."""
        return [line for line in self.log.splitlines() if all(text in line for text in texts)]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def worker_pids(self) -> list[int]:
        """All workers on the node and the warm spare, oldest first, whichever agent started them."""
        return sorted(pid for pid in self._node.pids() if "worker_process" in command_line(pid))

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, as an operator would, and return its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(STOP_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal that does not end it."""
        assert self._process is not None
        self._process.send_signal(number)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """It does nothing meanwhile; its workers do."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def kill_everything(self) -> None:
        """`kill -9` of the agent and all its workers, at one moment."""
        assert self._process is not None
        pids = [self.pid, *self.worker_pids]
        kill(*pids)
        self._process.wait(STOP_SECONDS)
        wait_until(lambda: not set(pids) & set(self._node.pids()), STOP_SECONDS)


def kill(*pids: int) -> None:
    """`kill -9`; some may be gone by then, as a worker that has neither agent nor work ends by itself."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def command_line(pid: int) -> str:
    """What a process was started as; "" once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def userspace_proxy(
    where: Namespace, *arguments: str, prefix: Sequence[str] = (), timeout: float = COMMAND_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end; its exit status is the caller's to judge."""
    return where.run(*prefix, *USERSPACE_PROXY, *arguments, check=False, timeout=timeout)
