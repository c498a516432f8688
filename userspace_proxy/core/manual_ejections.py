"""Which endpoints an operator has taken out, and whether that leaves anybody to go to.

Times are seconds of a clock that all processes of a node share (CLOCK_MONOTONIC), since workers and the next
agent are told them; None is until the operator says otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.proxy_plan import PlannedServicePort
from userspace_proxy.core.service_port import ServicePortName, TrafficPolicy


class ManualEjections:
    """Those of all Service ports."""

    def __init__(self) -> None:
        self._until: dict[ServicePortName, dict[Endpoint, float | None]] = {}

    def __iter__(self) -> Iterator[ServicePortName]:
        """The Service ports that have some, or had until a short while ago."""
        return iter(tuple(self._until))

    def take_out(self, name: ServicePortName, endpoint: Endpoint, until: float | None) -> None:
        """`endpoint` of the Service port gets nothing new until then."""
        self._until.setdefault(name, {})[endpoint] = until

    def put_back(self, name: ServicePortName, endpoint: Endpoint) -> bool:
        """Whether it had been taken out."""
        taken_out = self._until.get(name, {})
        was_out = endpoint in taken_out
        self.keep(name, taken_out.keys() - {endpoint})
        return was_out

    def of(self, name: ServicePortName, now: float) -> Mapping[Endpoint, float | None]:
        """The endpoints of a Service port that are out now, and until when."""
        return {
            endpoint: until
            for endpoint, until in self._until.get(name, {}).items()
            if until is None or until > now
        }

    def counts(self, now: float) -> dict[ServicePortName, int]:
        """How many endpoints are out now, of Service ports that have some."""
        counts = {name: len(self.of(name, now)) for name in self}
        return {name: count for name, count in counts.items() if count}

    def keep(self, name: ServicePortName, listed: Collection[Endpoint]) -> tuple[Endpoint, ...]:
        """Forget the endpoints that are not `listed` any more, and say which those are: an address that comes
        back later may be another pod's.
        """
        known = self._until.get(name, {})
        gone = tuple(sorted(known.keys() - listed))
        for endpoint in gone:
            del known[endpoint]
        if not known:
            self._until.pop(name, None)
        return gone


@dataclass(frozen=True, slots=True)
class EndpointOf:
    """An endpoint of one Service port."""

    name: ServicePortName
    endpoint: Endpoint


def endpoints_at(
    planned: Iterable[PlannedServicePort], address: str, port: int | None
) -> tuple[EndpointOf, ...]:
    """The endpoints that some class of traffic may use at an address, and if it is given a port."""
    found = {
        EndpointOf(each.name, endpoint): None
        for each in planned
        for _, selection in each.selections
        for endpoint in selection.endpoints
        if endpoint.address == address and port in (None, endpoint.port)
    }
    return tuple(found)


def classes_left_with_none(
    planned: PlannedServicePort, endpoint: Endpoint, taken_out: Collection[Endpoint]
) -> tuple[TrafficPolicy, ...]:
    """The classes of traffic that could use `endpoint`, and nobody else who is not `taken_out` already."""
    return tuple(
        policy
        for policy, selection in planned.selections
        if endpoint in selection.endpoints
        and all(other == endpoint or other in taken_out for other in selection.endpoints)
    )
