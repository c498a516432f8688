"""One worker process as the agent sees it, its own child or another agent's: asked, let go, or ended."""

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
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from userspace_proxy.core.live_traffic import ConnectionQuery, LiveConnection, ServicePortState
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.channel import Channel
from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.dataplane.messages import (
    AgentMessage,
    Connections,
    Counters,
    ListConnections,
    Logged,
    RanShort,
    ReadCounters,
    ReadStates,
    States,
    WorkerMessage,
)
from userspace_proxy.dataplane.peer_credentials import peer_of
from userspace_proxy.dataplane.succession import End
from userspace_proxy.dataplane.worker_log import log_again
from userspace_proxy.errors import WorkerError

logger = logging.getLogger(__name__)

_ANSWER_SECONDS: Final = 10.0
"""A worker that says nothing for so long is stuck, and is replaced."""
_STATES_PER_MESSAGE: Final = 200
_END_SECONDS: Final = 2.0
_IMPORTED_FROM: Final = Path(__file__).parents[2]


_numbers = itertools.count(1)


def settle(future: asyncio.Future[None]) -> None:
    """Let who waits go on, unless that was done already."""
    if not future.done():
        future.set_result(None)


def _execute(command: list[str], descriptors: list[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
        start_new_session=True,
        cwd=_IMPORTED_FROM,  # where `python -m` looks first, as root: not wherever we were started
    )


class WorkerLink:
    """One worker process and the questions that it has not answered yet.

    `number` is one that no other link of this process ever has. `pid` is 0 for a process in a pid namespace
    that cannot be seen from here; `popen` is there for a child. `control_file` is removed once the process
    has ended. `ran_short` is called when the worker says so (`messages.RanShort`).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        pid: int,
        control_file: Path,
        popen: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.pid = pid
        self.number = next(_numbers)
        self.ran_short: Callable[[], None] = lambda: None
        self._loop = loop
        self._popen = popen
        self._ending: asyncio.Task[None] | None = None
        self._pidfd = _open_pidfd(pid)
        self._control_file = control_file
        self._sequence = itertools.count(1)
        self._questions: dict[int, asyncio.Future[tuple[WorkerMessage, list[int]]]] = {}
        self._died: asyncio.Future[None] = loop.create_future()
        self._woken: asyncio.Event | None = None
        self._listing = asyncio.Lock()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(WorkerMessage)
        self._channel = Channel(loop, sock, self._receive, self._closed)

    @classmethod
    async def start(cls, loop: asyncio.AbstractEventLoop, control_sockets: ControlSockets) -> WorkerLink:
        """Start a process, in a session of its own: Ctrl-C on a terminal reaches the agent alone."""
        with contextlib.ExitStack() as given, contextlib.ExitStack() as unless_started:
            try:
                control, control_file = control_sockets.bind()
                given.callback(control.close)
                unless_started.callback(control_file.unlink, missing_ok=True)
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            except OSError as error:
                raise WorkerError(f"a worker's sockets cannot be made: {error}") from error
            given.callback(theirs.close)
            unless_started.callback(ours.close)
            descriptors = [theirs.fileno(), control.fileno()]
            module = "userspace_proxy.dataplane.worker_process"
            command = [sys.executable, "-m", module, *map(str, descriptors)]
            starting = loop.run_in_executor(None, _execute, command, descriptors)

            def started(popen: subprocess.Popen[bytes]) -> WorkerLink:
                unless_started.pop_all()
                return cls(loop, ours, pid=popen.pid, control_file=control_file, popen=popen)

            try:
                await asyncio.wait([starting])
            except asyncio.CancelledError:
                await asyncio.wait([starting])  # a process that starts all the same must be ended by somebody
                if starting.exception() is None:
                    await started(starting.result()).end()
                raise
            try:
                return started(starting.result())
            except OSError as error:
                raise WorkerError(f"a worker process cannot be started: {error}") from error

    @classmethod
    def connected(
        cls, loop: asyncio.AbstractEventLoop, sock: socket.socket, control_file: Path
    ) -> WorkerLink:
        """To a worker that another agent started, through its control socket."""
        return cls(loop, sock, pid=peer_of(sock)[0], control_file=control_file)

    @property
    def is_alive(self) -> bool:
        return not self._died.done()

    async def request(
        self, message: Callable[..., AgentMessage], descriptors: Sequence[int] = ()
    ) -> WorkerMessage:
        """Send `message(sequence=…)` and wait for its answer. Raises `WorkerError` if none will come."""
        answer, unexpected = await self.fetch(message, descriptors)
        for descriptor in unexpected:
            os.close(descriptor)
        return answer

    async def fetch(
        self, message: Callable[..., AgentMessage], descriptors: Sequence[int] = ()
    ) -> tuple[WorkerMessage, list[int]]:
        """The same, with the descriptors that come with the answer, which are the caller's to close."""
        if not self.is_alive:
            raise WorkerError(f"pid={self.pid} ended")
        sequence = next(self._sequence)
        answer: asyncio.Future[tuple[WorkerMessage, list[int]]] = self._loop.create_future()
        self._questions[sequence] = answer
        self._channel.send(self._encoder.encode(message(sequence=sequence)), descriptors)
        try:
            await asyncio.wait([answer], timeout=_ANSWER_SECONDS)
            if not answer.done():
                # If it was this process that stood still, timers come before what has arrived meanwhile.
                await asyncio.sleep(0)
            if not answer.done():
                self.kill()
                raise WorkerError(f"pid={self.pid} did not answer within {_ANSWER_SECONDS:g} s")
            return answer.result()
        except asyncio.CancelledError:
            _close_unread(answer)
            raise
        finally:
            self._questions.pop(sequence, None)

    async def counters(self) -> dict[str, ServicePortCounters]:
        """What each Service port has carried there. Raises `WorkerError`. For workers of our own build."""
        counters: dict[str, ServicePortCounters] = {}
        start: int | None = 0
        while start is not None:
            answer = await self.request(partial(ReadCounters, start=start))
            if not isinstance(answer, Counters):
                raise WorkerError(f"pid={self.pid} answers with {type(answer).__name__}")
            counters |= answer.service_ports
            start = answer.following
        return counters

    async def connections(self, query: ConnectionQuery, most: int) -> tuple[list[LiveConnection], int]:
        """Those that `query` means, `most` at most, and how many more there are. Raises `WorkerError`. For
        workers of our own build.
        """
        connections: list[LiveConnection] = []
        left_out = 0
        async with self._listing:  # a worker has one at a time
            is_complete = goes_on = False
            while not is_complete:
                ask = partial(ListConnections, query=query, most=most - len(connections), goes_on=goes_on)
                answer = await self.request(ask)
                if not isinstance(answer, Connections):
                    raise WorkerError(f"pid={self.pid} answers with {type(answer).__name__}")
                connections += answer.connections
                left_out += answer.left_out
                is_complete, goes_on = answer.is_complete, True
        return connections, left_out

    async def states(self, keys: Sequence[str], client: str | None) -> dict[str, ServicePortState]:
        """How those of these Service ports are that the worker serves. Raises `WorkerError`. For workers of
        our own build.
        """
        states: dict[str, ServicePortState] = {}
        place = 0
        while place < len(keys):
            asked = tuple(keys[place : place + _STATES_PER_MESSAGE])
            answer = await self.request(partial(ReadStates, service_ports=asked, client=client))
            if not isinstance(answer, States):
                raise WorkerError(f"pid={self.pid} answers with {type(answer).__name__}")
            states |= answer.service_ports
            place += max(1, answer.looked_at)
        return states

    async def until(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for `event`, at most for `seconds`. Raises `WorkerError` if the process ends first."""
        self._woken = event
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        if self._died.done():
            raise WorkerError(f"pid={self.pid} ended")

    async def gone(self) -> None:
        """Wait until the process has ended, or has hung up at least."""
        await asyncio.shield(self._died)

    def kill(self) -> None:
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def leave(self) -> None:
        """Hang up; the process goes on by itself, for as long as it was told."""
        self._channel.close()
        self._forget()
        if self._popen is not None and self._popen.poll() is None:
            self._popen.returncode = 0  # else Popen complains that nobody waits for it, which is meant so

    async def end(self) -> None:
        """Let the process end, make sure that it did, and reap it, also if cancelled. Safe to repeat."""
        if self._ending is None:
            self._ending = self._loop.create_task(self._end())
        try:
            await asyncio.shield(self._ending)
        except asyncio.CancelledError:
            self.kill()  # nobody waits for its last words any more
            await asyncio.wait([self._ending])
            raise

    async def _end(self) -> None:
        if self.is_alive:
            self._channel.send(self._encoder.encode(End(0)))
            self._channel.close()
        else:
            self.kill()  # it hung up on us, and may be serving still
        try:
            if self._pidfd is not None:
                await self._gone(self._pidfd)
        finally:
            self._forget()
            self._control_file.unlink(missing_ok=True)

    async def _gone(self, pidfd: int) -> None:
        gone: asyncio.Future[None] = self._loop.create_future()
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
            if self._popen is not None:
                self._popen.poll()
            else:
                _reap_child(pidfd)

    def _forget(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _receive(self, payload: bytes, descriptors: list[int]) -> None:
        try:
            message: WorkerMessage = self._decoder.decode(payload)
            if isinstance(message, Logged):
                log_again(message, logger)
            elif isinstance(message, RanShort):
                self.ran_short()
            question = self._questions.get(message.sequence)
            if question is not None and not question.done():
                question.set_result((message, descriptors))
                return
        except msgspec.DecodeError:
            logger.error("Worker speaks nonsense, it is ended: pid=%d", self.pid)
            self.kill()
        for descriptor in descriptors:
            os.close(descriptor)

    def _closed(self) -> None:
        settle(self._died)
        if self._woken is not None:
            self._woken.set()
        for question in self._questions.values():
            if not question.done():
                question.set_exception(WorkerError(f"pid={self.pid} ended"))


def _close_unread(answer: asyncio.Future[tuple[WorkerMessage, list[int]]]) -> None:
    """Close what came with an answer at the very moment in which nobody waited for it any more."""
    if answer.done() and not answer.cancelled() and answer.exception() is None:
        for descriptor in answer.result()[1]:
            os.close(descriptor)


def _reap_child(pidfd: int) -> None:
    """Reap a worker that has ended, if this process started it when it was another program, before execve."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def _open_pidfd(pid: int) -> int | None:
    """None if the process cannot be seen from here, or is gone."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
