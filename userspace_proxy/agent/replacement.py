"""What becomes of an agent whose package is replaced in place while it runs.

It goes on: what it needs is imported, and its workers are. But it can start no further worker, since a
process that starts now is of the other build, and takes messages of this one for something else. It finds
that out when a spare has gone to work and it starts another; then it becomes the new build itself (execve(2):
whoever supervises it sees one process), as in an upgrade: workers serve on meanwhile and hand over. Nothing
happens before what was installed is whole.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Final, NoReturn

from userspace_proxy.dataplane.build_identity import build_identity

logger = logging.getLogger(__name__)

_SETTLE_SECONDS: Final = 2.0
"""Whoever installs writes one file after the other."""
_IMPORT_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 5.0
_MODULES: Final = (
    "userspace_proxy.cli",
    "userspace_proxy.agent.agent",
    "userspace_proxy.sources.api_server",
    "userspace_proxy.dataplane.worker_process",
)
_IMPORTED_FROM: Final = Path(__file__).parents[2]


class InstalledPackage:
    """What stands where this process was imported from, which was `build` when it was.

    `is_startable`: that is another build now, and whole.
    """

    def __init__(self, build: str) -> None:
        self.is_startable = False
        self._build = build

    def is_replaced(self) -> bool:
        """Whether a process that starts now may be of another build. Reads every source file."""
        return _was_executed() and self._read() != self._build

    async def until_startable(self, was_replaced: asyncio.Event) -> None:
        """Wait until the package was replaced by one that is whole, and can be imported."""
        while not self.is_startable:
            await was_replaced.wait()
            logger.warning(
                "The package was replaced while this agent runs, which can therefore start no more workers: "
                "it becomes the new build as soon as that is whole"
            )
            while not self.is_startable and was_replaced.is_set():
                build = await asyncio.to_thread(self._read)
                await asyncio.sleep(_SETTLE_SECONDS)
                if not build or build != await asyncio.to_thread(self._read):
                    continue
                if build == self._build:
                    logger.info("The package is again what it was, the agent goes on")
                    was_replaced.clear()
                elif await asyncio.to_thread(_can_be_imported):
                    self.is_startable = True
                else:
                    await asyncio.sleep(_RETRY_SECONDS)

    def _read(self) -> str:
        """The build identity of what is there; "" in the middle of a change."""
        try:
            return build_identity()
        except OSError:
            return ""


def _was_executed() -> bool:
    """Not forked from a process that had imported everything, as the demo's agents are, and their workers."""
    given = sys.argv[1:]
    return sys.orig_argv[len(sys.orig_argv) - len(given) :] == given


def _can_be_imported() -> bool:
    command = [sys.executable, "-c", f"import {', '.join(_MODULES)}"]
    try:
        completed = subprocess.run(
            command,
            cwd=_IMPORTED_FROM,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_IMPORT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.error("The new build cannot be tried: %s", error)
        return False
    if completed.returncode:
        logger.error("The new build cannot be imported: %s", completed.stderr.strip().rpartition("\n")[2])
    return not completed.returncode


def start_again() -> NoReturn:
    """Become what the command that started this process means now."""
    # What belongs to the end of a process, which execve(2) leaves out: the log is written, and files with a
    # kubeconfig's keys are removed.
    atexit._run_exitfuncs()
    # By its path: a mere name would be looked for in PATH, where another environment may be.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
