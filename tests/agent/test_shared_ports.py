"""Processes of the node that listen where a Service is reached."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

import pytest

from tests.support.recorded_events import RecordedEvents
from userspace_proxy.agent.shared_ports import SharedPorts
from userspace_proxy.core.service_port import Frontend, Port, Protocol, ProxyPort
from userspace_proxy.iptables.portal_rules import Destination, Portal


def portals_at(*frontends: Frontend) -> dict[Frontend, Portal]:
    to = Destination(ProxyPort(11000))
    return {frontend: Portal(frontend, "default/web", to, to) for frontend in frontends}


NODE_PORT = Frontend("0.0.0.0", Protocol.TCP, Port(30080))
EXTERNAL = Frontend("192.0.2.1", Protocol.UDP, Port(53))
ELSEWHERE = Frontend("10.96.0.10", Protocol.TCP, Port(30080))
LISTENS = {(Protocol.TCP, 30080), (Protocol.UDP, 53)}


class Node:
    """Where its processes listen, and how often that was asked."""

    def __init__(self) -> None:
        self.listening: Collection[tuple[Protocol, int]] = ()
        self.looks = 0
        self.events = RecordedEvents()
        self.failures = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def look(self) -> Collection[tuple[Protocol, int]]:
        self.may_answer.wait(10)
        self.looks += 1
        if self.failures:
            self.failures -= 1
            raise ValueError("a line that nobody expected")
        return self.listening

    async def until_looked_again(self, times: int = 2) -> None:
        """Twice: a look that is under way does not count."""
        seen = self.looks
        async with asyncio.timeout(10):
            while self.looks < seen + times:
                await asyncio.sleep(0.001)


def watching(scenario: Callable[[SharedPorts, Node], Awaitable[None]], look_seconds: float = 0.001) -> None:
    async def run() -> None:
        node = Node()
        shared = SharedPorts(
            node.look, look_seconds=look_seconds, spacing_seconds=0.0, record_event=node.events
        )
        job = asyncio.ensure_future(shared.run())
        try:
            await scenario(shared, node)
        finally:
            node.may_answer.set()
            job.cancel()
            with suppress(asyncio.CancelledError):
                await job

    asyncio.run(run())


def named(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.message.partition("frontend=")[2]
        for record in caplog.records
        if "listens where" in record.message
    ]


def test_each_address_of_the_node_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(shared: SharedPorts, node: Node) -> None:
        node.listening = LISTENS
        shared.look_at(portals_at(NODE_PORT, EXTERNAL, ELSEWHERE), {"192.0.2.1"})
        await node.until_looked_again(5)
        assert node.events.said == ["PortShared of Service default/web"] * 2
        assert node.events.notes[0].startswith("A process of the node listens at 0.0.0.0:30080/TCP")

    watching(scenario)
    assert named(caplog) == [
        "0.0.0.0:30080/TCP service_port=default/web",
        "192.0.2.1:53/UDP service_port=default/web",
    ]


def test_a_process_that_comes_later_is_named_and_again_when_it_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(shared: SharedPorts, node: Node) -> None:
        shared.look_at(portals_at(NODE_PORT), ())
        for times in (1, 2):
            node.listening = ()
            await node.until_looked_again()
            assert len(named(caplog)) == times - 1
            node.listening = LISTENS
            await node.until_looked_again()
            assert len(named(caplog)) == times

    watching(scenario)


def test_a_new_frontend_is_looked_at_before_the_next_look_is_due(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(shared: SharedPorts, node: Node) -> None:
        node.listening = LISTENS
        shared.look_at(portals_at(NODE_PORT), ())
        async with asyncio.timeout(10):
            while len(named(caplog)) < 1:
                await asyncio.sleep(0.001)
            shared.look_at(portals_at(NODE_PORT, EXTERNAL), {"192.0.2.1"})
            while len(named(caplog)) < 2:
                await asyncio.sleep(0.001)

    watching(scenario, look_seconds=3600.0)


def test_where_no_service_has_an_address_of_the_node_nobody_looks() -> None:
    async def scenario(shared: SharedPorts, node: Node) -> None:
        shared.look_at(portals_at(ELSEWHERE), {"192.0.2.1"})
        await asyncio.sleep(0.05)
        assert node.looks == 0

    watching(scenario)


def test_a_look_that_fails_is_logged_and_the_next_one_taken(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(shared: SharedPorts, node: Node) -> None:
        node.listening, node.failures = LISTENS, 1
        shared.look_at(portals_at(NODE_PORT), ())
        await node.until_looked_again()

    watching(scenario)
    assert [record.message for record in caplog.records if record.exc_info] == [
        "The ports on which processes of this node listen cannot be seen"
    ]
    assert len(named(caplog)) == 1
