"""What goes on in the workers right now, for whoever asks the agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from userspace_proxy.core.live_traffic import ConnectionQuery, LiveServicePort, summed_up
from userspace_proxy.core.manual_ejections import ManualEjections
from userspace_proxy.core.service_port import ServicePortName
from userspace_proxy.core.traffic_totals import Reading
from userspace_proxy.dataplane.live_reading import ConnectionList, list_connections, read_states
from userspace_proxy.dataplane.worker_pool import WorkerPool


@dataclass(frozen=True, slots=True)
class LiveState:
    """Service ports by their names; one that no worker serves is not among them.

    `not_asked` are the pids of workers of an earlier agent, which drain and may not understand: what goes on
    there is not in these numbers.
    """

    service_ports: Mapping[ServicePortName, LiveServicePort]
    not_asked: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """So many endpoints are `ejected`, and so many `taken_out` by an operator; `service_ports` are the first
    that have any.
    """

    ejected: int
    taken_out: int
    service_ports: Mapping[ServicePortName, LiveServicePort]


class LiveTraffic:
    """Asks the workers of a pool. A worker that dies meanwhile has nothing to say; nobody waits for it."""

    def __init__(self, workers: WorkerPool, ejections: ManualEjections) -> None:
        self._workers = workers
        self._ejections = ejections

    async def state_of(self, names: Sequence[ServicePortName], client: str | None = None) -> LiveState:
        """How these Service ports are now, and where the next connection of `client` goes (an IP address in
        its canonical spelling; None: of somebody). Nobody's turn is taken for it.

        Costs a worker a millisecond for 600 endpoints, in portions between which it carries traffic.
        """
        read = await read_states(self._workers.askable(), [name.key for name in names], client)
        now = monotonic()
        return LiveState(
            {
                name: summed_up(states.values(), self._ejections.of(name, now), now)
                for name in names
                if (states := read.service_ports.get(name.key)) is not None
            },
            read.not_asked,
        )

    def taken_out(self, name: ServicePortName) -> int:
        """How many endpoints of a Service port an operator has taken out."""
        return len(self._ejections.of(name, monotonic()))

    async def left_out(self, readings: Mapping[int, Reading], most_service_ports: int) -> LeftOut:
        """Which endpoints get nothing new now, by what the workers have counted."""
        ejected: dict[str, int] = {}
        for reading in readings.values():
            for key, counters in reading.items():
                if counters.ejected:
                    ejected[key] = max(ejected.get(key, 0), counters.ejected)
        taken_out = self._ejections.counts(monotonic())
        keys = sorted({*ejected, *(name.key for name in taken_out)})[:most_service_ports]
        state = await self.state_of([ServicePortName.from_key(key) for key in keys])
        return LeftOut(sum(ejected.values()), sum(taken_out.values()), state.service_ports)

    async def connections(self, query: ConnectionQuery, most: int) -> ConnectionList:
        """The connections that `query` means, the oldest first, `most` at most."""
        return await list_connections(self._workers.askable(), query, most)
