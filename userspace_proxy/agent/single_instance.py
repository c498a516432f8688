"""One agent for each network namespace.

An abstract Unix socket is the lock: the kernel scopes its name to the network namespace, as it does the rules
and the ports, and takes it back when the process ends, however it ends. Whoever connects learns the holder's
pid from SO_PEERCRED. Source: unix(7).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import time
from contextlib import suppress
from typing import Final

from userspace_proxy.errors import AgentRunningError

_NAME: Final = "\0userspace-proxy/agent"
_CREDENTIALS: Final = struct.Struct("3i")


class SingleInstance:
    """Held from construction to `close`. Raises `AgentRunningError` if another process holds it."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._sock.bind(_NAME)
        except OSError as error:
            self._sock.close()
            pid = running_agent() or 0
            raise AgentRunningError(
                pid, f"an agent serves this network namespace already: pid {pid or 'unknown'}"
            ) from error
        self._sock.listen()

    def answer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept and close whoever asks, so that the backlog never fills."""
        loop.add_reader(self._sock.fileno(), self._accept)

    def close(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        if loop is not None:
            loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            connection, _ = self._sock.accept()
            connection.close()


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
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid not in (0, os.geteuid()):
            raise AgentRunningError(
                pid,
                f"process {pid} of user {uid} holds the agents' name in this network namespace and is none: "
                "end it first",
            )
        return int(pid)


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
