"""One worker process as the agent sees it: started, asked, and made sure to be gone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from userspace_proxy.dataplane.channel import Channel
from userspace_proxy.dataplane.messages import Acknowledged, AgentMessage, Counters, WorkerMessage
from userspace_proxy.errors import WorkerError

logger = logging.getLogger(__name__)

_ANSWER_SECONDS: Final = 10.0
"""A worker that says nothing for so long is stuck, and is replaced."""
_END_SECONDS: Final = 2.0
_IMPORTED_FROM: Final = Path(__file__).parents[2]


def settle(future: asyncio.Future[None]) -> None:
    """Let who waits go on, unless that was done already."""
    if not future.done():
        future.set_result(None)


def _execute(command: list[str], descriptor: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=[descriptor],
        start_new_session=True,
        cwd=_IMPORTED_FROM,  # where `python -m` looks first, as root: not wherever we were started
    )


class WorkerChild:
    """One worker process and the questions that it has not answered yet."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, popen: subprocess.Popen[bytes], sock: socket.socket
    ) -> None:
        self.pid = popen.pid
        self._loop = loop
        self._popen = popen
        self._sequence = itertools.count(1)
        self._questions: dict[int, asyncio.Future[WorkerMessage]] = {}
        self._died: asyncio.Future[None] = loop.create_future()
        self._woken: asyncio.Event | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(WorkerMessage)
        self._channel = Channel(loop, sock, self._receive, self._closed)

    @classmethod
    async def start(cls, loop: asyncio.AbstractEventLoop) -> WorkerChild:
        """Start a process, in a session of its own: Ctrl-C on a terminal reaches the agent alone."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        command = [sys.executable, "-m", "userspace_proxy.dataplane.worker_process", str(theirs.fileno())]
        starting = loop.run_in_executor(None, _execute, command, theirs.fileno())
        try:
            await asyncio.wait([starting])
        except asyncio.CancelledError:
            await asyncio.wait([starting])  # a process that starts all the same must be ended by somebody
            if starting.exception() is None:
                await cls(loop, starting.result(), ours).end()
            raise
        finally:
            theirs.close()
            if starting.exception() is not None:
                ours.close()
        try:
            popen = starting.result()
        except OSError as error:
            raise WorkerError(f"a worker process cannot be started: {error}") from error
        return cls(loop, popen, ours)

    @property
    def is_alive(self) -> bool:
        return not self._died.done()

    async def request(
        self, message: Callable[..., AgentMessage], descriptors: Sequence[int] = ()
    ) -> Acknowledged | Counters:
        """Send `message(sequence=…)` and wait for its answer. Raises `WorkerError` if none will come."""
        if not self.is_alive:
            raise WorkerError(f"pid={self.pid} ended")
        sequence = next(self._sequence)
        answer: asyncio.Future[WorkerMessage] = self._loop.create_future()
        self._questions[sequence] = answer
        self._channel.send(self._encoder.encode(message(sequence=sequence)), descriptors)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await answer
        except TimeoutError as error:
            self.kill()
            raise WorkerError(f"pid={self.pid} did not answer within {_ANSWER_SECONDS:g} s") from error
        finally:
            self._questions.pop(sequence, None)

    async def until(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for `event`, at most for `seconds`. Raises `WorkerError` if the process ends first."""
        self._woken = event
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        if self._died.done():
            raise WorkerError(f"pid={self.pid} ended")

    def kill(self) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGKILL)

    async def end(self) -> None:
        """Let the process end, make sure that it did, and reap it. Safe to repeat."""
        self._channel.close()
        if self._popen.poll() is not None:
            return
        gone: asyncio.Future[None] = self._loop.create_future()
        pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(pidfd, settle, gone)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await asyncio.shield(gone)
            if not gone.done():
                self.kill()
                await gone
        finally:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
            self._popen.poll()

    def _receive(self, payload: bytes, descriptors: list[int]) -> None:
        for descriptor in descriptors:  # a worker has none to send
            os.close(descriptor)
        try:
            message: WorkerMessage = self._decoder.decode(payload)
        except msgspec.DecodeError:
            logger.error("Worker speaks nonsense, it is ended: pid=%d", self.pid)
            self.kill()
            return
        question = self._questions.get(message.sequence)
        if question is not None and not question.done():
            question.set_result(message)

    def _closed(self) -> None:
        settle(self._died)
        if self._woken is not None:
            self._woken.set()
        for question in self._questions.values():
            if not question.done():
                question.set_exception(WorkerError(f"pid={self.pid} ended"))
