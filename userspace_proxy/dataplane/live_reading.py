"""Asks the workers of a pool what goes on there now. Who cannot be asked is named, who dies is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from userspace_proxy.core.live_traffic import ConnectionQuery, LiveConnection, ServicePortState
from userspace_proxy.dataplane.worker_link import WorkerLink
from userspace_proxy.errors import WorkerError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Askable:
    """Workers that understand our messages, and those of an earlier agent that drain, and may not."""

    links: Sequence[WorkerLink]
    others: Sequence[WorkerLink] = ()

    @property
    def not_asked(self) -> tuple[int, ...]:
        """The pids of the others (0: not to be seen from here)."""
        return tuple(link.pid for link in self.others)


@dataclass(frozen=True, slots=True)
class WorkerConnection:
    """A connection, and the pid of the worker that carries it."""

    worker: int
    connection: LiveConnection


@dataclass(frozen=True, slots=True)
class ConnectionList:
    """Connections, the oldest first, and how many of those that were meant are not among them.

    `not_asked` are the pids of workers of an earlier agent; what they carry is not here.
    """

    connections: list[WorkerConnection] = field(default_factory=list)
    left_out: int = 0
    not_asked: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StateList:
    """How Service ports are on each worker that serves them, by their keys and the workers' pids."""

    service_ports: dict[str, dict[int, ServicePortState]] = field(default_factory=dict)
    not_asked: tuple[int, ...] = ()


async def list_connections(askable: Askable, query: ConnectionQuery, most: int) -> ConnectionList:
    """Those that `query` means, `most` at most."""
    answers = await _ask(askable, lambda link: link.connections(query, most))
    found = [WorkerConnection(pid, each) for pid, (connections, _) in answers for each in connections]
    found.sort(key=lambda each: -each.connection.age_seconds)
    left_out = sum(more for _, (_, more) in answers) + max(0, len(found) - most)
    return ConnectionList(found[:most], left_out, askable.not_asked)


async def read_states(askable: Askable, keys: Sequence[str], client: str | None) -> StateList:
    """How the Service ports with these keys are, and where `client`, or (None) somebody, goes next."""
    states: dict[str, dict[int, ServicePortState]] = {}
    for pid, answer in await _ask(askable, lambda link: link.states(keys, client)):
        for key, state in answer.items():
            states.setdefault(key, {})[pid] = state
    return StateList(states, askable.not_asked)


async def _ask(askable: Askable, ask: Callable[[WorkerLink], Awaitable[T]]) -> list[tuple[int, T]]:
    async def answer_of(link: WorkerLink) -> tuple[int, T] | None:
        try:
            return link.pid, await ask(link)
        except WorkerError:
            return None

    answers = await asyncio.gather(*map(answer_of, askable.links))
    return [answer for answer in answers if answer is not None]
