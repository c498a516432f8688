"""The recorder writes what it is told, waits for nobody, and takes no for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest

from userspace_proxy.agent.event_recorder import EventRecorder
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.event_reasons import RULES_REPAIRED, STARTING
from userspace_proxy.core.event_series import EventWrite
from userspace_proxy.sources.contact import RequestFailedError


class Server:
    """Answers one after the other as `answers` say, and then well. `written` are the notes that it took."""

    def __init__(self, *answers: Exception) -> None:
        self.answers: Iterator[Exception] = iter(answers)
        self.asked: list[str] = []
        self.written: list[str] = []
        self._told = asyncio.Event()

    async def write(self, event: EventWrite) -> None:
        self.asked.append(event.note)
        self._told.set()
        answer = next(self.answers, None)
        if answer is not None:
            raise answer
        self.written.append(event.note)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._told.clear()
            await self._told.wait()


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await scene()

    asyncio.run(within())


def recorder(server: Server, **more: float) -> EventRecorder:
    clock = asyncio.get_running_loop().time
    return EventRecorder(ClusterState("node-1"), server.write, clock=clock, qps=more.get("qps", 1000.0))


async def while_it_runs(recorder: EventRecorder, scene: Awaitable[None]) -> None:
    running = asyncio.create_task(recorder.run())
    try:
        await scene
        assert not running.done()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def test_what_is_recorded_is_written_before_and_after_it_runs() -> None:
    async def scene() -> None:
        server = Server()
        events = recorder(server)
        events.record(STARTING, "first")

        async def more() -> None:
            await server.until(lambda: server.written == ["first"])
            events.record(RULES_REPAIRED, "second")
            await server.until(lambda: server.written == ["first", "second"])

        await while_it_runs(events, more())
        assert (events.series.written, events.series.dropped) == (2, 0)

    run(scene)


def test_an_api_server_that_is_away_is_asked_again() -> None:
    async def scene() -> None:
        server = Server(RequestFailedError("it did not answer"), RequestFailedError("busy", 503))
        events = recorder(server)
        events.record(STARTING, "first")
        await while_it_runs(events, server.until(lambda: server.written == ["first"]))
        assert server.asked == ["first"] * 3

    run(scene)


def test_what_may_not_be_written_is_said_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    forbidden = RequestFailedError('403 Forbidden: cannot create resource "events"', 403)

    async def scene() -> None:
        server = Server(forbidden, forbidden, RequestFailedError("422 Invalid", 422))
        events = recorder(server)
        for note in "abcd":
            events.record(RULES_REPAIRED, note)
        await while_it_runs(events, server.until(lambda: server.written == ["d"]))
        assert (events.series.written, events.series.dropped) == (1, 3)

    run(scene)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "allow create and patch of events" in lines[0]
    assert "422 Invalid" in lines[1]


def test_a_fault_of_ours_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        server = Server(KeyError("ours"))
        events = recorder(server)
        events.record(RULES_REPAIRED, "a")
        events.record(RULES_REPAIRED, "b")
        await while_it_runs(events, server.until(lambda: server.written == ["b"]))

    run(scene)
    assert "An Event cannot be written" in caplog.text


def test_without_a_server_nothing_is_kept() -> None:
    async def scene() -> None:
        events = EventRecorder(ClusterState("node-1"), None, clock=asyncio.get_running_loop().time)
        events.record(STARTING, "first")
        assert events.series.due_at() is None

    run(scene)
