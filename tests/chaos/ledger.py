"""What clients met, and which of it is excused because nobody promised better.

A failure is excused by what was going on in the time between the last good news that its client had and the
failure: what the client outlived is no excuse. A wrong answer has no excuse at all.

Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

READ_LATER_SECONDS = 2.0
"""What was answered before a fault may be read so much later by a client on a busy machine."""


class Phase(Enum):
    """How far a client had come."""

    CONNECTING = "connecting"
    ESTABLISHED = "established"


ALL_PHASES: Final = frozenset(Phase)


class WrongAnswerError(Exception):
    """A client was told what its endpoint never said."""


@dataclass(slots=True, eq=False)
class Conversation:
    """One client's. `heard_at` is when it last had an answer, or began; `endpoint` is who answers.

    `waits` are the seconds until each answer.
    """

    kind: str
    service_port: str
    began_at: float
    heard_at: float
    phase: Phase = Phase.CONNECTING
    endpoint: str = ""
    waits: list[float] = field(default_factory=list)
    ended_at: float = math.nan
    failure: BaseException | None = None

    def hear(self, now: float) -> None:
        """Something came, so the client is served."""
        self.heard_at = now
        self.phase = Phase.ESTABLISHED

    def __str__(self) -> str:
        who = f" with {self.endpoint}" if self.endpoint else ""
        return (
            f"{self.kind} to {self.service_port}{who}, {self.phase.value}, begun at {self.began_at:.2f}, "
            f"last answer at {self.heard_at:.2f}, failed at {self.ended_at:.2f}: {self.failure!r}"
        )


@dataclass(frozen=True, slots=True)
class Excuse:
    """What is not promised while a fault lasts. Empty collections stand for everybody.

    `late_seconds`: for so long after it, who was there before its end may still meet it.
    """

    reason: str
    phases: Collection[Phase]
    endpoints: Collection[str] = ()
    service_ports: Collection[str] = ()
    late_seconds: float = 0.0

    def covers(self, conversation: Conversation) -> bool:
        return (
            conversation.phase in self.phases
            and (not self.endpoints or conversation.endpoint in self.endpoints)
            and (not self.service_ports or conversation.service_port in self.service_ports)
        )


@dataclass(slots=True)
class Window:
    """An excuse, and when it counts."""

    excuse: Excuse
    since: float
    until: float = math.inf

    def excuses(self, conversation: Conversation) -> bool:
        is_established = conversation.phase is Phase.ESTABLISHED
        until = self.until + (READ_LATER_SECONDS if is_established else 0.0)
        if conversation.began_at <= self.until:
            until += self.excuse.late_seconds
        overlaps = conversation.heard_at <= until and conversation.ended_at >= self.since
        return (
            overlaps
            and not isinstance(conversation.failure, WrongAnswerError)
            and self.excuse.covers(conversation)
        )


@dataclass(slots=True)
class KindCounts:
    """What clients of one kind met."""

    conversations: int = 0
    excused: int = 0
    failed: int = 0
    waits: list[float] = field(default_factory=list)


class Ledger:
    """All conversations of a run, and the events beside which failures are to be read."""

    def __init__(self) -> None:
        self.by_kind: dict[str, KindCounts] = {}
        self.excused: Counter[str] = Counter()
        self.failures: list[Conversation] = []
        self.excused_conversations: list[tuple[str, Conversation]] = []
        self.events: list[tuple[float, str]] = []
        self._windows: list[Window] = []
        self._under_way: set[Conversation] = set()

    def excuse(self, excuse: Excuse, since: float) -> Window:
        """Let it count from `since` on, until its window is closed by setting `until`."""
        window = Window(excuse, since)
        self._windows.append(window)
        return window

    def begin(self, conversation: Conversation) -> None:
        self._under_way.add(conversation)

    def are_connecting_since(self, moment: float) -> bool:
        """Whether anybody who came before that has not had an answer yet."""
        return any(
            conversation.phase is Phase.CONNECTING and conversation.began_at <= moment
            for conversation in list(self._under_way)
        )

    def end(self, conversation: Conversation) -> None:
        """Judge a conversation that has ended."""
        self._under_way.discard(conversation)
        counts = self.by_kind.setdefault(conversation.kind, KindCounts())
        counts.conversations += 1
        counts.waits += conversation.waits
        if conversation.failure is None:
            return
        for window in self._windows:
            if window.excuses(conversation):
                counts.excused += 1
                self.excused_conversations.append((window.excuse.reason, conversation))
                self.excused[f"{window.excuse.reason}: {type(conversation.failure).__name__}"] += 1
                return
        counts.failed += 1
        self.failures.append(conversation)
