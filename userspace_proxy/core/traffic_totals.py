"""Sums over workers that come and go: what was counted once stays counted.

Theory of operation. Each reading of a worker is compared with the one before, and what it has more is added
to the sums; so a worker that dies takes nothing back but what was going on there. A limited number of Service
ports have sums of their own, for as long as they are planned; who comes when there is no room is added to one
sum for all `other` ones, and stays there. A limited number of endpoints have sums within theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from userspace_proxy.core.traffic_counters import EndpointCounters, EndpointKey, ServicePortCounters

Reading: TypeAlias = Mapping[str, ServicePortCounters]
"""What one worker says, by the key of the Service port."""
ListedOf: TypeAlias = Callable[[str], Collection[EndpointKey]]

OTHER_ENDPOINTS: Final[EndpointKey] = ("other", 0)

_ADDED: Final = tuple(
    name
    for name in ServicePortCounters.__struct_fields__
    if name not in ("active", "ejected", "connects", "endpoints", "departed_bytes_in", "departed_bytes_out")
)
_ADDED_OF_ENDPOINT: Final = tuple(name for name in EndpointCounters.__struct_fields__ if name != "active")
_NOTHING: Final = ServicePortCounters()
_NOTHING_THERE: Final = EndpointCounters()


@dataclass(slots=True)
class ServicePortTotals:
    """`counters` has all bytes as those of endpoints that departed, so that it needs no endpoints."""

    counters: ServicePortCounters = field(default_factory=ServicePortCounters)
    endpoints: dict[EndpointKey, EndpointCounters] = field(default_factory=dict)


@dataclass(slots=True)
class TrafficTotals:
    """`max_service_ports` have sums of their own, and `max_endpoints` endpoints of these."""

    max_service_ports: int
    max_endpoints: int
    other: ServicePortTotals = field(default_factory=ServicePortTotals)
    others: set[str] = field(default_factory=set)
    _own: dict[str, ServicePortTotals] = field(default_factory=dict)
    _endpoints: int = 0
    _before: Mapping[int, Reading] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, ServicePortTotals]]:
        """The Service ports that have sums of their own, by their keys."""
        return iter(self._own.items())

    def take(self, readings: Mapping[int, Reading], planned: Collection[str], listed_of: ListedOf) -> None:
        """Add what each worker says now; workers that are not in `readings` have ended.

        A worker is known by a number that no other ever has. Service ports that are neither in a reading nor
        `planned` are forgotten, and so are endpoints that are in no reading and not in `listed_of(key)`.
        """
        present = {key for reading in readings.values() for key in reading}
        self._forget(present.union(planned))
        for totals in (*self._own.values(), self.other):
            totals.counters.active = totals.counters.ejected = 0
            for endpoint in totals.endpoints.values():
                endpoint.active = 0
        for worker, reading in readings.items():
            before = self._before.get(worker, {})
            for key, counters in reading.items():
                self._add(key, counters, before.get(key, _NOTHING))
        self._before = readings
        self._forget_endpoints(readings, listed_of)

    def _forget(self, wanted: Collection[str]) -> None:
        for key in self._own.keys() - wanted:
            self._endpoints -= len(self._own.pop(key).endpoints.keys() - {OTHER_ENDPOINTS})
        self.others.intersection_update(wanted)

    def _forget_endpoints(self, readings: Mapping[int, Reading], listed_of: ListedOf) -> None:
        for key, totals in self._own.items():
            present = [reading[key].endpoints for reading in readings.values() if key in reading]
            absent = {each for each in totals.endpoints if not any(each in there for there in present)}
            absent.discard(OTHER_ENDPOINTS)
            for endpoint in absent.difference(listed_of(key)) if absent else ():
                del totals.endpoints[endpoint]
                self._endpoints -= 1

    def _totals_of(self, key: str) -> ServicePortTotals:
        known = self._own.get(key)
        if known is not None:
            return known
        if key in self.others or len(self._own) >= self.max_service_ports:
            self.others.add(key)
            return self.other
        new = self._own[key] = ServicePortTotals()
        return new

    def _add(self, key: str, now: ServicePortCounters, before: ServicePortCounters) -> None:
        totals = self._totals_of(key)
        counters = totals.counters
        counters.active += now.active
        counters.ejected += now.ejected
        if now != before:
            if now.opened < before.opened:  # it was removed, and came back
                before = _NOTHING
            for name in _ADDED:
                more = getattr(now, name) - getattr(before, name)
                setattr(counters, name, getattr(counters, name) + max(0, more))
            counters.departed_bytes_in += max(0, now.bytes_in - before.bytes_in)
            counters.departed_bytes_out += max(0, now.bytes_out - before.bytes_out)
            for number, (count, count_before) in enumerate(zip(now.connects, before.connects, strict=True)):
                counters.connects[number] += max(0, count - count_before)
        if totals is not self.other:
            for endpoint, carried in now.endpoints.items():
                carried_before = before.endpoints.get(endpoint, _NOTHING_THERE)
                self._add_endpoint(totals, endpoint, carried, carried_before)

    def _add_endpoint(
        self,
        totals: ServicePortTotals,
        endpoint: EndpointKey,
        now: EndpointCounters,
        before: EndpointCounters,
    ) -> None:
        sums = totals.endpoints.get(endpoint)
        if sums is None and self._endpoints < self.max_endpoints and OTHER_ENDPOINTS not in totals.endpoints:
            sums = totals.endpoints[endpoint] = EndpointCounters()
            self._endpoints += 1
        elif sums is None:  # nobody remembers who is among the others, so that later ones are, too
            sums = totals.endpoints.setdefault(OTHER_ENDPOINTS, EndpointCounters())
        sums.active += now.active
        if now != before:
            if now.opened < before.opened:  # it departed, and came back
                before = _NOTHING_THERE
            for name in _ADDED_OF_ENDPOINT:
                more = getattr(now, name) - getattr(before, name)
                setattr(sums, name, getattr(sums, name) + max(0, more))
