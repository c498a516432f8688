"""Which Events are to be written, and when: one for many, and few at a time.

Theory of operation. What happens again before six minutes have passed since the last time is the same Event,
whose count grows; to be the same, object, reason and note must be (the API lets nobody change a note). A
count is written once a minute at most. An Event that is not written yet waits in its own series, so what
waits is never more than the series that there are: `MOST` of them, `MOST_OF_ONE` of one object. What finds no
room is dropped, and counted; the log has it all the same.

What is the same on every node has the same name on every node: who comes first writes it, the others find it
there. Source: the Event reference, events.k8s.io/v1, and the limits that an API server checks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import blake2b
from typing import Final, Protocol, TypeAlias, assert_never

from userspace_proxy.core.cluster_state import ClusterState, ObjectId
from userspace_proxy.core.event_reasons import Reason
from userspace_proxy.core.object_names import is_dns_subdomain
from userspace_proxy.core.objects import Kind
from userspace_proxy.core.service_port import ServiceName

ENDS_SECONDS: Final = 360.0
SPACING_SECONDS: Final = 60.0
MOST: Final = 256
MOST_OF_ONE: Final = 10
_FORGET_SECONDS: Final = 1.0

_MAX_NAME: Final = 253
_MAX_NOTE_BYTES: Final = 1024
_MAX_INSTANCE: Final = 128
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class RecordEvent(Protocol):
    """Who is told that something happened, on the event loop; returns at once, and never fails."""

    def __call__(self, reason: Reason, note: str, about: ObjectId | None = None) -> None:
        """`note` is a sentence for people; `about` None is this node."""


def unrecorded(reason: Reason, note: str, about: ObjectId | None = None) -> None:
    """A `RecordEvent` that writes none."""


def service_id(name: ServiceName) -> ObjectId:
    """For `RecordEvent`."""
    return ObjectId(Kind.SERVICE, name.namespace, name.name)


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object that an Event is about. `namespace` is "" for a Node, `uid` "" if it is not known."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @property
    def is_node(self) -> bool:
        return self.kind == "Node"


def regarding_of(about: ObjectId | None, state: ClusterState) -> Regarding:
    """What `RecordEvent` is told `about`. A slice's Events are its Service's, where people look.

    Of a Node the uid is its name, as kubelet and kube-proxy have it: so `kubectl describe node` finds them.
    """
    if about is None or about.kind is Kind.NODE:
        return Regarding("v1", "Node", "", state.node_name, state.node_name)
    service = state.service_of(about)
    if service is not None:
        about = service_id(service)
    version = "v1" if about.kind is Kind.SERVICE else "discovery.k8s.io/v1"
    return Regarding(version, about.kind.value, about.namespace, about.name, state.uid_of(about))


@dataclass(frozen=True, slots=True)
class EventWrite:
    """An Event to create if it `is_new`, else to be given `count` and `last`.

    `first` and `last` are seconds since the epoch.
    """

    namespace: str
    name: str
    reason: Reason
    regarding: Regarding
    note: str
    instance: str
    first: float
    last: float
    count: int
    is_new: bool


class Outcome(Enum):
    """What became of a write."""

    WRITTEN = "written"
    IS_THERE = "is there"
    """Somebody, perhaps we, created it before."""
    IS_GONE = "is gone"
    """It was there; API servers keep Events for an hour."""
    REFUSED = "refused"
    FAILED = "failed"
    """To be tried again."""


def outcome_of(is_new: bool, status: int | None) -> Outcome:
    """What the HTTP status of an answer means, None for no answer, of a creation or an update."""
    match status:
        case 200 | 201:
            return Outcome.WRITTEN
        case 409:
            return Outcome.IS_THERE if is_new else Outcome.FAILED
        case 404 if not is_new:
            return Outcome.IS_GONE
        case None | 401 | 429:
            return Outcome.FAILED
        case _:
            return Outcome.FAILED if status >= 500 else Outcome.REFUSED


_Key: TypeAlias = tuple[Regarding, str, str]
"""Object, reason and note."""


@dataclass(slots=True)
class _Series:
    """`happened_at` and `due_at` are the clock's. `written` of `count` have been written."""

    write: EventWrite
    happened_at: float
    due_at: float
    written: int = 0
    failures: int = 0
    is_others: bool = False

    @property
    def is_waiting(self) -> bool:
        return self.write.count > self.written


class EventSeries:
    """`instance` is the name of this node. Times called `now` are seconds of the caller's clock, those called
    `wall` seconds since the epoch.
    """

    def __init__(self, instance: str) -> None:
        self.written = 0
        self.dropped = 0
        self._instance = instance[:_MAX_INSTANCE]
        self._series: dict[_Key, _Series] = {}
        self._forget_at = 0.0

    def record(self, reason: Reason, regarding: Regarding, note: str, now: float, wall: float) -> None:
        """Something happened."""
        note = shortened(note)
        key = regarding, reason.name, note
        known = self._series.get(key)
        if known is not None and not _has_ended(known, now):
            known.happened_at = now
            if not known.is_others:
                known.write = replace(known.write, count=known.write.count + 1, last=wall)
            return
        self._forget_ended(now)
        if not self._has_room(regarding):
            self.dropped += 1
            return
        told_apart = (regarding.uid,) if reason.is_everywhere else (self._instance, f"{wall:.6f}")
        write = EventWrite(
            regarding.namespace or "default",
            _event_name(regarding.name, regarding.kind, reason.name, note, *told_apart),
            reason,
            regarding,
            note,
            self._instance,
            first=wall,
            last=wall,
            count=1,
            is_new=True,
        )
        self._series[key] = _Series(write, now, due_at=now)

    def _forget_ended(self, now: float) -> None:
        """Not at each of many that come together."""
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_SECONDS
            self._series = {key: one for key, one in self._series.items() if not _has_ended(one, now)}

    def _has_room(self, regarding: Regarding) -> bool:
        """For a new series. What concerns the node itself is not kept out by what concerns others."""
        if len(self._series) >= MOST and not regarding.is_node:
            return False
        return sum(key[0] == regarding for key in self._series) < MOST_OF_ONE

    def due_at(self) -> float | None:
        """When there is something to write; None: nothing."""
        return min((one.due_at for one in self._series.values() if one.is_waiting), default=None)

    def due(self, now: float) -> EventWrite | None:
        """What is to be written now: the node's first, then what is due for longest; what has failed after
        all others. Nothing changes before `settle`.
        """
        waiting = [one for one in self._series.values() if one.is_waiting and one.due_at <= now]
        return min(waiting, key=_urgency).write if waiting else None

    def settle(self, write: EventWrite, outcome: Outcome, now: float) -> None:
        """This became of what was `due`."""
        series = self._series.get((write.regarding, write.reason.name, write.note))
        if series is None:
            return
        if outcome is Outcome.FAILED:
            series.failures += 1
            return
        series.due_at = now + SPACING_SECONDS
        series.written, series.failures = write.count, 0
        match outcome:
            case Outcome.WRITTEN:
                self.written += 1
                series.write = replace(series.write, is_new=False)
            case Outcome.IS_THERE:
                # What is named by its node and moment is ours: we missed the answer.
                series.is_others = write.reason.is_everywhere
                series.write = replace(series.write, is_new=False)
                if series.is_others:
                    series.written = series.write.count
            case Outcome.IS_GONE:
                series.due_at, series.written = now, 0
                last = series.write.last
                series.write = replace(series.write, first=last, count=1, is_new=True)
            case Outcome.REFUSED:
                self.dropped += 1
            case _:
                assert_never(outcome)


def shortened(note: str) -> str:
    """As the API wants it: of 1024 bytes at most, and here without control characters."""
    line = _UNPRINTABLE.sub(" ", note).encode(errors="replace")
    if len(line) <= _MAX_NOTE_BYTES:
        return line.decode()
    return line[: _MAX_NOTE_BYTES - len("…".encode())].decode(errors="ignore") + "…"


def _urgency(series: _Series) -> tuple[int, bool, float]:
    return series.failures, not series.write.regarding.is_node, series.due_at


def _has_ended(series: _Series, now: float) -> bool:
    return not series.is_waiting and now - series.happened_at >= ENDS_SECONDS


def _event_name(name: str, *told_apart: str) -> str:
    """The object's name as far as there is room, and what tells its Events apart."""
    digest = blake2b("\0".join(told_apart).encode(errors="replace"), digest_size=8).hexdigest()
    room = _MAX_NAME - len(digest) - 1
    begin = name[:room].rstrip("-.") if is_dns_subdomain(name) else "node"
    return f"{begin}.{digest}"
