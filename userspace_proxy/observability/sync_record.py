"""What happened to changes and rules, for health checks and metrics: numbers and times, nothing else.

Times are Unix time in seconds. Bounds of histograms are kube-proxy's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from userspace_proxy.core.cluster_state import Findings
from userspace_proxy.core.histogram import Histogram
from userspace_proxy.core.objects import EndpointSlice, Event, Kind, Upserted
from userspace_proxy.core.service_port import IPFamily

SYNC_BOUNDS_SECONDS: Final = tuple(0.001 * 2**power for power in range(15))
PROGRAMMING_BOUNDS_SECONDS: Final = (
    0.25,
    0.5,
    *range(1, 60),
    *range(60, 120, 5),
    *range(120, 330, 30),
)
TRIGGER_TIME: Final = "endpoints.kubernetes.io/last-change-trigger-time"
_MAX_TRIGGERS: Final = 10_000
"""How many changes may wait to be in effect and be timed. Of more, some are not timed."""


@dataclass(slots=True)
class SyncRecord:
    """The rules of one family: `durations` of syncs, when they were `last_synced` and `last_queued` (None:
    never), how often they failed, why if the last one did, and how many rules there are by table.
    """

    durations: Histogram = field(default_factory=lambda: Histogram(SYNC_BOUNDS_SECONDS))
    last_synced: float | None = None
    last_queued: float | None = None
    failures: int = 0
    last_error: str | None = None
    rules: Mapping[str, int] = field(default_factory=dict)

    def synced(self, seconds: float, now: float) -> None:
        self.durations.observe(seconds)
        self.last_synced, self.last_error = now, None

    def failed(self, error: str) -> None:
        self.failures += 1
        self.last_error = error


@dataclass(slots=True)
class ChangeRecord:
    """The changes of objects, in each of `families`. `clock` tells Unix time.

    `begin` takes what was seen until then as being acted on, `in_effect` says that it is done. `last_seen` is
    when something came last.
    """

    families: Collection[IPFamily]
    clock: Callable[[], float]
    changes: dict[tuple[Kind, IPFamily], int] = field(default_factory=dict)
    pending: dict[tuple[Kind, IPFamily], int] = field(default_factory=dict)
    last_seen: float | None = None
    programming: dict[IPFamily, Histogram] = field(default_factory=dict)
    _seen: list[tuple[IPFamily, float]] = field(default_factory=list)
    _begun: list[tuple[IPFamily, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for family in self.families:
            self.programming[family] = Histogram(PROGRAMMING_BOUNDS_SECONDS)
            for kind in (Kind.SERVICE, Kind.ENDPOINT_SLICE):
                self.changes[kind, family] = self.pending[kind, family] = 0

    def seen(self, event: Event, findings: Findings) -> None:
        """`event` came, and of `findings` each is an object that it changed."""
        self.last_seen = self.clock()
        families = self.families
        match event:
            case Upserted(object=EndpointSlice() as changed) if findings:
                families = [family for family in self.families if family.value == changed.address_type]
                self._note_trigger(changed, families)
            case _:
                pass
        for key in findings:
            if key.kind is not Kind.NODE:
                for family in families:
                    self.changes[key.kind, family] += 1
                    self.pending[key.kind, family] += 1

    def begin(self) -> None:
        self._begun += self._seen
        self._seen.clear()
        del self._begun[_MAX_TRIGGERS:]
        for key in self.pending:
            self.pending[key] = 0

    def in_effect(self) -> None:
        now = self.clock()
        for family, triggered in self._begun:
            self.programming[family].observe(max(0.0, now - triggered))
        self._begun.clear()

    def _note_trigger(self, changed: EndpointSlice, families: Collection[IPFamily]) -> None:
        text = (changed.metadata.annotations or {}).get(TRIGGER_TIME)
        if text is None or len(self._seen) >= _MAX_TRIGGERS:
            return
        try:
            triggered = datetime.fromisoformat(text)
        except ValueError:
            return
        if triggered.tzinfo is not None:
            self._seen += [(family, triggered.timestamp()) for family in families]
