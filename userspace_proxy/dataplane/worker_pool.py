"""The worker processes, seen from the agent: who serves what, and who takes over when one dies.

Theory of operation. The pool has a fixed number of *seats*. A Service port is given the emptiest seat and
stays there for life, so it has one owner. A seat remembers the whole state it must serve and is occupied by
one process at a time; when that dies, a warm spare sits down and is told everything, with duplicates of the
same listening sockets. Who waited in their backlogs is answered by the successor.

What is told is a whole state, so a change that was on its way when a process died needs no special care: the
successor's state contains it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import Final, NoReturn, TypeAlias

from userspace_proxy.dataplane.messages import (
    MAX_DESCRIPTORS_PER_MESSAGE,
    Configure,
    Counters,
    ListenerKey,
    ReadCounters,
    ServicePortConfig,
    ServicePortCounters,
    Start,
    WorkerLimits,
)
from userspace_proxy.dataplane.worker_child import WorkerChild, settle
from userspace_proxy.errors import WorkerError

logger = logging.getLogger(__name__)

ListenerOf: TypeAlias = Callable[[ListenerKey], socket.socket]
_Given: TypeAlias = dict[str, frozenset[ListenerKey]]
"""The listeners that a process has, by the key of their Service port."""

_ASK_SECONDS: Final = 2.0
"""How often a worker that has nothing to do is asked whether it is there."""
_SETTLE_SECONDS: Final = 2.0
_MAX_ENDPOINTS_PER_MESSAGE: Final = 10_000
_MAX_RESTART_DELAY_SECONDS: Final = 5.0
_STABLE_SECONDS: Final = 10.0


class WorkerPool:
    """`size` worker processes and a warm spare.

    `listener_of` gives the listening socket of a key that a configuration names; the pool duplicates it to a
    worker and never closes it. `random` seeds each worker's balancing.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        size: int,
        limits: WorkerLimits,
        random: Random,
        listener_of: ListenerOf,
    ) -> None:
        self.replaced = 0
        self._loop = loop
        self._limits = limits
        self._random = random
        self._warming: deque[asyncio.Task[WorkerChild]] = deque()
        self._seats = [_Seat(loop, number, listener_of) for number in range(size)]
        self._seat_of: dict[str, _Seat] = {}
        self._occupations: list[asyncio.Task[NoReturn]] = []

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that serve now, seat by seat (a seat that is just changing hands is left out)."""
        return tuple(seat.process.pid for seat in self._seats if seat.process is not None)

    async def start(self) -> None:
        """Start all workers and the spare; returns when every seat is taken. Raises `WorkerError`."""
        for _ in range(len(self._seats) + 1):
            self._warm_one()
        for seat in self._seats:
            seat.process = await self._warming.popleft()
        self._occupations = [
            self._loop.create_task(self._occupy(seat, seat.process))
            for seat in self._seats
            if seat.process is not None
        ]

    async def run(self) -> NoReturn:
        """Raise what ends one of the tasks that keep the seats taken; nothing should. To be cancelled."""
        done, _ = await asyncio.wait(self._occupations, return_when=asyncio.FIRST_COMPLETED)
        for occupation in done:
            occupation.result()
        raise AssertionError("a seat is kept taken for ever")

    async def configure(
        self, service_ports: Iterable[ServicePortConfig], removed: Iterable[str] = ()
    ) -> None:
        """Serve `service_ports` as they stand here and no longer those with the keys `removed`.

        Returns when the workers that own them have said that it is in effect; a worker that dies meanwhile
        delays that until its successor serves, but nobody waits longer than 2 s for one that is stuck.
        """
        concerned: set[_Seat] = set()
        for config in service_ports:
            seat = self._seat_of.get(config.key)
            if seat is None:
                seat = self._seat_of[config.key] = min(self._seats, key=len)
            seat.want(config)
            concerned.add(seat)
        for key in removed:
            seat = self._seat_of.pop(key, None)
            if seat is not None:
                seat.forget(key)
                concerned.add(seat)
        if concerned:
            _, late = await asyncio.wait([seat.settled() for seat in concerned], timeout=_SETTLE_SECONDS)
            if late:
                logger.warning("Worker is late with a change: workers=%d", len(late))

    async def counters(self) -> dict[str, ServicePortCounters]:
        """What every Service port has carried. A worker that dies during the question is left out."""
        answers = await asyncio.gather(*(seat.counters() for seat in self._seats))
        return {key: value for answer in answers for key, value in answer.items()}

    async def close(self) -> None:
        """End every worker. Safe to repeat."""
        tasks = [*self._occupations, *self._warming]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        self._occupations.clear()
        self._warming.clear()
        warm = [result for result in results if isinstance(result, WorkerChild)]
        serving = [seat.process for seat in self._seats if seat.process is not None]
        await asyncio.gather(*(process.end() for process in [*warm, *serving]))

    def _warm_one(self) -> None:
        self._warming.append(self._loop.create_task(self._spawn()))

    async def _spawn(self) -> WorkerChild:
        process = await WorkerChild.start(self._loop)
        try:
            await process.request(partial(Start, limits=self._limits, seed=self._random.getrandbits(63)))
        except BaseException:
            await process.end()
            raise
        return process

    async def _occupy(self, seat: _Seat, process: WorkerChild) -> NoReturn:
        """Keep a seat taken for ever."""
        failures = 0
        while True:
            sat_down = self._loop.time()
            try:
                await seat.serve(process)
            except WorkerError as error:
                logger.warning("Worker lost, a spare takes over: worker=%d %s", seat.number, error)
            except Exception:  # a seat that nobody takes any more would keep all who configure it waiting
                logger.exception("Worker cannot be told, a spare tries again: worker=%d", seat.number)
            finally:
                seat.process = None
                await process.end()
            self.replaced += 1
            failures = 0 if self._loop.time() - sat_down > _STABLE_SECONDS else failures + 1
            if failures > 1:  # the first successor may sit down at once
                await asyncio.sleep(min(0.1 * 2**failures, _MAX_RESTART_DELAY_SECONDS))
            process = await self._take_warm()

    async def _take_warm(self) -> WorkerChild:
        for attempt in itertools.count():
            self._warm_one()
            try:
                process = await self._warming.popleft()
            except (WorkerError, OSError) as error:
                logger.error("Worker cannot be started, trying again: %s", error)
                await asyncio.sleep(min(0.1 * 2**attempt, _MAX_RESTART_DELAY_SECONDS))
                continue
            if process.is_alive:
                return process
            await process.end()
        raise AssertionError("unreachable")


class _Seat:
    """What one worker must serve, whichever process does it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int, listener_of: ListenerOf) -> None:
        self.number = number
        self.process: WorkerChild | None = None
        self._loop = loop
        self._listener_of = listener_of
        self._wanted: dict[str, ServicePortConfig] = {}
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

    def settled(self) -> asyncio.Future[None]:
        """Done when all that is wanted now is in effect."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(waiter)
        self._wake.set()
        return waiter

    async def counters(self) -> Mapping[str, ServicePortCounters]:
        if self.process is None:
            return {}
        try:
            answer = await self.process.request(ReadCounters)
        except WorkerError:
            return {}
        assert isinstance(answer, Counters)
        return answer.service_ports

    async def serve(self, process: WorkerChild) -> None:
        """Tell `process` everything, then every change; ask it for a sign of life when there is none.

        Ends with `WorkerError` when the process does.
        """
        self.process = process
        given: _Given = {}
        self._changed = set(self._wanted)
        self._wake.set()
        while True:
            await process.until(self._wake, _ASK_SECONDS)
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            changed, self._changed = self._changed, set()
            try:
                for service_ports, removed in self._batches(changed, given):
                    await self._tell(process, service_ports, removed, given)
                if not changed:
                    await self._tell(process, (), (), given)
            except BaseException:
                self._waiting += waiting  # the successor settles for them
                raise
            for waiter in waiting:
                settle(waiter)

    def _batches(
        self, changed: set[str], given: _Given
    ) -> Iterator[tuple[list[ServicePortConfig], list[str]]]:
        """Cut a change to what one message may carry."""
        removed = [key for key in changed if key not in self._wanted]
        batch: list[ServicePortConfig] = []
        descriptors = endpoints = 0
        for config in [self._wanted[key] for key in changed if key in self._wanted]:
            new = len(_new_listeners(config, given))
            size = sum(len(listener.endpoints) for listener in config.listeners)
            too_many = descriptors + new > MAX_DESCRIPTORS_PER_MESSAGE
            if batch and (too_many or endpoints + size > _MAX_ENDPOINTS_PER_MESSAGE):
                yield batch, []
                batch, descriptors, endpoints = [], 0, 0
            batch.append(config)
            descriptors += new
            endpoints += size
        if batch or removed:
            yield batch, removed

    async def _tell(
        self,
        process: WorkerChild,
        service_ports: Sequence[ServicePortConfig],
        removed: Sequence[str],
        given: _Given,
    ) -> None:
        new = tuple(key for config in service_ports for key in _new_listeners(config, given))
        descriptors = [self._listener_of(key).fileno() for key in new]
        configure = partial(
            Configure, service_ports=tuple(service_ports), removed=tuple(removed), new_listeners=new
        )
        await process.request(configure, descriptors)
        for key in removed:
            given.pop(key, None)
        for config in service_ports:
            given[config.key] = frozenset(listener_keys(config))


def _new_listeners(config: ServicePortConfig, given: _Given) -> list[ListenerKey]:
    known = given.get(config.key, frozenset())
    return [key for key in listener_keys(config) if key not in known]


def listener_keys(config: ServicePortConfig) -> tuple[ListenerKey, ...]:
    """The keys of a Service port's listeners."""
    return tuple(ListenerKey(config.protocol, listener.proxy_port) for listener in config.listeners)
