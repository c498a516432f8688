"""The worker processes, seen from the agent: who serves what, and who takes over when one dies.

Theory of operation. The pool has a fixed number of *seats*. A Service port is given the emptiest seat, or as
many as it asks for, and stays there for life. A seat remembers the whole state it must serve and is occupied
by one process at a time; when that dies, a warm spare sits down and is told everything, with duplicates of
the same listening sockets. Who waited in their backlogs is answered by the successor, or by whoever shares
them.

What is told is a whole state, so a change that was on its way when a process died needs no special care: the
successor's state contains it.

Workers outlive their agent. A pool takes those of the one before in one of two ways. Workers like its own it
*adopts*: they sit down and are told nothing until something changes. From others it takes the listeners, one
Service port after the other as its own workers come to serve them, and then lets them drain.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Final, NoReturn

from userspace_proxy.core.back_off import doubled_seconds
from userspace_proxy.core.event_reasons import OUT_OF_DESCRIPTORS, WORKER_LOST
from userspace_proxy.core.event_series import RecordEvent, unrecorded
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.dataplane.inherited import close_flows
from userspace_proxy.dataplane.live_reading import Askable
from userspace_proxy.dataplane.messages import (
    ServicePortConfig,
    Start,
    WorkerLimits,
)
from userspace_proxy.dataplane.orphans import AdoptedWorker, OutgoingWorker
from userspace_proxy.dataplane.succession import Drain
from userspace_proxy.dataplane.worker_link import WorkerLink
from userspace_proxy.dataplane.worker_seat import (
    Given,
    ListenerOf,
    WorkerSeat,
    in_portions,
    listener_keys,
)
from userspace_proxy.errors import WorkerError

logger = logging.getLogger(__name__)

_SETTLE_SECONDS: Final = 2.0
_MAX_RESTART_DELAY_SECONDS: Final = 5.0
_STABLE_SECONDS: Final = 10.0


class WorkerPool:
    """`size` worker processes and a warm spare.

    `listener_of` gives the listening socket of a key that a configuration names; the pool duplicates it to a
    worker and never closes it. `random` seeds each worker's balancing. Workers are `build`, serve on for
    `orphan_seconds` without an agent (0: not at all), and take `drain_seconds` at most to drain. Their logs
    look as `log_format` and `verbosity` say.

    `is_replaced` is asked in a thread whether a process that was just started may be of another build: it
    would take our messages for something else, and is not used, and `was_replaced` is set.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        size: int,
        limits: WorkerLimits,
        random: Random,
        listener_of: ListenerOf,
        control_sockets: ControlSockets,
        build: str,
        is_replaced: Callable[[], bool] | None = None,
        orphan_seconds: float,
        drain_seconds: float,
        log_format: str = "text",
        verbosity: int = 0,
        record_event: RecordEvent = unrecorded,
    ) -> None:
        self._record_event = record_event
        self.replaced = 0
        self.was_replaced = asyncio.Event()
        self._loop = loop
        self._is_replaced = is_replaced
        self._random = random
        self._control_sockets = control_sockets
        self._orphan_seconds = orphan_seconds
        self._drain_seconds = drain_seconds
        self._terms = partial(
            Start,
            limits=limits,
            orphan_seconds=orphan_seconds,
            build=build,
            pool_size=size,
            log_format=log_format,
            verbosity=verbosity,
        )
        self._warming: deque[asyncio.Task[WorkerLink]] = deque()
        self._seats = [WorkerSeat(loop, number, listener_of) for number in range(size)]
        self._seats_of: dict[str, list[WorkerSeat]] = {}
        self._occupations: list[asyncio.Task[NoReturn]] = []
        self._outgoing: list[OutgoingWorker] = []
        self._draining: dict[asyncio.Task[None], WorkerLink] = {}
        self._former: list[WorkerLink] = []  # had seats of ours, so they understand all our messages

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that serve now, seat by seat (a seat that is just changing hands is left out)."""
        return tuple(seat.process.pid for seat in self._seats if seat.process is not None)

    @property
    def seats(self) -> Sequence[WorkerSeat]:
        """Where workers sit, and what each has to serve; to be looked at."""
        return self._seats

    def seats_of(self, key: str) -> Sequence[WorkerSeat]:
        """Where the Service port of that key is served."""
        return self._seats_of.get(key, ())

    async def warm(self) -> None:
        """Start the spare. Raises `WorkerError` if no worker can be started."""
        self._warm_one()
        await asyncio.wait([self._warming[0]])
        if error := self._warming[0].exception():
            self._warming.popleft()
            raise error

    async def start(
        self, adopted: Sequence[AdoptedWorker] = (), outgoing: Sequence[OutgoingWorker] = ()
    ) -> None:
        """Start the workers that are missing beside the `adopted` ones, and a spare.

        Returns when every seat is taken. Workers that are `outgoing` serve on until `configure` and `retire`
        take their Service ports over. Raises `WorkerError`.
        """
        self._outgoing = list(outgoing)
        begin: list[tuple[WorkerSeat, Given]] = []
        for seat, worker in zip(self._seats, adopted, strict=False):
            try:
                await worker.link.request(self._start_message())
            except WorkerError as error:  # a spare will take its seat, and be told all of it
                logger.warning(
                    "Worker of an earlier agent is lost just now: worker=%d %s", seat.number, error
                )
            seat.process = worker.link
            seat.inherit(worker.configs)
            for config in worker.configs:
                self._seats_of.setdefault(config.key, []).append(seat)
            has = {config.key: frozenset(listener_keys(config)) for config in worker.configs}
            begin.append((seat, Given(has | dict.fromkeys(worker.surplus, frozenset()))))
        for _ in range(len(self._seats) - len(begin) + 1 - len(self._warming)):
            self._warm_one()
        for seat in self._seats[len(begin) :]:
            seat.process = await self._warming.popleft()
            begin.append((seat, Given()))
        self._occupations = [
            self._loop.create_task(self._occupy(seat, seat.process, given))
            for seat, given in begin
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

        Returns when the workers that serve them have said that it is in effect; a worker that dies meanwhile
        delays that until its successor serves, but nobody waits longer than 2 s for one that is stuck.
        """
        concerned: set[WorkerSeat] = set()
        keys = set(removed)
        for config in service_ports:
            keys.add(config.key)
            seats, left = self._place(config)
            if self._outgoing and (config.protocol == "UDP" or config.affinity_timeout_seconds is not None):
                # Whoever reads decides where a client goes, so there must be one at a time; clients wait in
                # the listener's queue meanwhile. Of other listeners both may accept for a moment.
                await self._take_over({config.key}, seats[0])
            for seat in seats:
                seat.want(config)
            for seat in left:
                seat.forget(config.key)
            concerned.update(seats, left)
        for key in removed:
            for seat in self._seats_of.pop(key, ()):
                seat.forget(key)
                concerned.add(seat)
        if concerned:
            _, late = await asyncio.wait([seat.settled() for seat in concerned], timeout=_SETTLE_SECONDS)
            if late:
                logger.warning("Worker is late with a change: workers=%d", len(late))
        if self._outgoing:
            await self._take_over(keys, None)

    async def retire(self) -> None:
        """Let outgoing workers drain: nothing leads any more to what only they serve."""
        while self._outgoing:
            worker = self._outgoing.pop()
            try:
                await worker.link.request(partial(Drain, seconds=self._drain_seconds))
            except WorkerError as error:
                logger.warning("Worker of an earlier agent cannot be told to drain: %s", error)
            self._see_out(worker.link)

    async def keep(self, sockets: Mapping[str, socket.socket]) -> None:
        """Have workers hold duplicates of exactly these for the next agent; returns when they do."""
        for seat in self._seats:
            seat.keep(dict(sockets))
        await self._all_settled()

    async def set_verbosity(self, verbosity: int) -> None:
        """Have workers log what `-v VERBOSITY` shows, those to come too; returns when they do.

        Those that drain for an agent before this one log as that one told them.
        """
        self._terms = partial(self._terms, verbosity=verbosity)
        for seat in self._seats:
            seat.set_verbosity(verbosity)
        await self._all_settled()

    async def _all_settled(self) -> None:
        await asyncio.wait([seat.settled() for seat in self._seats], timeout=_SETTLE_SECONDS)

    @property
    def leaving_pids(self) -> tuple[int, ...]:
        """Those of workers that take nothing new and let what runs finish (0: not to be seen from here)."""
        return tuple(link.pid for link in self._leaving())

    def _leaving(self) -> list[WorkerLink]:
        leaving = [*self._draining.values(), *(worker.link for worker in self._outgoing)]
        return [link for link in leaving if link.is_alive]

    def askable(self) -> Askable:
        """The workers that serve, or drain, now."""
        serving = [seat.process for seat in self._seats if seat.process is not None]
        leaving = self._leaving()
        former = [link for link in leaving if link in self._former]
        return Askable([*serving, *former], [link for link in leaving if link not in self._former])

    async def read_counters(self) -> dict[int, dict[str, ServicePortCounters]]:
        """What every Service port has carried on each worker, by a number that no other process ever has.

        A worker that dies during the question is left out.
        """
        links = self.askable().links
        answers = await asyncio.gather(*map(_counters_of, links))
        return {
            link.number: answer for link, answer in zip(links, answers, strict=True) if answer is not None
        }

    async def drain(self) -> None:
        """Take nothing new; returns when the last worker has ended with its last connection, or in time."""
        for task in self._occupations:
            task.cancel()
        await asyncio.gather(*self._occupations, return_exceptions=True)
        self._occupations.clear()
        for seat in self._seats:
            if seat.process is not None:
                self._outgoing.append(OutgoingWorker(seat.process, set()))
                self._former.append(seat.process)
                seat.process = None
        await self.retire()
        while self._draining:
            await asyncio.wait([*self._draining])

    async def close(self) -> None:
        """Let go of the workers: those that serve go on as orphans, or end if that is for 0 s."""
        outgoing = [*self._draining.values(), *(worker.link for worker in self._outgoing)]
        tasks = [*self._occupations, *self._warming, *self._draining]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        warm = [result for result in results if isinstance(result, WorkerLink)]
        idle = [seat.process for seat in self._seats if seat.process is not None and not len(seat)]
        busy = [seat.process for seat in self._seats if seat.process is not None and len(seat)]
        busy += outgoing
        self._occupations.clear()
        self._warming.clear()
        self._outgoing.clear()
        self._draining.clear()
        for seat in self._seats:
            seat.process = None
        if self._orphan_seconds:
            for link in busy:
                link.leave()
            busy = []
        await asyncio.gather(*(link.end() for link in (*warm, *idle, *busy)))

    def _place(self, config: ServicePortConfig) -> tuple[Sequence[WorkerSeat], Sequence[WorkerSeat]]:
        """Where a Service port is served from now on, and where no longer. It keeps the seats that it has."""
        seats = self._seats_of.setdefault(config.key, [])
        wanted = min(config.workers, len(self._seats))
        if len(seats) < wanted:
            others = sorted((seat for seat in self._seats if seat not in seats), key=len)
            seats += others[: wanted - len(seats)]
        left = seats[wanted:]
        del seats[wanted:]
        return seats, left

    async def _take_over(self, keys: set[str], heir: WorkerSeat | None) -> None:
        """Have outgoing workers give up these Service ports; what belongs to them goes to `heir`."""
        for worker in self._outgoing:
            given_up = worker.continued & keys
            worker.continued.difference_update(given_up)
            try:
                for portion in in_portions([*given_up]):
                    async for flows, clients in worker.give_up(portion):
                        if heir is not None:
                            heir.inherit_traffic(flows, clients)
                        else:
                            close_flows(flows)
            except WorkerError as error:
                logger.warning("Worker of an earlier agent cannot give up its listeners: %s", error)

    def _see_out(self, link: WorkerLink) -> None:
        async def wait() -> None:
            await link.gone()
            await link.end()

        task = self._loop.create_task(wait())
        self._draining[task] = link
        task.add_done_callback(lambda task: self._draining.pop(task, None))

    def _warm_one(self) -> None:
        self._warming.append(self._loop.create_task(self._spawn()))

    async def _spawn(self) -> WorkerLink:
        process = await WorkerLink.start(self._loop, self._control_sockets)
        try:
            try:
                await process.request(self._start_message())
            except WorkerError:
                await self._require_our_build()  # which says why, if it is that
                raise
            await self._require_our_build()
        except BaseException:
            await process.end()
            raise
        return process

    async def _require_our_build(self) -> None:
        if self._is_replaced is not None and await self._loop.run_in_executor(None, self._is_replaced):
            self.was_replaced.set()
            raise WorkerError(
                "the package was replaced, and workers of another build are no use to this agent"
            )

    def _start_message(self) -> Callable[..., Start]:
        return partial(self._terms, seed=self._random.getrandbits(63))

    async def _occupy(self, seat: WorkerSeat, process: WorkerLink, given: Given) -> NoReturn:
        """Keep a seat taken for ever."""
        failures = 0
        while True:
            sat_down = self._loop.time()
            process.ran_short = self._say_shortage
            try:
                await seat.serve(process, given)
            except WorkerError as error:
                logger.warning("Worker lost, a spare takes over: worker=%d %s", seat.number, error)
            except Exception:  # a seat that nobody takes any more would keep all who configure it waiting
                logger.exception("Worker cannot be told, a spare tries again: worker=%d", seat.number)
            self._record_event(WORKER_LOST, "A worker ended, and its connections with it; a spare serves on")
            seat.process = None
            await process.end()
            self.replaced += 1
            failures = 0 if self._loop.time() - sat_down > _STABLE_SECONDS else failures + 1
            if failures > 1:  # the first successor may sit down at once
                await asyncio.sleep(doubled_seconds(0.2, failures, _MAX_RESTART_DELAY_SECONDS))
            process, given = await self._take_warm(), Given()

    def _say_shortage(self) -> None:
        self._record_event(
            OUT_OF_DESCRIPTORS,
            "A worker has no descriptor or socket memory left, new connections wait: raise the limit of open "
            "files, or close idle connections",
        )

    async def _take_warm(self) -> WorkerLink:
        for attempt in itertools.count(1):
            self._warm_one()
            try:
                process = await self._warming.popleft()
            except (WorkerError, OSError) as error:
                logger.error("Worker cannot be started, trying again: %s", error)
                await asyncio.sleep(doubled_seconds(0.1, attempt, _MAX_RESTART_DELAY_SECONDS))
                continue
            if process.is_alive:
                return process
            await process.end()
        raise AssertionError("unreachable")


async def _counters_of(link: WorkerLink) -> dict[str, ServicePortCounters] | None:
    try:
        return await link.counters()
    except WorkerError:
        return None
