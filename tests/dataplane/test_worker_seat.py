"""What a seat tells its worker, message by message."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import cast

import pytest

from userspace_proxy.dataplane.messages import Configure, ListenerConfig, ServicePortConfig, SetVerbosity
from userspace_proxy.dataplane.worker_link import WorkerLink
from userspace_proxy.dataplane.worker_seat import Given, WorkerSeat
from userspace_proxy.errors import WorkerError


class Listener:
    """A worker that remembers what it was told, and dies when there is nothing more."""

    def __init__(self) -> None:
        self.told: list[Configure | SetVerbosity] = []

    async def until(self, event: asyncio.Event, _seconds: float) -> None:
        if not event.is_set():
            raise WorkerError("it ended")

    async def request(
        self, message: Callable[..., Configure | SetVerbosity], _descriptors: Sequence[int] = ()
    ) -> None:
        self.told.append(message(sequence=len(self.told)))


def service_port(number: int, endpoints: int) -> ServicePortConfig:
    listener = ListenerConfig("Cluster", number, (("10.0.0.1", 80),) * endpoints)
    return ServicePortConfig(str(number), str(number), "TCP", "IPv4", None, 30.0, 120.0, (listener,))


def messages(wanted: list[ServicePortConfig], forgotten: list[str]) -> list[Configure]:
    async def run() -> list[Configure]:
        with closing(socket.socket()) as sock:
            seat = WorkerSeat(asyncio.get_running_loop(), 0, lambda _: sock)
            worker = Listener()
            for config in wanted:
                seat.want(config)
            for key in forgotten:
                seat.forget(key)
            with pytest.raises(WorkerError, match="it ended"):
                await seat.serve(cast(WorkerLink, worker), Given())
            return [message for message in worker.told if isinstance(message, Configure)]

    return asyncio.run(run())


@pytest.mark.parametrize(("count", "endpoints"), [(950, 1), (30, 400), (3, 5000)])
def test_no_message_is_so_large_that_connections_wait_for_long(count: int, endpoints: int) -> None:
    wanted = [service_port(number, endpoints) for number in range(count)]
    forgotten = [f"gone {number}" for number in range(250)]
    told = messages(wanted, forgotten)
    for message in told:
        sizes = [len(listener.endpoints) for each in message.service_ports for listener in each.listeners]
        assert len(sizes) <= 100
        assert len(message.removed) <= 100
        assert sum(sizes) <= 1000 or len(sizes) == 1
    assert sorted(each.key for message in told for each in message.service_ports) == sorted(
        config.key for config in wanted
    )
    assert sorted(key for message in told for key in message.removed) == sorted(forgotten)


def test_each_process_on_a_seat_is_told_once_how_much_to_log() -> None:
    async def run() -> list[list[int]]:
        heard = []
        seat = WorkerSeat(asyncio.get_running_loop(), 0, lambda _: pytest.fail("there is no listener"))
        for verbosity in (None, 4, None):
            worker = Listener()
            if verbosity is not None:
                seat.set_verbosity(verbosity)
            with pytest.raises(WorkerError, match="it ended"):
                await seat.serve(cast(WorkerLink, worker), Given())
            heard.append([each.verbosity for each in worker.told if isinstance(each, SetVerbosity)])
        return heard

    assert asyncio.run(run()) == [[], [4], [4]]
