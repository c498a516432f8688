"""Which conntrack entries may lead astray, and what becomes of those that cannot be deleted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop

from userspace_proxy.agent.stale_conntrack import Allowed, StaleConntrack, stale_frontends
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, ProxyPort
from userspace_proxy.errors import UserspaceProxyError
from userspace_proxy.iptables.portal_rules import CaptureSettings, Destination, Portal, Refusal

REFUSING, SILENT, PORT, OTHER = ProxyPort(11000), ProxyPort(11001), ProxyPort(12000), ProxyPort(12001)
SETTINGS = CaptureSettings(
    IPFamily.IPV4,
    PortRange(11000, 29999),
    REFUSING,
    SILENT,
    bind_address="192.0.2.10",
    nodeport_addresses=("192.0.2.0/24",),
)
TCP = Protocol.TCP
REJECT, DROP = Refusal.REJECT, Refusal.DROP


def portal(
    outside: ProxyPort | Refusal,
    inside: ProxyPort | Refusal | None = None,
    *,
    host: int = 1,
    protocol: Protocol = Protocol.UDP,
    source_ranges: tuple[str, ...] | None = None,
) -> Portal:
    first, second = (
        Destination(PORT, place) if isinstance(place, Refusal) else Destination(place)
        for place in (outside, outside if inside is None else inside)
    )
    return Portal(Frontend(f"10.96.0.{host}", protocol, Port(53)), "", first, second, source_ranges)


def portals(*given: Portal) -> dict[Frontend, Portal]:
    return {portal.frontend: portal for portal in given}


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        pytest.param([], [portal(PORT)], {PORT}, id="its rule appears"),
        pytest.param([portal(OTHER)], [portal(PORT)], {PORT}, id="its port changes"),
        pytest.param([portal(PORT)], [], set(), id="it goes"),
        pytest.param([portal(PORT)], [portal(REJECT)], {REFUSING}, id="it refuses now"),
        pytest.param([portal(PORT)], [portal(DROP)], {SILENT}, id="it is silent now"),
        pytest.param([portal(REJECT)], [portal(PORT)], {PORT}, id="it serves again"),
        pytest.param([portal(PORT)], [portal(PORT, OTHER)], set(), id="classes go apart"),
        pytest.param([portal(PORT)], [portal(PORT, source_ranges=("::/0",))], set(), id="it is limited now"),
    ],
)
def test_entries_may_lead_astray_when(
    before: list[Portal], after: list[Portal], allowed: set[ProxyPort]
) -> None:
    frontend = portal(PORT).frontend
    assert stale_frontends(portals(*before), portals(*after), SETTINGS) == {frontend: allowed}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([portal(PORT)], [portal(PORT)], id="nothing changes"),
        pytest.param([portal(PORT, protocol=TCP)], [portal(PORT, protocol=TCP)], id="nor for TCP"),
        pytest.param([portal(PORT, protocol=TCP)], [], id="TCP goes, which is refused where it was led"),
    ],
)
def test_entries_stay_when(before: list[Portal], after: list[Portal]) -> None:
    assert stale_frontends(portals(*before), portals(*after), SETTINGS) == {}


def test_a_tcp_client_may_have_been_led_to_either_class_before_anybody_replied() -> None:
    before, after = portals(portal(PORT, protocol=TCP)), portals(portal(PORT, OTHER, protocol=TCP))
    [frontend] = after
    for known in ({}, before):
        assert stale_frontends(known, after, SETTINGS) == {frontend: {PORT, OTHER}}


class Conntrack:
    """Remembers what it was asked to delete; refuses, or takes its time, if told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[Frontend, Collection[ProxyPort]], bool]] = []
        self.refuses = False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def delete(self, family: IPFamily, allowed: Allowed, **settings: Any) -> int:
        assert settings["bind_address"] == SETTINGS.bind_address
        assert settings["node_port_networks"] == SETTINGS.nodeport_addresses
        assert self.may_answer.wait(10)
        if self.refuses:
            raise UserspaceProxyError("the kernel is busy")
        self.asked.append((dict(allowed), settings["captured_ports"] is not None))
        return 0


def with_stale_conntrack(scenario: Callable[[StaleConntrack, Conntrack], Awaitable[None]]) -> None:
    async def run() -> None:
        conntrack = Conntrack()
        with ThreadPoolExecutor(1) as thread:
            stale = StaleConntrack(SETTINGS, conntrack.delete, thread, max_frontends=3, patience_seconds=0.01)
            try:
                await scenario(stale, conntrack)
            finally:
                conntrack.may_answer.set()
                stale.close()

    uvloop.run(run())


async def finish(stale: StaleConntrack, committed: dict[Frontend, Portal]) -> None:
    while stale._forgetting is not None or stale._is_anything_due():
        await stale.forget(committed, SETTINGS)


def test_nothing_is_asked_when_nothing_has_changed() -> None:
    async def scenario(stale: StaleConntrack, conntrack: Conntrack) -> None:
        await stale.forget(portals(portal(PORT)), SETTINGS)
        assert conntrack.asked == []

    with_stale_conntrack(scenario)


def test_a_recheck_is_of_everything_and_lets_stay_what_may_be_right() -> None:
    async def scenario(stale: StaleConntrack, conntrack: Conntrack) -> None:
        tcp = portal(PORT, host=9, protocol=TCP)
        split, limited = portal(PORT, OTHER), portal(PORT, host=2, source_ranges=())
        stale.recheck_all()
        await finish(stale, portals(split, limited, tcp))
        expected = {split.frontend: {PORT, OTHER}, limited.frontend: {PORT, SILENT}, tcp.frontend: {PORT}}
        assert conntrack.asked == [(expected, True)]

    with_stale_conntrack(scenario)


def test_a_recheck_of_frontends_asks_for_theirs_alone_unless_they_are_many() -> None:
    async def scenario(stale: StaleConntrack, conntrack: Conntrack) -> None:
        tcp, split = portal(PORT, host=9, protocol=TCP), portal(PORT, OTHER)
        stale.recheck(portals(split, tcp), SETTINGS)
        await finish(stale, portals(split, tcp))
        assert conntrack.asked == [({split.frontend: {PORT, OTHER}, tcp.frontend: {PORT}}, False)]
        many = portals(*(portal(PORT, host=host) for host in range(1, 5)))
        stale.recheck(many, SETTINGS)
        await finish(stale, many)
        assert conntrack.asked[1:] == [({frontend: {PORT} for frontend in many}, True)]

    with_stale_conntrack(scenario)


def test_that_the_kernel_refuses_is_said_once_until_it_does_not(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(stale: StaleConntrack, conntrack: Conntrack) -> None:
        for _ in range(2):
            conntrack.refuses = True
            stale.recheck_all()
            for _ in range(3):
                await stale.forget({}, SETTINGS)
                while stale._forgetting is not None:
                    await stale.forget({}, SETTINGS)
            conntrack.refuses = False
            await finish(stale, {})

    with_stale_conntrack(scenario)
    assert [text for text in caplog.messages if "remain" in text] == [
        "Stale conntrack entries remain, trying until they go: the kernel is busy"
    ] * 2


def test_what_was_refused_is_asked_again_with_what_has_come_since() -> None:
    async def scenario(stale: StaleConntrack, conntrack: Conntrack) -> None:
        conntrack.refuses = True
        first, second = portal(PORT, host=1), portal(PORT, host=2)
        stale.portals_changed({}, portals(first), SETTINGS)
        await stale.forget(portals(first), SETTINGS)
        while stale._forgetting is not None:
            await stale.forget(portals(first), SETTINGS)
        conntrack.refuses = False
        stale.portals_changed(portals(first), portals(first, second), SETTINGS)
        await finish(stale, portals(first, second))
        assert conntrack.asked == [({first.frontend: {PORT}, second.frontend: {PORT}}, False)]

    with_stale_conntrack(scenario)


def test_a_table_that_is_long_to_read_does_not_hold_the_rules_up() -> None:
    async def scenario(stale: StaleConntrack, conntrack: Conntrack) -> None:
        conntrack.may_answer.clear()
        first, second = portal(PORT, host=1), portal(PORT, host=2)
        stale.portals_changed({}, portals(first), SETTINGS)
        await stale.forget(portals(first), SETTINGS)  # comes back although nothing is deleted yet
        stale.portals_changed(portals(first), portals(first, second), SETTINGS)
        await stale.forget(portals(first, second), SETTINGS)
        assert conntrack.asked == []
        conntrack.may_answer.set()
        await finish(stale, portals(first, second))
        assert conntrack.asked == [({first.frontend: {PORT}}, False), ({second.frontend: {PORT}}, False)]

    with_stale_conntrack(scenario)


def test_what_comes_after_a_long_reading_has_ended_is_asked_at_once() -> None:
    async def scenario(stale: StaleConntrack, conntrack: Conntrack) -> None:
        conntrack.may_answer.clear()
        first, second = portal(PORT, host=1), portal(PORT, host=2)
        stale.portals_changed({}, portals(first), SETTINGS)
        await stale.forget(portals(first), SETTINGS)
        conntrack.may_answer.set()
        assert stale._forgetting is not None
        await asyncio.wait([stale._forgetting])
        stale.portals_changed(portals(first), portals(first, second), SETTINGS)
        await stale.forget(portals(first, second), SETTINGS)
        assert stale._forgetting is not None or not stale._is_anything_due()

    with_stale_conntrack(scenario)


def test_when_too_many_wait_every_entry_goes_but_what_tcp_clients_are_led_by() -> None:
    async def scenario(stale: StaleConntrack, conntrack: Conntrack) -> None:
        conntrack.refuses = True
        many = [portal(PORT, host=host, protocol=TCP if host == 2 else Protocol.UDP) for host in range(1, 5)]
        for number in range(4):
            stale.portals_changed(portals(*many[:number]), portals(*many[: number + 1]), SETTINGS)
            await stale.forget(portals(*many[: number + 1]), SETTINGS)
        stale.portals_changed(portals(*many), portals(*many[:2]), SETTINGS)
        assert len(stale._waiting) <= 3
        conntrack.refuses = False
        await finish(stale, portals(*many[:2]))
        [(allowed, is_everything)] = conntrack.asked
        assert is_everything
        assert allowed[many[0].frontend] == frozenset()
        assert allowed[many[1].frontend] == {PORT}

    with_stale_conntrack(scenario)
