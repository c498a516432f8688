"""Opening listeners when there is no room for all of them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random

import pytest

from tests.support.objects import service
from tests.support.recorded_events import RecordedEvents
from userspace_proxy.agent.listeners import Listeners
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.objects import Kind, Listed, Service
from userspace_proxy.core.port_claims import PortRange, ProxyPortClaims
from userspace_proxy.core.proxy_plan import ProxyPlan
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.dataplane.listening_sockets import ListeningSockets
from userspace_proxy.errors import StartupError


def services(count: int) -> list[Service]:
    return [service(f"web-{n}", at=f"10.96.{n // 250}.{n % 250 + 1}") for n in range(count)]


class Fixture:
    """`ports` of the range, and a plan of `count` Services."""

    def __init__(self, count: int, ports: PortRange, max_descriptors: int) -> None:
        self.plan = ProxyPlan(frozenset({IPFamily.IPV4}))
        self.sockets = ListeningSockets(ProxyPortClaims(ports), {IPFamily.IPV4: "127.0.0.1"}, Random(1))
        self.events = RecordedEvents()
        self.listeners = Listeners(self.plan, self.sockets, max_descriptors, self.events)
        self._state = ClusterState("node-1")
        self.want(count)

    def want(self, count: int) -> None:
        self._state.apply(Listed(Kind.SERVICE, tuple(services(count))), lambda key: "")
        self.plan.update(self._state, sorted(self._state.take_dirty()))

    async def open_all(self) -> int:
        return len(await self.listeners.open(self.plan.service_ports.values()))


@contextmanager
def room(count: int, ports: PortRange, max_descriptors: int = 10_000) -> Iterator[Fixture]:
    fixture = Fixture(count, ports, max_descriptors)
    try:
        yield fixture
    finally:
        fixture.sockets.close_all()


@pytest.mark.parametrize(
    ("ports", "max_descriptors", "sentence"),
    [
        (
            PortRange(12100, 12108),
            10_000,
            "10 TCP listeners are needed, but the proxy ports 12100-12108 have room for only 9: "
            "widen --proxy-port-range",
        ),
        (PortRange(12100, 12199), 521, "10 listeners are needed, and 512 descriptors beside them"),
    ],
)
def test_what_can_never_fit_is_said_with_what_to_do(
    ports: PortRange, max_descriptors: int, sentence: str
) -> None:
    with room(10, ports, max_descriptors) as fixture, pytest.raises(StartupError, match=sentence):
        fixture.listeners.require_room()


def test_what_just_fits_is_no_error() -> None:
    with room(10, PortRange(12100, 12109), 522) as fixture:
        fixture.listeners.require_room()


def test_ports_that_are_kept_for_listeners_of_an_earlier_run_count_as_room() -> None:
    with room(10, PortRange(12100, 12109)) as fixture:
        fixture.sockets.reserve_port("refusing", {})
        fixture.sockets.keep_ports([])
        with pytest.raises(StartupError, match="room for only 9"):
            fixture.listeners.require_room()


def test_the_loop_has_its_turn_while_thousands_fail() -> None:
    async def scenario(fixture: Fixture) -> None:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.ensure_future(count_turns())
        assert await fixture.open_all() == 10
        first, turns = turns, 0
        assert await fixture.listeners.retry() == set()
        counting.cancel()
        assert min(first, turns) >= 10

    with room(3000, PortRange(12100, 12109)) as fixture:
        asyncio.run(scenario(fixture))


def test_thousands_that_fail_are_named_by_a_few_and_a_number_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(fixture: Fixture) -> None:
        await fixture.open_all()
        await fixture.listeners.retry()
        await fixture.open_all()

    with room(3000, PortRange(12100, 12109)) as fixture:
        asyncio.run(scenario(fixture))
    said = [record.message for record in caplog.records]
    assert len(said) == 21
    assert said[0].endswith("reason=no proxy port is free in 12100-12109: widen --proxy-port-range")
    assert said[-1] == "Listeners not opened: more=2970"


def test_what_is_not_wanted_any_more_is_not_tried_again() -> None:
    async def scenario(fixture: Fixture) -> None:
        await fixture.open_all()
        assert fixture.listeners.has_unopened
        fixture.want(8)
        assert await fixture.listeners.retry() == set()
        assert not fixture.listeners.has_unopened

    with room(12, PortRange(12100, 12109)) as fixture:
        asyncio.run(scenario(fixture))


def test_a_stranger_that_leaves_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scenario(fixture: Fixture, strangers: ExitStack) -> None:
        assert await fixture.open_all() == 2
        assert await fixture.listeners.retry() == set()
        [said] = fixture.events.said
        assert said.startswith("FailedToOpenListener of Service default/")
        strangers.close()
        assert len(await fixture.listeners.retry()) == 1
        assert not fixture.listeners.has_unopened

    with room(3, PortRange(12100, 12102)) as fixture, ExitStack() as strangers:
        strangers.enter_context(socket.create_server(("127.0.0.1", 12101)))
        asyncio.run(scenario(fixture, strangers))
    assert caplog.messages[-1] == "Listeners opened after all: service_ports=1 not_opened=0"
