"""What one worker must serve, whichever process does it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NoReturn, TypeAlias

from userspace_proxy.dataplane.inherited import Flow, Inherited, close_flows
from userspace_proxy.dataplane.messages import (
    MAX_DESCRIPTORS_PER_MESSAGE,
    Configure,
    Inherit,
    Keep,
    ListenerKey,
    ServicePortConfig,
    SetVerbosity,
)
from userspace_proxy.dataplane.succession import AffineClient
from userspace_proxy.dataplane.worker_link import WorkerLink, settle

ListenerOf: TypeAlias = Callable[[ListenerKey], socket.socket]

_ASK_SECONDS: Final = 2.0
"""How often a worker that has nothing to do is asked whether it is there."""
_SERVICE_PORTS_PER_MESSAGE: Final = 100
_ENDPOINTS_PER_MESSAGE: Final = 1000
"""Of one Service port a message carries all. What a message says is done in one go, and connections wait
meanwhile: a few milliseconds for so many.
"""


@dataclass(slots=True)
class Given:
    """What a process has: listeners by the key of their Service port, and sockets that it keeps by name; and
    the verbosity that it was told beyond its `Start`.
    """

    listeners: dict[str, frozenset[ListenerKey]] = field(default_factory=dict)
    kept: Mapping[str, socket.socket] = field(default_factory=dict)
    verbosity: int | None = None


class WorkerSeat:
    """Remembers what is wanted, and tells it to the process that sits here, `process`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int, listener_of: ListenerOf) -> None:
        self.number = number
        self.process: WorkerLink | None = None
        self._loop = loop
        self._listener_of = listener_of
        self._wanted: dict[str, ServicePortConfig] = {}
        self._kept: Mapping[str, socket.socket] | None = None
        self._verbosity: int | None = None
        self._inherited = Inherited()
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._wanted)

    def want(self, config: ServicePortConfig) -> None:
        self._wanted[config.key] = config
        self._changed.add(config.key)
        self._wake.set()

    def forget(self, key: str) -> None:
        self._wanted.pop(key, None)
        self._changed.add(key)
        self._wake.set()

    def keep(self, sockets: Mapping[str, socket.socket]) -> None:
        """The process is to hold exactly these for the next agent."""
        self._kept = sockets
        self._wake.set()

    def set_verbosity(self, verbosity: int) -> None:
        """The process is to log so much; one that was started before that, and sits down later, too."""
        self._verbosity = verbosity
        self._wake.set()

    def inherit(self, configs: Iterable[ServicePortConfig]) -> None:
        """The process that will sit here has been told this by an agent before us."""
        self._wanted = {config.key: config for config in configs}

    def inherit_traffic(self, flows: Iterable[Flow], clients: Iterable[AffineClient]) -> None:
        """The process is to go on with these, which belong to listeners that it will be told of."""
        self._inherited.add(flows, clients)

    def settled(self) -> asyncio.Future[None]:
        """Done when all that is wanted now is in effect."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(waiter)
        self._wake.set()
        return waiter

    async def serve(self, process: WorkerLink, given: Given) -> NoReturn:
        """Tell `process`, which has `given`, the rest, then every change; ask it for a sign of life.

        Ends with `WorkerError` when the process does.
        """
        self.process = process
        self._changed |= (self._wanted.keys() - given.listeners.keys()) | (
            given.listeners.keys() - self._wanted.keys()
        )
        self._wake.set()
        while True:
            await process.until(self._wake, _ASK_SECONDS)
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            changed, self._changed = self._changed, set()
            try:
                if self._verbosity is not None and self._verbosity != given.verbosity:
                    await process.request(partial(SetVerbosity, verbosity=self._verbosity))
                    given.verbosity = self._verbosity
                if self._kept is not None:
                    await self._tell_what_to_keep(process, self._kept, given)
                for service_ports, removed in self._batches(changed, given):
                    await self._tell(process, service_ports, removed, given)
                if not changed:
                    await self._tell(process, (), (), given)
            except BaseException:
                self._changed |= changed
                self._waiting += waiting  # the successor settles for them
                raise
            for waiter in waiting:
                settle(waiter)

    def _batches(
        self, changed: set[str], given: Given
    ) -> Iterator[tuple[list[ServicePortConfig], list[str]]]:
        """Cut a change to what one message may carry."""
        removed = [key for key in changed if key not in self._wanted]
        batch: list[ServicePortConfig] = []
        descriptors = endpoints = 0
        for config in [self._wanted[key] for key in changed if key in self._wanted]:
            new = len(_new_listeners(config, given))
            size = sum(len(listener.endpoints) for listener in config.listeners)
            if batch and (
                len(batch) == _SERVICE_PORTS_PER_MESSAGE
                or descriptors + new > MAX_DESCRIPTORS_PER_MESSAGE
                or endpoints + size > _ENDPOINTS_PER_MESSAGE
            ):
                yield batch, []
                batch, descriptors, endpoints = [], 0, 0
            batch.append(config)
            descriptors += new
            endpoints += size
        if batch:
            yield batch, []
        for portion in in_portions(removed):
            yield [], portion

    async def _tell(
        self,
        process: WorkerLink,
        service_ports: Sequence[ServicePortConfig],
        removed: Sequence[str],
        given: Given,
    ) -> None:
        for config in service_ports:
            await self._tell_what_to_inherit(process, config)
        new = tuple(key for config in service_ports for key in _new_listeners(config, given))
        descriptors = [self._listener_of(key).fileno() for key in new]
        configure = partial(
            Configure, service_ports=tuple(service_ports), removed=tuple(removed), new_listeners=new
        )
        await process.request(configure, descriptors)
        for key in removed:
            given.listeners.pop(key, None)
        for config in service_ports:
            given.listeners[config.key] = frozenset(listener_keys(config))

    async def _tell_what_to_inherit(self, process: WorkerLink, config: ServicePortConfig) -> None:
        clients = self._inherited.take_clients(config.key)
        if clients:
            await process.request(partial(Inherit, flows=(), clients=tuple(clients)))
        for listener in config.listeners:
            flows = self._inherited.take_flows(config.key, listener.proxy_port)
            try:
                for first in range(0, len(flows), MAX_DESCRIPTORS_PER_MESSAGE):
                    batch = flows[first : first + MAX_DESCRIPTORS_PER_MESSAGE]
                    inherit = partial(Inherit, flows=tuple(held for held, _ in batch), clients=())
                    await process.request(inherit, [sock.fileno() for _, sock in batch])
            finally:
                close_flows(flows)
        self._inherited.end_flows(config.key)

    async def _tell_what_to_keep(
        self, process: WorkerLink, kept: Mapping[str, socket.socket], given: Given
    ) -> None:
        if kept.keys() == given.kept.keys() and all(kept[name] is given.kept[name] for name in kept):
            return
        new = [name for name in kept if given.kept.get(name) is not kept[name]]
        has = [name for name in kept if name not in new]
        for first in range(0, len(new), MAX_DESCRIPTORS_PER_MESSAGE) or (0,):
            batch = new[first : first + MAX_DESCRIPTORS_PER_MESSAGE]
            has += batch
            keep = partial(Keep, names=tuple(has), new=tuple(batch))
            await process.request(keep, [kept[name].fileno() for name in batch])
        given.kept = kept


def _new_listeners(config: ServicePortConfig, given: Given) -> list[ListenerKey]:
    known = given.listeners.get(config.key, frozenset())
    return [key for key in listener_keys(config) if key not in known]


def listener_keys(config: ServicePortConfig) -> tuple[ListenerKey, ...]:
    """The keys of a Service port's listeners."""
    return tuple(ListenerKey(config.protocol, listener.proxy_port) for listener in config.listeners)


def in_portions(service_ports: Sequence[str]) -> Iterator[list[str]]:
    """So many at a time that whoever acts on them is soon done."""
    for first in range(0, len(service_ports), _SERVICE_PORTS_PER_MESSAGE):
        yield list(service_ports[first : first + _SERVICE_PORTS_PER_MESSAGE])
