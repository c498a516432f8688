"""Which UDP flows to keep: when one has been idle for too long, and which one leaves when there are too many.

UDP says neither when a conversation starts nor when it is over, so a flow lives by the clock: it starts with
a datagram from a client and ends when nothing has passed for its idle time, which is short until the endpoint
has answered and another one afterwards.

Theory of operation. `UdpFlows` are those of one Service port, `WorkerFlows` all of a worker, since
descriptors, which run out first, belong to the process. Nobody is turned away: where a limit is reached a
flow leaves for the new one. It is one of the client that has as many as one may have, of the Service port
that has, or, if the worker is full, of the Service port that has most. So a flood, spoofed or not, displaces
its own Service's flows and leaves those of the others alone.

Flows that have the same idle time stand in one line, in the order in which they were last used: the next to
expire is at the head of a line, and so is the one to evict. There are as many lines as there are different
idle times, a handful. Keeping that order exact costs about 30 ns a datagram.

Time (seconds of any monotonic clock) is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Any, Final, Generic, TypeAlias, TypeVar

from userspace_proxy.core.admission import UNLIMITED, Room, client_of

_NO_LINE: Final[OrderedDict[Any, None]] = OrderedDict()
_LOOKED_AT: Final = 8
"""So many of a client's flows are looked at to find one that it uses no more."""


class Flow:
    """What `UdpFlows` knows of a flow, and alone changes. A subclass adds how its datagrams are carried.

    `last_used` is when a datagram last passed in either direction; `answered` whether the endpoint has ever
    sent one.
    """

    __slots__ = ("_counted_as", "_idle_seconds", "_line", "answered", "last_used")

    def __init__(self) -> None:
        self.answered = False
        self.last_used = 0.0
        self._counted_as = ""
        self._idle_seconds = 0.0
        self._line = _NO_LINE


F = TypeVar("F", bound=Flow)
_Lines: TypeAlias = dict[float, OrderedDict[F, None]]


class WorkerFlows(Generic[F]):
    """The flows of all Service ports of a worker. `room` is what they share with TCP connections."""

    __slots__ = ("_in_use", "_most", "_room", "length", "max_flows")

    def __init__(self, max_flows: int, room: Room) -> None:
        self.max_flows = max_flows
        self.length = 0
        self._room = room
        self._in_use: dict[UdpFlows[F], None] = {}
        self._most: UdpFlows[F] | None = None

    def __len__(self) -> int:
        return self.length

    @property
    def is_full(self) -> bool:
        return self.length >= self.max_flows or self._room.taken >= self._room.capacity

    def evictable(self) -> F | None:
        """The flow to give up so that anything is free; None if there is no flow."""
        if self._most is None or not self._most.length:
            self._look_for_most()
        return None if self._most is None else self._most.evictable()

    def expired(self, now: float, limit: int) -> list[F]:
        """Flows that have been idle for their time, at most `limit` of them; the caller removes them."""
        self._look_for_most()
        found: list[F] = []
        for flows in self._in_use:
            if len(found) == limit:
                break
            flows.find_expired(found, now, limit)
        return found

    def leaving_for(self, flows: UdpFlows[F]) -> F | None:
        """The flow that has to leave for a new one of `flows`, if the worker is full."""
        most = self._most
        return flows.evictable() if most is None or most.length <= flows.length else most.evictable()

    def added(self, flows: UdpFlows[F]) -> None:
        """`flows` has one more."""
        self.length += 1
        self._room.taken += 1
        if flows.length == 1:
            self._in_use[flows] = None
        # Exact for who grows. Others may shrink unseen until expired() looks at all of them, soon.
        most = self._most
        if most is None or flows.length > most.length:
            self._most = flows

    def removed(self, flows: UdpFlows[F]) -> None:
        """`flows` has one less."""
        self.length -= 1
        self._room.taken -= 1
        if not flows.length:
            del self._in_use[flows]

    def _look_for_most(self) -> None:
        self._most = max(self._in_use, key=len, default=None)


class UdpFlows(Generic[F]):
    """The flows of one Service port of `worker`. It decides; its owner opens and closes.

    `length` is how many there are, `max_flows` how many there may be, `max_per_client` how many of a client.
    With `pod_cidrs`, `client_of` says who that is.
    """

    __slots__ = (
        "_answered",
        "_by_client",
        "_unanswered",
        "_waiting",
        "_worker",
        "length",
        "max_flows",
        "max_per_client",
        "pod_cidrs",
    )

    def __init__(self, worker: WorkerFlows[F]) -> None:
        self.max_flows = UNLIMITED
        self.max_per_client = UNLIMITED
        self.pod_cidrs: tuple[str, ...] = ()
        self._worker = worker
        self.length = 0
        self._waiting = 0
        self._unanswered: _Lines[F] = {}
        self._answered: _Lines[F] = {}
        self._by_client: dict[str, dict[F, None]] = {}

    def __len__(self) -> int:
        return self.length

    def leaving_for(self, address: str) -> F | None:
        """The flow that has to leave, be it another Service port's, so that the client that has `address` may
        have one more."""
        client = client_of(address, self.pod_cidrs)
        of_client = self._by_client.get(client)
        if of_client is not None and len(of_client) >= self.max_per_client:
            return self._evictable_of(client)
        if self.length >= self.max_flows:
            return self.evictable()
        return self._worker.leaving_for(self) if self._worker.is_full else None

    def add(self, flow: F, address: str, idle_seconds: float, now: float) -> None:
        """`flow` from `address` starts, unanswered, and may be idle for `idle_seconds`.

        The caller makes room first (`leaving_for`).
        """
        client = client_of(address, self.pod_cidrs)
        flow.answered = False
        flow.last_used = now
        flow._counted_as = client
        self._waiting += 1
        self._enter(self._unanswered, flow, idle_seconds)
        self.length += 1
        of_client = self._by_client.get(client)
        if of_client is None:
            self._by_client[client] = {flow: None}
        else:
            of_client[flow] = None
        self._worker.added(self)

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
        self.length -= 1
        of_client = self._by_client[flow._counted_as]
        del of_client[flow]
        if not of_client:
            del self._by_client[flow._counted_as]
        self._worker.removed(self)

    def evictable(self) -> F | None:
        """The flow to give up for a new one; None if there is no flow.

        It is the least recently used of those that were answered, which have most likely ended, since a query
        under way must not be lost to the next. But once more than a quarter of all are unanswered, the oldest
        of these goes: a flood of spoofed clients displaces itself, and leaves three quarters alone.
        """
        gives_up_waiting = self._waiting > self.length // 4 or not self._answered
        lines = self._unanswered if gives_up_waiting else self._answered
        return min((next(iter(line)) for line in lines.values()), key=_last_used, default=None)

    def find_expired(self, found: list[F], now: float, limit: int) -> None:
        """Add those that have been idle for their time to `found`, until that has `limit`."""
        for lines in (self._unanswered, self._answered):
            for idle_seconds, line in lines.items():
                for flow in line:
                    if len(found) == limit or flow.last_used + idle_seconds > now:
                        break
                    found.append(flow)

    def _evictable_of(self, client: str) -> F:
        """One that the client has not used for long: those that are looked at and stay have their next turn
        when the others had theirs.
        """
        flows = self._by_client[client]
        looked_at = list(islice(flows, _LOOKED_AT))
        victim = min(looked_at, key=_last_used)
        for flow in looked_at:
            if flow is not victim:
                del flows[flow]
                flows[flow] = None
        return victim

    def _enter(self, lines: _Lines[F], flow: F, idle_seconds: float) -> None:
        line = lines.get(idle_seconds)
        if line is None:
            line = lines[idle_seconds] = OrderedDict()
        line[flow] = None
        flow._line = line
        flow._idle_seconds = idle_seconds

    def _leave(self, lines: _Lines[F], flow: F) -> None:
        del flow._line[flow]
        if not flow._line:
            del lines[flow._idle_seconds]


def _last_used(flow: Flow) -> float:
    return flow.last_used
