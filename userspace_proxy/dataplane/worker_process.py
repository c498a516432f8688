"""A worker as a process of its own: `python -m userspace_proxy.dataplane.worker_process DESCRIPTOR`.

It is started with one end of a Unix stream socket, imports all that it will need, gives up its privileges,
and then does what the messages say until the other end closes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import sys

import msgspec
import uvloop

from userspace_proxy.dataplane.channel import Channel
from userspace_proxy.dataplane.descriptor_reserve import DescriptorReserve
from userspace_proxy.dataplane.messages import (
    Acknowledged,
    AgentMessage,
    Configure,
    Counters,
    ListenerKey,
    ReadCounters,
    Start,
    WorkerMessage,
)
from userspace_proxy.dataplane.privileges import drop_privileges
from userspace_proxy.dataplane.worker import Worker

logger = logging.getLogger(__name__)


class WorkerProcess:
    """Joins a `Worker` to its channel: what a message orders is done at once and answered in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self.ended = loop.create_future()
        self._loop = loop
        self._worker: Worker | None = None
        self._decoder = msgspec.msgpack.Decoder(AgentMessage)
        self._encoder = msgspec.msgpack.Encoder()
        self._channel = Channel(loop, sock, self._receive, self._end, DescriptorReserve().released)

    def close(self) -> None:
        """Stop serving. Safe to repeat."""
        self._channel.close()
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _receive(self, payload: bytes, descriptors: list[int]) -> None:
        try:
            self._obey(self._decoder.decode(payload), descriptors)
        except Exception:
            logger.exception("A message cannot be carried out, so a successor must start afresh")
            self._channel.close()

    def _obey(self, message: AgentMessage, descriptors: list[int]) -> None:
        match message:
            case Start():
                self._worker = Worker(self._loop, limits=message.limits, random=random.Random(message.seed))
                self._answer(Acknowledged(message.sequence))
            case Configure():
                sockets = adopt_listeners(message.new_listeners, descriptors)
                self._started().configure(message.service_ports, message.removed, sockets)
                self._answer(Acknowledged(message.sequence))
            case ReadCounters():
                self._answer(Counters(message.sequence, self._started().counters()))

    def _started(self) -> Worker:
        if self._worker is None:
            raise RuntimeError("the agent's first message to a worker must be Start")
        return self._worker

    def _answer(self, message: WorkerMessage) -> None:
        self._channel.send(self._encoder.encode(message))


def adopt_listeners(
    keys: tuple[ListenerKey, ...], descriptors: list[int]
) -> dict[ListenerKey, socket.socket]:
    """Make socket objects of descriptors that came with a message."""
    return {key: socket.socket(fileno=fd) for key, fd in zip(keys, descriptors, strict=True)}


async def _run(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    process = WorkerProcess(loop, socket.socket(fileno=descriptor))
    try:
        await process.ended
    finally:
        process.close()


def main() -> None:
    descriptor = int(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    drop_privileges()
    uvloop.run(_run(descriptor))


if __name__ == "__main__":
    main()
