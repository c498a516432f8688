"""What commands ask a running demo cluster, and how: a line of JSON over its control socket, a line back."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

import msgspec

from userspace_proxy.dataplane.peer_credentials import peer_of
from userspace_proxy.demo.closing import Closing
from userspace_proxy.demo.state_directory import CONTROL_SOCKET
from userspace_proxy.errors import StartupError, UsageError, UserspaceProxyError

_ANSWER_SECONDS: Final = 30.0

T = TypeVar("T")


class AskStatus(msgspec.Struct, frozen=True, tag=True):
    """How is the cluster? Answered with `ClusterStatus`."""


class AskPlace(msgspec.Struct, frozen=True, tag=True):
    """Where does this node or pod live? Answered with `Place`."""

    name: str


class EndCluster(msgspec.Struct, frozen=True, tag=True):
    """End; with `keep` leave what a later cluster needs to be the same one. Answered with `Ending`."""

    keep: bool


Question = AskStatus | AskPlace | EndCluster


class NodeStatus(msgspec.Struct, frozen=True, rename="camel"):
    """A node and its agent: its pid inside, whether it serves, how often it was started again."""

    name: str
    zone: str
    addresses: tuple[str, ...]
    pod_cidrs: tuple[str, ...] = msgspec.field(name="podCIDRs")
    agent_pid: int | None
    agent_is_serving: bool
    agent_restarts: int
    agent_log: str


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    """A pod, as its status says. `state` is its phase, or that it ends."""

    namespace: str
    name: str
    node: str
    addresses: tuple[str, ...]
    state: str
    is_ready: bool


class ClusterStatus(msgspec.Struct, frozen=True, rename="camel"):
    """All that `demo status` tells. Sizes are what /proc calls Pss: shared memory is counted once."""

    kubeconfig: str
    server: str
    nodes: tuple[NodeStatus, ...]
    pods: tuple[PodStatus, ...]
    processes: int
    memory_bytes: int
    up_seconds: float
    logs: str
    problems: tuple[str, ...]
    web: str | None = None
    """The address of the page, which is a secret: whoever knows it may do what the page can."""


class Place(msgspec.Struct, frozen=True):
    """Where a node or pod lives: the cluster's descriptors of its namespaces, by nsenter(1)'s names.

    `name` is the whole one, of a pod with its namespace. Where there is no such place, `descriptors` is empty
    and `alternatives` has the names that there are.
    """

    name: str
    descriptors: dict[str, int]
    alternatives: tuple[str, ...] = ()


class Ending(msgspec.Struct, frozen=True):
    """It ends now; the process' own end says when it is done."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What comes back: what was asked for, or why there is none."""

    answer: msgspec.Raw = msgspec.Raw(b"null")
    refused: str = ""


def decoded(line: bytes) -> Question:
    """The question in a line. Raises `UsageError`."""
    try:
        return msgspec.json.decode(line, type=Question)
    except msgspec.DecodeError as error:
        raise UsageError(f"this cluster does not understand the question: {error}") from error


async def serve(path: Path, answer: Callable[[Question], Awaitable[msgspec.Struct]]) -> asyncio.Server:
    """Answer who connects to `path`; whoever may open the socket may ask."""

    async def answer_line(line: bytes) -> Answer:
        try:
            return Answer(answer=msgspec.Raw(msgspec.json.encode(await answer(decoded(line)))))
        except UserspaceProxyError as error:
            return Answer(refused=str(error))

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(msgspec.json.encode(await answer_line(line)) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # who asked has left, or never ends a line
        finally:
            writer.close()

    return await asyncio.start_unix_server(converse, path)


@dataclass(slots=True)
class RunningCluster(Closing):
    """A cluster that runs: `pid` is its process, `init` the one with whom all of it ends."""

    pid: int
    init: int
    connection: socket.socket

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """The cluster in this folder; None if there is none. Raises `StartupError` if it cannot be asked."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(str(path / CONTROL_SOCKET))
            pid, _ = peer_of(connection)
            return cls(pid, _parent_of(pid), connection)
        except (FileNotFoundError, ConnectionRefusedError, ProcessLookupError):
            connection.close()
            return None
        except OSError as error:
            connection.close()
            raise StartupError(f"the cluster in {path} cannot be asked: {error}") from error

    def ask(self, question: Question, answer: type[T]) -> T:
        """Its answer. Raises `StartupError` if there is none."""
        try:
            self.connection.sendall(msgspec.json.encode(question) + b"\n")
            with self.connection.makefile("rb") as lines:
                line = lines.readline()
        except OSError as error:
            raise StartupError(f"the demo cluster does not answer: {error}") from error
        if not line:
            raise StartupError("the demo cluster has just ended")
        envelope = msgspec.json.decode(line, type=Answer)
        if envelope.refused:
            raise StartupError(envelope.refused)
        return msgspec.json.decode(envelope.answer, type=answer)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether all of it has ended, after so many seconds at most."""
        try:
            process = os.pidfd_open(self.init)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([process], [], [], seconds)[0])
        finally:
            os.close(process)

    def kill(self) -> None:
        """End it at once; the kernel takes everything down that it has made."""
        with suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)

    def close(self) -> None:
        """Say good-bye."""
        self.connection.close()


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
