"""The processes of pods: started through the zygote, and told of when they end.

One `Processes` serves all nodes of a cluster. If its zygote is killed every process of every pod dies with
it, is reported so, and the next launch starts another zygote.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final, Self

import msgspec

from userspace_proxy.demo.kubelet.pod_http import Identity
from userspace_proxy.demo.kubelet.zygote import MOST_MESSAGE_BYTES
from userspace_proxy.demo.process_title import TITLE_ROOM

_ZYGOTE: Final = (sys.executable, "-I", "-m", "userspace_proxy.demo.kubelet.zygote", TITLE_ROOM)
_MOST_CAPTURED_BYTES: Final = 10240
_END_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class Serve(msgspec.Struct, frozen=True):
    """Be the built-in server on `ports`, in the network namespace that `namespace_path` names."""

    namespace_path: str
    identity: dict[str, str]
    ports: list[int]

    @classmethod
    def pod(cls, namespace_path: Path, identity: Identity, ports: Sequence[int]) -> Self:
        return cls(str(namespace_path), asdict(identity), list(ports))


class Execute(msgspec.Struct, frozen=True):
    """Become `argv`, with exactly `env`, in the folder `cwd` ("": ours)."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str = ""


class Process:
    """A process of a pod. `exited` has its exit status once it has ended, -n for signal n."""

    def __init__(self, launch: int, pid: int, owner: Processes) -> None:
        self.pid = pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._launch = launch
        self._owner = owner

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if not self.exited.done():
            self._owner.send({"signal": number, "to": self._launch})


class _Report(msgspec.Struct, frozen=True):
    launched: int | None = None
    pid: int = 0
    ended: int | None = None
    status: int = 0
    refused: int | None = None
    why: str = ""


class Processes:
    """Starts processes; all of them end with `close`, at the latest. Use it as an async context manager."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._zygote: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._starting = asyncio.Lock()
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._launching: dict[int, asyncio.Future[Process]] = {}
        self._running: dict[int, Process] = {}

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Kill everything."""
        self._lost()
        if self._zygote is not None:
            await asyncio.to_thread(_end_zygote, self._zygote)

    async def launch(self, what: Serve | Execute, output: int) -> Process:
        """Start a process whose stdout and stderr is the descriptor `output`, which stays the caller's.

        Raises OSError where that is impossible. What `execute` cannot be becomes a process that says so in
        its output and ends at once.
        """
        await self._start()
        launch = next(self._numbers)
        kind = "serve" if isinstance(what, Serve) else "execute"
        message = msgspec.json.encode({"launch": launch, kind: what})
        if len(message) > MOST_MESSAGE_BYTES:
            raise OSError(
                f"the command and its environment have {len(message)} bytes, over {MOST_MESSAGE_BYTES}"
            )
        launched: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        self._launching[launch] = launched
        self._enqueue(message, os.dup(output))
        return await launched

    async def run(self, what: Execute, seconds: float) -> tuple[int, str]:
        """Run a command to its end: its exit status, and the beginning of what it said.

        It is killed after `seconds`, and TimeoutError raised. Raises OSError where it cannot be started.
        """
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        loop = asyncio.get_running_loop()
        said = bytearray()

        def read() -> None:
            with suppress(BlockingIOError):
                data = os.read(reader, 65536)
                said.extend(data[: _MOST_CAPTURED_BYTES - len(said)])
                if not data:
                    loop.remove_reader(reader)

        try:
            try:
                process = await self.launch(what, writer)
            finally:
                os.close(writer)
            loop.add_reader(reader, read)
            try:
                async with asyncio.timeout(seconds):
                    status = await asyncio.shield(process.exited)
            finally:
                process.send_signal(signal.SIGKILL)
            read()
            return status, said.decode(errors="replace")
        finally:
            loop.remove_reader(reader)
            os.close(reader)

    def send(self, message: object) -> None:
        """Send the zygote a command that needs no answer."""
        if self._socket is not None:
            self._enqueue(msgspec.json.encode(message), None)

    async def _start(self) -> None:
        async with self._starting:
            if self._socket is not None:
                return
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            with theirs:
                self._zygote = await asyncio.to_thread(_start_zygote, theirs, self._zygote)
            self._socket = ours
            asyncio.get_running_loop().add_reader(ours, self._read)

    def _enqueue(self, message: bytes, descriptor: int | None) -> None:
        self._waiting.append((message, descriptor))
        if len(self._waiting) == 1:
            self._write()

    def _write(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        while self._waiting:
            message, descriptor = self._waiting[0]
            try:
                socket.send_fds(self._socket, [message], [] if descriptor is None else [descriptor])
            except BlockingIOError:
                loop.add_writer(self._socket, self._write)
                return
            except ConnectionError:
                return  # the reader sees the end, and tells everybody
            self._waiting.popleft()
            if descriptor is not None:
                os.close(descriptor)
        loop.remove_writer(self._socket)

    def _read(self) -> None:
        assert self._socket is not None
        try:
            while message := self._socket.recv(4096):
                self._observe(msgspec.json.decode(message, type=_Report))
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        _log.warning(
            "The zygote has ended, and every process of a pod with it; the next launch starts another"
        )
        self._lost()

    def _observe(self, report: _Report) -> None:
        if report.launched is not None:
            process = Process(report.launched, report.pid, self)
            self._running[report.launched] = process
            launched = self._launching.pop(report.launched)
            if launched.cancelled():
                process.send_signal(signal.SIGKILL)
            else:
                launched.set_result(process)
        elif report.refused is not None:
            launched = self._launching.pop(report.refused)
            if not launched.done():
                launched.set_exception(OSError(report.why))
        elif report.ended is not None:
            _settle(self._running.pop(report.ended), report.status)

    def _lost(self) -> None:
        """The zygote has gone, or kills everything now because nobody is left who commands it."""
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        self._socket.close()
        self._socket = None
        for _message, descriptor in self._waiting:
            if descriptor is not None:
                os.close(descriptor)
        self._waiting.clear()
        for launched in self._launching.values():
            if not launched.done():
                launched.set_exception(OSError("the process that starts others has ended"))
        self._launching.clear()
        for process in self._running.values():
            _settle(process, -signal.SIGKILL)
        self._running.clear()


def _settle(process: Process, status: int) -> None:
    if not process.exited.done():  # it is, if somebody waited for it and was cancelled
        process.exited.set_result(status)


def _start_zygote(commands: socket.socket, ended: subprocess.Popen[bytes] | None) -> subprocess.Popen[bytes]:
    if ended is not None:
        ended.wait()
    return subprocess.Popen(_ZYGOTE, stdin=commands.fileno(), start_new_session=True)


def _end_zygote(zygote: subprocess.Popen[bytes]) -> None:
    try:
        zygote.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        zygote.kill()
        zygote.wait()
