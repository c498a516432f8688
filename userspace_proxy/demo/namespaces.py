"""Network namespaces as objects: run something inside, and leave nothing behind.

For processes that have entered `isolation`; names live in its private `/run/netns`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from userspace_proxy.demo.closing import Closing
from userspace_proxy.demo.isolation import set_network_namespace

Result = TypeVar("Result")

COMMAND_SECONDS: Final = 30.0
_KILL_SECONDS: Final = 20.0


class Namespace(Closing):
    """A network namespace with loopback up. `address` and `address_v6` are its own ("" where it has none).

    `close` kills every process inside and deletes the namespace; as a context manager it closes itself.
    """

    def __init__(self, name: str, address: str = "", address_v6: str = "") -> None:
        self.name = name
        self.address = address
        self.address_v6 = address_v6
        self._processes: list[subprocess.Popen[str]] = []
        run("ip", "netns", "add", name)
        self.ip("link set lo up")

    def __repr__(self) -> str:
        return f"Namespace({self.name!r}, {self.address!r})"

    def run(
        self, *argv: str, timeout: float = COMMAND_SECONDS, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end, within `timeout` seconds; see `run`."""
        return run("ip", "netns", "exec", self.name, *argv, timeout=timeout, check=check, stdin=stdin)

    def popen(
        self,
        *argv: str,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command inside, without input and in a session of its own, so that Ctrl-C passes it by.

        The process has the pid that Popen names. It ends with the namespace at the latest. `env` is added
        to our own environment.
        """
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *argv],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=None if env is None else {**os.environ, **env},
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def call(self, function: Callable[[], Result]) -> Result:
        """Call `function` in a thread that is inside; sockets made there stay inside when used elsewhere."""

        def inside() -> Result:
            set_network_namespace(self.path)
            return function()

        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(inside).result()

    def connect(self, address: str, port: int, seconds: float) -> socket.socket:
        """A TCP connection from inside, made within `seconds`."""
        return self.call(lambda: socket.create_connection((address, port), seconds))

    def ip(self, *commands: str) -> None:
        """Carry out lines of ip(8), such as "addr add 10.0.0.1/24 dev eth0", in one process."""
        run("ip", "-netns", self.name, "-batch", "-", stdin="\n".join(commands) + "\n")

    def sysctl(self, key: str, value: str) -> None:
        """Set one of the `net.` settings, which each network namespace has for itself."""
        path = Path("/proc/sys", *key.split("."))
        self.call(lambda: path.write_text(value))

    @property
    def path(self) -> Path:
        """The file that names the namespace."""
        return Path("/run/netns", self.name)

    def pids(self) -> list[int]:
        """The processes that are inside now."""
        return [int(line) for line in run("ip", "netns", "pids", self.name).stdout.split()]

    def close(self) -> None:
        """Kill what runs inside, wait for it, delete the namespace. Closing twice is harmless."""
        if not self.path.exists():
            return
        deadline = time.monotonic() + _KILL_SECONDS
        for process in self._processes:
            process.kill()  # it may be on its way in still, and not be found inside
        self._reap(deadline)
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        run("ip", "netns", "delete", self.name)
        if pids:
            raise RuntimeError(f"processes {pids} in namespace {self.name} outlive SIGKILL")

    def _reap(self, deadline: float) -> None:
        for process in self._processes:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._processes.clear()


def run(
    *argv: str, timeout: float = COMMAND_SECONDS, check: bool = True, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, within `timeout` seconds, and return it with its output as text.

    With `check`, a failure raises CalledProcessError with what the command said as a note.
    """
    completed = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout)
    if check and completed.returncode != 0:
        error = subprocess.CalledProcessError(
            completed.returncode, list(argv), completed.stdout, completed.stderr
        )
        error.add_note((completed.stderr or completed.stdout).strip())
        raise error
    return completed
