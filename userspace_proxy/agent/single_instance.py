"""One agent for each network namespace, and how it is asked to make room for another.

An abstract Unix socket is the lock: the kernel scopes its name to the network namespace, as it does the rules
and the ports, and takes it back when the process ends, however it ends. Whoever connects learns the holder's
pid from SO_PEERCRED; whoever is root, or the holder's own user, may ask for something in a line of text. The
connection stays open until the holder lets go, so its end says when. Source: unix(7).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final

from userspace_proxy.dataplane.peer_credentials import peer_of
from userspace_proxy.errors import AgentRunningError, StartupError

_NAME: Final = "\0userspace-proxy/agent"
_MAX_ASKERS: Final = 16
_HAND_OVER_SECONDS: Final = 30.0


class Request(Enum):
    """What a running agent can be asked for."""

    HAND_OVER = b"hand over\n"
    DRAIN = b"drain\n"


class SingleInstance:
    """The lock; nobody's until `hold` or `take_over`. `close` lets go."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_request: Callable[[Request], None] = lambda request: None
        self._askers: dict[int, socket.socket] = {}

    def hold(self) -> None:
        """Be the one. Raises `AgentRunningError` if another process is."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(_NAME)
        except OSError as error:
            sock.close()
            pid = running_agent() or 0
            raise AgentRunningError(
                pid, f"an agent serves this network namespace already: pid {pid or 'unknown'}"
            ) from error
        sock.listen()
        self._sock = sock

    async def take_over(self, *, patience_seconds: float = _HAND_OVER_SECONDS) -> int | None:
        """Be the one, after the present one if there is one: it is asked to hand over.

        Returns its pid (0 if that is hidden), None if there was none. Raises `AgentRunningError` if it does
        not let go, or if a third one was faster.
        """
        pid = running_agent()
        if pid is not None:
            await asyncio.to_thread(ask_running_agent, Request.HAND_OVER, patience_seconds)
        self.hold()
        return pid

    def answer(self, loop: asyncio.AbstractEventLoop, on_request: Callable[[Request], None]) -> None:
        """Listen to whoever asks; `on_request` is called for each request."""
        assert self._sock is not None
        self._loop = loop
        self._on_request = on_request
        loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Let go, and let those who wait for it know. Safe to repeat."""
        if self._sock is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        self._sock = None
        for fd in tuple(self._askers):
            self._forget(fd)

    def _accept(self) -> None:
        assert self._sock is not None and self._loop is not None
        with suppress(OSError):
            connection, _ = self._sock.accept()
            if peer_of(connection)[1] not in (0, os.geteuid()):
                connection.close()
                return
            if len(self._askers) >= _MAX_ASKERS:
                self._forget(next(iter(self._askers)))
            connection.setblocking(False)
            self._askers[connection.fileno()] = connection
            self._loop.add_reader(connection.fileno(), self._read, connection.fileno())

    def _read(self, fd: int) -> None:
        try:
            data = self._askers[fd].recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            request = Request(data)
        except ValueError:
            self._forget(fd)  # it hung up, or says what we do not know
        else:
            self._on_request(request)

    def _forget(self, fd: int) -> None:
        if self._loop is not None:
            self._loop.remove_reader(fd)
        self._askers.pop(fd).close()


def running_agent() -> int | None:
    """The pid of the agent that serves this network namespace, None if there is none, 0 if it is hidden.

    Raises `AgentRunningError` if somebody else's process has taken the name: that is never to be signalled.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(_NAME)
        except ConnectionRefusedError:
            return None
        except BlockingIOError:
            return 0  # it lives, with its backlog full
        pid, uid = peer_of(sock)
        if uid not in (0, os.geteuid()):
            raise AgentRunningError(
                pid,
                f"process {pid} of user {uid} holds the agents' name in this network namespace and is none: "
                "end it first",
            )
        return pid


def drain_running_agent() -> int:
    """Have the agent of this network namespace drain, and wait until it has ended; its pid, 0 if hidden.

    Raises `StartupError` if there is none, `AgentRunningError` if it does not.
    """
    pid = ask_running_agent(Request.DRAIN, None)
    if pid is None:
        raise StartupError("no agent serves this network namespace, so there is nothing to drain")
    if running_agent() == pid:
        raise AgentRunningError(
            pid,
            f"the running agent (pid {pid or 'unknown'}) does not drain: it listens to root, and to the user "
            "that it runs as",
        )
    return pid


def ask_running_agent(request: Request, patience_seconds: float | None) -> int | None:
    """Ask the agent of this network namespace, and wait until it hangs up: it has let go of the lock. Blocks.

    (Or it does not know what it is asked for.) Returns its pid, None if there was none. Raises
    `AgentRunningError` if it takes longer than `patience_seconds`.
    """
    pid = running_agent()
    if pid is None:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience_seconds)
        try:
            sock.connect(_NAME)
            sock.sendall(request.value)
            while sock.recv(64):
                pass
        except ConnectionError:
            pass  # it let go just now
        except OSError as error:
            raise AgentRunningError(
                pid, f"the running agent (pid {pid or 'unknown'}) does not let go: {error}"
            ) from error
    return pid


def end_running_agent(grace_seconds: float = 10.0) -> int | None:
    """End the agent of this network namespace and wait until it is gone; its pid, None if there was none.

    It is asked with SIGTERM, and killed if it takes longer than `grace_seconds`. Raises `AgentRunningError`
    if it cannot be signalled.
    """
    pid = running_agent()
    if pid is None:
        return None
    try:
        if pid == 0:
            raise ProcessLookupError
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise AgentRunningError(
            pid, f"the running agent (pid {pid or 'unknown'}) cannot be ended: {error}"
        ) from error
    try:
        for kill, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, grace_seconds)):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, kill)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if running_agent() is None:
                    return pid
                time.sleep(0.05)
    except PermissionError as error:
        raise AgentRunningError(pid, f"the running agent (pid {pid}) cannot be ended: {error}") from error
    finally:
        os.close(pidfd)
    raise AgentRunningError(pid, f"the running agent (pid {pid}) does not end")
