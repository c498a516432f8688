"""Which UDP flows to keep: when one has been idle for too long, and which one leaves when there are too many.

UDP says neither when a conversation starts nor when it is over, so a flow lives by the clock: it starts with
a datagram from a client and ends when nothing has passed for its idle time, which is short until the endpoint
has answered and another one afterwards. One `UdpFlows` holds all flows of a worker, since descriptors, which
run out first, belong to the process.

Flows that have the same idle time stand in one line, in the order in which they were last used: the next to
expire is at the head of a line, and so is the one to evict. There are as many lines as there are different
idle times, a handful. Keeping that order exact costs about 30 ns a datagram.

Time (seconds of any monotonic clock) is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, Generic, TypeAlias, TypeVar

_NO_LINE: Final[OrderedDict[Any, None]] = OrderedDict()


class Flow:
    """What `UdpFlows` knows of a flow, and alone changes. A subclass adds how its datagrams are carried.

    `last_used` is when a datagram last passed in either direction; `answered` whether the endpoint has ever
    sent one.
    """

    __slots__ = ("_idle_seconds", "_line", "answered", "last_used")

    def __init__(self) -> None:
        self.answered = False
        self.last_used = 0.0
        self._idle_seconds = 0.0
        self._line = _NO_LINE


F = TypeVar("F", bound=Flow)
_Lines: TypeAlias = dict[float, OrderedDict[F, None]]


class UdpFlows(Generic[F]):
    """The flows of one worker, by when they were last used. It decides; its owner opens and closes."""

    __slots__ = ("_answered", "_length", "_max_waiting", "_unanswered", "_waiting", "max_flows")

    def __init__(self, max_flows: int) -> None:
        self.max_flows = max_flows
        self._max_waiting = max_flows // 4
        self._length = 0
        self._waiting = 0
        self._unanswered: _Lines[F] = {}
        self._answered: _Lines[F] = {}

    def __len__(self) -> int:
        return self._length

    @property
    def is_full(self) -> bool:
        return self._length >= self.max_flows

    def add(self, flow: F, idle_seconds: float, now: float) -> None:
        """`flow` starts, unanswered, and may be idle for `idle_seconds`. The caller makes room first."""
        flow.answered = False
        flow.last_used = now
        self._waiting += 1
        self._enter(self._unanswered, flow, idle_seconds)

    def use(self, flow: F, now: float) -> None:
        """A datagram passed. Needed once for each value of `now` only."""
        flow.last_used = now
        flow._line.move_to_end(flow)

    def answer(self, flow: F, idle_seconds: float, now: float) -> None:
        """The endpoint sent its first datagram: from now on `flow` may be idle for `idle_seconds`."""
        self._waiting -= 1
        self._leave(self._unanswered, flow)
        flow.answered = True
        flow.last_used = now
        self._enter(self._answered, flow, idle_seconds)

    def remove(self, flow: F) -> None:
        """`flow` has ended."""
        if flow.answered:
            self._leave(self._answered, flow)
        else:
            self._waiting -= 1
            self._leave(self._unanswered, flow)

    def evictable(self) -> F | None:
        """The flow to give up for a new one; None if there is no flow.

        It is the least recently used of those that were answered, which have most likely ended, since a query
        under way must not be lost to the next. But once more than a quarter of all may be are unanswered, the
        oldest of these goes: a flood of spoofed clients displaces itself, and leaves three quarters alone.
        """
        gives_up_waiting = self._waiting > self._max_waiting or not self._answered
        lines = self._unanswered if gives_up_waiting else self._answered
        return min((next(iter(line)) for line in lines.values()), key=_last_used, default=None)

    def expired(self, now: float, limit: int) -> list[F]:
        """Flows that have been idle for their time, at most `limit` of them; the caller removes them."""
        found: list[F] = []
        for lines in (self._unanswered, self._answered):
            for idle_seconds, line in lines.items():
                for flow in line:
                    if len(found) == limit or flow.last_used + idle_seconds > now:
                        break
                    found.append(flow)
        return found

    def _enter(self, lines: _Lines[F], flow: F, idle_seconds: float) -> None:
        line = lines.get(idle_seconds)
        if line is None:
            line = lines[idle_seconds] = OrderedDict()
        line[flow] = None
        flow._line = line
        flow._idle_seconds = idle_seconds
        self._length += 1

    def _leave(self, lines: _Lines[F], flow: F) -> None:
        del flow._line[flow]
        if not flow._line:
            del lines[flow._idle_seconds]
        self._length -= 1


def _last_used(flow: Flow) -> float:
    return flow.last_used
