"""The agent as containers have it: under `userspace-proxy supervise`, first process of a pid namespace."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.support.agent import START_SECONDS, STOP_SECONDS, USERSPACE_PROXY, Agent, command_line, kill
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace

FIRST_OF_A_PID_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
SERVING = "Serving:"


class Container(Agent):
    """`supervise -- run` with `flags` on `node`, behind `runtime`.

    `pid` and `is_running` are those of the agent that runs there now, `exit_status` is the container's, which
    stays when its agent has ended. `log` is what all of them have said.
    """

    def __init__(
        self,
        node: Namespace,
        log_file: Path,
        *flags: str,
        runtime: Sequence[str] = FIRST_OF_A_PID_NAMESPACE,
    ) -> None:
        super().__init__(node, log_file, *flags)
        self._runtime = runtime

    def start(
        self,
        *,
        prefix: Sequence[str] = (),
        program: Sequence[str] = USERSPACE_PROXY,
        verbs: Sequence[str] = ("supervise", "--", "run"),
        until: str = SERVING,
    ) -> None:
        super().start(prefix=(*self._runtime, *prefix), program=program, verbs=verbs, until=until)

    @property
    def pid(self) -> int:
        return self._agents()[0]

    @property
    def is_running(self) -> bool:
        return bool(self._agents())

    def wait_for(self, times: int, text: str) -> None:
        """Wait until the log has `text` so many times."""
        wait_until(lambda: self.log.count(text) == times, START_SECONDS)

    def end(self) -> None:
        """Tell it to, as who replaces a pod does; it goes on until its workers have ended."""
        first_process = self._pids()[1 if self._runtime else 0]
        os.kill(first_process, signal.SIGTERM)

    def kill_everything(self) -> None:
        """`kill -9` of the container and of all workers, also those of other containers, at one moment."""
        assert self._process is not None
        pids = {*self._pids(), *self.worker_pids}
        self._process.kill()  # and with it the first process, and with that all others in there
        kill(*self.worker_pids)
        self._process.wait(STOP_SECONDS)
        wait_until(lambda: not pids & {*self._node.pids()}, STOP_SECONDS)

    def _agents(self) -> list[int]:
        """The agent, and behind it what it has just forked, which looks the same until it executes."""
        return [pid for pid in self._pids() if "userspace_proxy run" in command_line(pid)]

    def _pids(self) -> list[int]:
        """Every process that came of it, parents before children."""
        assert self._process is not None
        parents = {int(process.name): _parent_of(process) for process in Path("/proc").glob("[0-9]*")}
        pids = [self._process.pid]
        for pid in pids:  # grows while it is walked
            pids += [child for child, parent in parents.items() if parent == pid]
        return pids


def _parent_of(process: Path) -> int:
    """0 if there is none, or no such process any more."""
    try:
        stat = (process / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])  # proc_pid_stat(5)
