"""Where objects come from: a real API server, or a directory of manifests.

A source turns what it reads into `core.objects` events and hands them to its `Sink`; it never decides what
they mean. An API server is told Events, too. Neighbours: none (`agent` composes); it imports `core` and
`errors` only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from userspace_proxy.core.cluster_state import ObjectId
from userspace_proxy.core.event_series import EventWrite
from userspace_proxy.core.objects import Event, Kind
from userspace_proxy.core.problem import Problem


class Sink(Protocol):
    """Who receives what a source reads. Both methods are called on the event loop and return at once."""

    def observe(self, events: Sequence[Event]) -> None:
        """Events in the order in which they happened."""

    def report(self, scope: str, problems: Sequence[Problem]) -> None:
        """All that is wrong now with `scope` (a file, or one object); none takes earlier ones back."""


WriteEvent: TypeAlias = Callable[[EventWrite], Awaitable[None]]
"""Raises `contact.RequestFailedError`."""


@dataclass(frozen=True, slots=True)
class Followed:
    """How a source does: where that is, since when it is followed without a break (Unix time; None: it is not
    now), and what of it cannot be, with the reason.
    """

    place: str
    since: float | None
    failing: Mapping[Kind, str]


class Source(Protocol):
    """Something that feeds a sink until it is cancelled."""

    def state(self) -> Followed:
        """How it does now."""

    @property
    def write_event(self) -> WriteEvent | None:
        """Where people look for Events of the objects; None if nowhere."""

    def origin_of(self, key: ObjectId) -> str:
        """Where an object that was observed came from: a file's path, or "API server"."""

    async def check(self) -> None:
        """Raise `SourceError` if it cannot be used as given, before anything is given up for it."""

    async def renew(self) -> None:
        """Read again how to get at the objects. Raises `SourceError`; then all stays as it was."""

    async def run(self, sink: Sink) -> None:
        """Feed `sink` for ever. Raises `SourceError` if it cannot be used as given; never for bad data."""
