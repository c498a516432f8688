"""A worker as a process of its own: `python -m userspace_proxy.dataplane.worker_process CHANNEL CONTROL`.

It is started with one end of a Unix stream socket, at whose other end its agent is, and with the socket on
which the agents after that one find it. It imports all that it will need, gives up its privileges, listens,
and does what its agent says.

An agent that goes away leaves an orphan: a worker that serves on with what it knows, for as long as it was
told, and then ends. Whoever says `Hello` meanwhile is its agent from then on.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import uvloop

from userspace_proxy.dataplane.agent_conversation import AgentConversation
from userspace_proxy.dataplane.descriptor_reserve import DescriptorReserve
from userspace_proxy.dataplane.live_connections import ConnectionListing
from userspace_proxy.dataplane.messages import (
    MAX_DESCRIPTORS_PER_MESSAGE,
    AgentMessage,
    Configure,
    Connections,
    Counters,
    Inherit,
    Keep,
    ListConnections,
    RanShort,
    ReadCounters,
    ReadStates,
    SetVerbosity,
    Start,
    States,
)
from userspace_proxy.dataplane.peer_credentials import peer_of
from userspace_proxy.dataplane.poller import Socket
from userspace_proxy.dataplane.privileges import drop_privileges
from userspace_proxy.dataplane.succession import (
    Acknowledged,
    Drain,
    End,
    GaveUp,
    GiveUp,
    HandBack,
    Hello,
    Introduction,
)
from userspace_proxy.dataplane.worker import Worker
from userspace_proxy.dataplane.worker_holdings import WorkerHoldings
from userspace_proxy.dataplane.worker_log import WorkerLog
from userspace_proxy.logs.log import Log

logger = logging.getLogger(__name__)

_MAX_VISITORS: Final = 16
_MAX_CLIENTS: Final = 1000
_COUNTERS_AT_ONCE: Final = 200
"""Of so many Service ports counters are read at a time, which takes half a millisecond."""
_DRAINED_SECONDS: Final = 0.2
"""How often a worker that drains looks whether its last connection is over."""
_OBJECTS_BETWEEN_COLLECTIONS: Final = 50_000


class WorkerProcess:
    """Joins a `Worker` to its agents: what a message orders is done at once and answered in order.

    `agent` is connected to the agent that started it. `control` listens for the agents after that one; who
    connects must be user 0 or `started_by`. `pid_namespace` is the inode of the one that this process is in.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        agent: socket.socket,
        control: socket.socket,
        *,
        started_by: int,
        pid_namespace: int,
        log: WorkerLog | None = None,
    ) -> None:
        self.ended: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._control = control
        self._admitted = {0, started_by}
        self._pid_namespace = pid_namespace
        self._log = log
        self._reserve = DescriptorReserve()
        self._holdings = WorkerHoldings()
        self._worker: Worker | None = None
        self._start: Start | None = None
        self._start_from: AgentConversation | None = None  # it understands all our messages
        self._timer: asyncio.TimerHandle | None = None
        self._is_draining = False
        self._counted: list[str] = []
        self._listing: ConnectionListing | None = None
        self._given: list[Socket] = []
        self._visitors: set[AgentConversation] = set()
        self._agent: AgentConversation | None = None
        self._agent = self._starter = self._converse(agent)
        control.setblocking(False)
        loop.add_reader(control.fileno(), self._admit)

    def close(self) -> None:
        """Stop serving. Safe to repeat."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        self._end()
        if self._timer is not None:
            self._timer.cancel()
        self._holdings.close()
        self._forget_given()
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        # Last: an agent whose worker hangs up kills it, and connections are to be reset before that.
        for conversation in tuple(self._visitors):
            conversation.close()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _admit(self) -> None:
        try:
            with self._reserve.released():  # clients may have all the rest
                sock, _ = self._control.accept()
        except OSError:
            return
        if peer_of(sock)[1] in self._admitted and len(self._visitors) < _MAX_VISITORS:
            self._converse(sock)
        else:
            sock.close()

    def _converse(self, sock: socket.socket) -> AgentConversation:
        conversation = AgentConversation(self._loop, sock, self._obey, self._left, self._reserve)
        self._visitors.add(conversation)
        return conversation

    def _left(self, conversation: AgentConversation) -> None:
        self._visitors.discard(conversation)
        if conversation is self._agent:
            self._agent = None
            self._listing = None
            if self._log is not None:
                self._log.tell = None
            if not self.ended.done():
                self._orphaned()

    def _orphaned(self) -> None:
        seconds = 0.0 if self._start is None else self._start.orphan_seconds
        if self._is_draining and seconds:
            return  # its own time runs already
        if self._worker is not None:
            self._worker.read_again()
        if not seconds or not (self._holdings.has_listeners or self._active()):
            self._end()
            return
        logger.info("Worker has no agent, it serves on: pid=%d seconds=%g", os.getpid(), seconds)
        self._timer = self._loop.call_later(seconds, self._nobody_came)

    def _nobody_came(self) -> None:
        logger.warning(
            "Worker ends, because no agent came: pid=%d connections=%d", os.getpid(), self._active()
        )
        self._end()

    def _obey(self, asker: AgentConversation, message: AgentMessage, descriptors: list[int]) -> None:
        match message:
            case Hello():
                self._welcome(asker)
                asker.answer(self._introduction(message.sequence))
            case HandBack():
                asker.answer(*self._holdings.handed_back(message.sequence, message.start))
            case GiveUp():
                asker.answer(*self._give_up(message))
            case Drain():
                self._drain(message.seconds)
                asker.answer(Acknowledged(message.sequence))
            case End():
                self._end()
            case Start():
                self._start_as(asker, message)
                asker.answer(Acknowledged(message.sequence))
            case Configure():
                self._configure(message, descriptors)
                asker.answer(Acknowledged(message.sequence))
            case Inherit():
                worker = self._started()
                flows = zip(message.flows, take_sockets(descriptors, len(message.flows)), strict=True)
                worker.inherit(flows, message.clients)
                asker.answer(Acknowledged(message.sequence))
            case Keep():
                new = take_sockets(descriptors, len(message.new))
                self._holdings.keep(message.names, dict(zip(message.new, new, strict=True)))
                self._started().leave_room(len(message.names))
                asker.answer(Acknowledged(message.sequence))
            case ReadCounters():
                asker.answer(self._counters(message))
            case ListConnections():
                asker.answer(self._connections(message))
            case ReadStates():
                states, looked_at = self._started().states(message.service_ports, message.client)
                asker.answer(States(message.sequence, states, looked_at))
            case SetVerbosity():
                if self._log is not None:
                    self._log.show(message.verbosity)
                asker.answer(Acknowledged(message.sequence))

    def _welcome(self, asker: AgentConversation) -> None:
        before, self._agent = self._agent, asker
        if self._log is not None and before is not asker:
            self._log.tell = None  # until it says, by `Start`, that it understands
        if before is not None and before is not asker:
            before.close()
        if self._timer is not None and not self._is_draining:
            self._timer.cancel()

    def _introduction(self, sequence: int) -> Introduction:
        build, pool_size = ("", 0) if self._start is None else (self._start.build, self._start.pool_size)
        return Introduction(sequence, build, pool_size, self._pid_namespace, self._is_draining)

    def _start_as(self, asker: AgentConversation, message: Start) -> None:
        self._start, self._start_from = message, asker
        if self._log is not None:
            self._log.shape(message.log_format, message.verbosity)
            self._log.tell = None if asker is self._starter else asker.tell
        if self._worker is None:
            self._worker = Worker(
                self._loop,
                limits=message.limits,
                random=random.Random(message.seed),
                ran_short=self._ran_short,
            )
        else:
            self._worker.limit(message.limits)
            self._worker.read_again()

    def _ran_short(self) -> None:
        if self._agent is not None and self._agent is self._start_from:
            self._agent.tell(RanShort(0))

    def _configure(self, message: Configure, descriptors: list[int]) -> None:
        worker = self._started()
        new = take_sockets(descriptors, len(message.new_listeners))
        sockets = dict(zip(message.new_listeners, new, strict=True))
        worker.configure(message.service_ports, message.removed, sockets)
        self._holdings.serve(message.service_ports, message.removed, sockets)

    def _counters(self, message: ReadCounters) -> Counters:
        worker, start = self._started(), message.start
        if not start:
            self._counted = worker.counted()
        following = start + _COUNTERS_AT_ONCE
        counters = worker.counters(self._counted[start:following])
        return Counters(message.sequence, counters, following if following < len(self._counted) else None)

    def _connections(self, message: ListConnections) -> Connections:
        worker, listing = self._started(), self._listing
        if listing is None or not message.goes_on:
            self._listing = listing = worker.list_connections(message.query)
        described, left_out = listing.portion(message.most)
        if listing.is_complete:
            self._listing = None  # it keeps connections that have ended
        return Connections(message.sequence, tuple(described), left_out, listing.is_complete)

    def _give_up(self, message: GiveUp) -> tuple[GaveUp, list[int]]:
        self._forget_given()
        flows, clients, is_complete = self._started().hand_over(
            message.service_ports, most_flows=MAX_DESCRIPTORS_PER_MESSAGE, most_clients=_MAX_CLIENTS
        )
        # What is given up in part is still ours, should nobody ask for the rest.
        given_up = [key for key in message.service_ports if not self._started().serves(key)]
        self._holdings.serve((), given_up, {})
        self._given = [sock for _, sock in flows]
        gave_up = GaveUp(message.sequence, tuple(held for held, _ in flows), tuple(clients), is_complete)
        return gave_up, [sock.fileno() for sock in self._given]

    def _forget_given(self) -> None:
        """Whoever asks again has what was given before."""
        while self._given:
            self._given.pop().close()

    def _drain(self, seconds: float) -> None:
        """Carry what there is to its end, and no more."""
        if self._is_draining:
            return
        self._is_draining = True
        self._forget_given()
        self._holdings.serve((), self._holdings.service_ports, {})
        self._holdings.keep((), {})
        until = self._loop.time() + seconds
        logger.info("Worker drains: pid=%d connections=%d seconds=%g", os.getpid(), self._active(), seconds)

        def look() -> None:
            active = 0 if self._worker is None else self._worker.drain()
            if active and self._loop.time() < until:
                self._timer = self._loop.call_later(_DRAINED_SECONDS, look)
                return
            logger.info("Worker has drained: pid=%d connections_cut=%d", os.getpid(), active)
            self._end()

        look()

    def _active(self) -> int:
        """How many connections and flows go on."""
        return 0 if self._worker is None else self._worker.active

    def _started(self) -> Worker:
        if self._worker is None:
            raise RuntimeError("the agent's first message to a worker must be Start")
        return self._worker


def take_sockets(descriptors: list[int], count: int) -> list[socket.socket]:
    """Make socket objects of `descriptors`, and empty the list. Raises `ValueError` if it has not `count`."""
    if len(descriptors) != count:
        raise ValueError(f"{count} sockets are named, and {len(descriptors)} came along")
    sockets: list[socket.socket] = []
    while descriptors:
        sockets.append(_socket(descriptors[0]))
        del descriptors[0]
    return sockets


def _socket(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


async def _run(
    channel: int, control: socket.socket, started_by: int, pid_namespace: int, log: WorkerLog
) -> None:
    process = WorkerProcess(
        asyncio.get_running_loop(),
        _socket(channel),
        control,
        started_by=started_by,
        pid_namespace=pid_namespace,
        log=log,
    )
    try:
        await process.ended
    finally:
        process.close()


def _settle_garbage_collection() -> None:
    """Look neither often nor at what stays anyway.

    Connections and flows leave no circles behind, so that there is next to nothing to collect; by default,
    every 700 objects that come with new connections would have all young ones looked at.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


def main() -> None:
    channel, control = (int(text) for text in sys.argv[1:])
    own = Log()
    log = WorkerLog(own)
    logging.basicConfig(handlers=[log], level=logging.INFO)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started_by = os.getuid()
    pid_namespace = Path("/proc/self/ns/pid").stat().st_ino  # what is ours in /proc is root's in a moment
    drop_privileges()
    own.start()  # a thread, which is to have no privileges either
    listening = _socket(control)
    listening.listen(_MAX_VISITORS)  # only now: whoever connects sees who listened
    _settle_garbage_collection()
    uvloop.run(_run(channel, listening, started_by, pid_namespace, log))


if __name__ == "__main__":
    main()
