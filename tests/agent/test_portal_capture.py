"""When rules are committed, again after failures, and which conntrack entries go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from tests.support.recorded_events import RecordedEvents
from tests.support.rules_backend import FakeBackend
from userspace_proxy.agent.portal_capture import PortalCapture
from userspace_proxy.agent.stale_conntrack import Allowed, StaleConntrack
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, ProxyPort
from userspace_proxy.errors import RulesError
from userspace_proxy.iptables.capture import Capture
from userspace_proxy.iptables.chains import Table
from userspace_proxy.iptables.portal_rules import (
    AdoptedPorts,
    CaptureSettings,
    Destination,
    Portal,
    PortalRules,
    Refusal,
)
from userspace_proxy.iptables.rules import RuleSet, as_installed

SETTINGS = CaptureSettings(IPFamily.IPV4, PortRange(11000, 29999), ProxyPort(11000), ProxyPort(11001))


def portal(
    address: str, proxy_port: int, protocol: Protocol = Protocol.UDP, refusal: Refusal | None = None
) -> Portal:
    destination = Destination(ProxyPort(proxy_port), refusal)
    return Portal(Frontend(address, protocol, Port(53)), "default/dns", destination, destination)


def portals(*given: Portal) -> dict[Frontend, Portal]:
    return {portal.frontend: portal for portal in given}


class Fixture:
    def __init__(
        self, backend: FakeBackend, rules_thread: ThreadPoolExecutor, periods: Mapping[str, float]
    ) -> None:
        self.backend = backend
        self.events = RecordedEvents()
        self.deletions_fail = 0
        self.deleted: list[Allowed] = []
        self.whole_passes = 0
        self.committed: asyncio.Queue[None] = asyncio.Queue()
        self.capture = PortalCapture(
            capture=Capture(backend),
            settings=SETTINGS,
            local_addresses=["192.0.2.10"],
            stale_conntrack=StaleConntrack(SETTINGS, self._delete, rules_thread),
            rules_thread=rules_thread,
            verify_seconds=periods.get("verify_seconds", 0.05),
            watch_seconds=periods.get("watch_seconds", 0.5),
            record_event=self.events,
        )

    def _delete(self, family: IPFamily, allowed: Allowed, **settings: Any) -> int:
        if self.deletions_fail:
            self.deletions_fail -= 1
            raise RulesError("the kernel is busy")
        self.deleted.append(allowed)
        self.whole_passes += settings["captured_ports"] == SETTINGS.proxy_ports
        return len(allowed)

    async def _tell(self) -> None:
        self.committed.put_nowait(None)

    async def run(self) -> None:
        await self.capture.run(self._tell)


def with_capture(
    scenario: Callable[[Fixture], Awaitable[None]], installed: RuleSet | None = None, **periods: float
) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as rules_thread:
            fixture = Fixture(FakeBackend(installed), rules_thread, periods)
            job = asyncio.ensure_future(fixture.run())
            try:
                async with asyncio.timeout(10):
                    await scenario(fixture)
            finally:
                job.cancel()
                with suppress(asyncio.CancelledError):
                    await job

    uvloop.run(run())


def test_nothing_is_touched_before_something_is_wanted() -> None:
    async def scenario(fixture: Fixture) -> None:
        earlier = portals(portal("10.96.0.10", 12000))
        assert await fixture.capture.adopt() == dict.fromkeys(
            earlier, AdoptedPorts(ProxyPort(12000), ProxyPort(12000))
        )
        for _ in range(10):  # several verification periods
            await asyncio.sleep(0.01)
        assert fixture.backend.commits == []
        assert fixture.capture.committed.keys() == earlier.keys()

    with_capture(scenario, PortalRules().rule_set([portal("10.96.0.10", 12000)], SETTINGS))


def test_what_an_earlier_run_left_is_adopted_without_a_commit() -> None:
    async def scenario(fixture: Fixture) -> None:
        await fixture.capture.adopt()
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        assert fixture.backend.commits == []

    with_capture(scenario, PortalRules().rule_set([portal("10.96.0.10", 12000)], SETTINGS))


def test_rules_that_cannot_be_read_at_the_start_are_asked_for_again() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.backend.unreadable = 2
        assert set(await fixture.capture.adopt()) == set(portals(portal("10.96.0.10", 12000)))

    with_capture(scenario, PortalRules().rule_set([portal("10.96.0.10", 12000)], SETTINGS))


def test_a_port_is_led_to_from_the_beginning_of_the_sync_that_may_install_it() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.backend.failures = 2
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        while fixture.backend.failures == 2:
            await asyncio.sleep(0.002)
        assert fixture.capture.leads_to(Protocol.UDP, ProxyPort(12000))
        fixture.capture.want({})
        await fixture.committed.get()
        while fixture.capture.leads_to(Protocol.UDP, ProxyPort(12000)):
            await fixture.committed.get()

    with_capture(scenario)


def test_it_is_unhealthy_while_repairs_fail() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        assert fixture.capture.is_healthy()
        fixture.backend.unreadable = 3
        while fixture.capture.is_healthy():
            await asyncio.sleep(0.005)

    with_capture(scenario)


def test_filter_is_committed_before_nat() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        assert fixture.backend.commits == [Table.FILTER, Table.NAT]

    with_capture(scenario)


def test_a_failing_commit_is_tried_until_it_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.backend.failures = 3
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        assert fixture.backend.commits == [Table.FILTER, Table.NAT]
        assert fixture.events.said == ["FailedToWriteRules"]

    with_capture(scenario)
    said = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert said == ["Rules cannot be installed, trying until they can: the table is locked by somebody else"]


def test_it_is_unhealthy_while_a_change_waits_too_long() -> None:
    async def scenario(fixture: Fixture) -> None:
        assert fixture.capture.is_healthy()
        fixture.backend.failures = 3
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        while fixture.capture.is_healthy():
            await asyncio.sleep(0.005)
        await fixture.committed.get()
        assert fixture.capture.is_healthy()

    with_capture(scenario)


def test_rules_that_somebody_removed_come_back() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        fixture.backend.commits.clear()
        fixture.backend.installed = as_installed(RuleSet())
        await fixture.committed.get()
        await fixture.committed.get()
        assert Table.NAT in fixture.backend.commits

    with_capture(scenario)


def test_rules_that_somebody_touched_are_read_back_at_once() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        fixture.backend.commits.clear()
        fixture.backend.installed = as_installed(RuleSet())
        fixture.backend.touched += 1
        await fixture.committed.get()
        assert Table.NAT in fixture.backend.commits

    with_capture(scenario, verify_seconds=3600, watch_seconds=0.01)


def test_a_node_that_changes_all_the_time_is_verified_too() -> None:
    async def scenario(fixture: Fixture) -> None:
        reads = fixture.backend.reads
        for number in range(200):
            fixture.capture.want(portals(portal("10.96.0.10", 12000 + number)))
            await fixture.committed.get()
            if fixture.backend.reads >= reads + 3:
                return
        pytest.fail("the rules were never read back")

    with_capture(scenario)


def test_conntrack_entries_that_could_not_be_deleted_are_tried_again() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.deletions_fail = 1
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        assert fixture.deleted == []
        fixture.capture.want(portals(portal("10.96.0.10", 12000), portal("10.96.0.20", 12001)))
        await fixture.committed.get()
        assert [sorted(frontend.address for frontend in stale) for stale in fixture.deleted] == [
            ["10.96.0.10", "10.96.0.20"]
        ]

    with_capture(scenario, verify_seconds=3600)


@pytest.mark.parametrize(
    ("settings", "addresses"),
    [
        pytest.param(SETTINGS, ["192.0.2.10", "192.0.2.77"], id="the node has another address"),
        pytest.param(replace(SETTINGS, nodeport_addresses=()), ["192.0.2.10"], id="NodePorts are elsewhere"),
    ],
)
def test_all_entries_are_looked_through_when(settings: CaptureSettings, addresses: list[str]) -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        assert fixture.whole_passes == 1  # the first time; see below
        fixture.capture.capture_with(SETTINGS, ["192.0.2.10"])
        fixture.capture.capture_with(settings, addresses)
        await fixture.committed.get()
        assert [[*allowed.values()] for allowed in fixture.deleted] == [[{12000}], [{12000}]]
        assert fixture.whole_passes == 2

    with_capture(scenario, verify_seconds=3600)


def test_all_entries_are_looked_through_after_the_first_sync_of_a_run() -> None:
    """An earlier run may have ended between its rules and their entries, however right the rules are."""

    async def scenario(fixture: Fixture) -> None:
        await fixture.capture.adopt()
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        assert [[*allowed.values()] for allowed in fixture.deleted] == [[{12000}]]
        assert fixture.whole_passes == 1
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        assert fixture.whole_passes == 1

    with_capture(scenario, PortalRules().rule_set([portal("10.96.0.10", 12000)], SETTINGS))


def test_entries_of_all_frontends_are_looked_for_after_a_repair() -> None:
    """Clients who came while rules were gone have entries that lead past ours."""

    async def scenario(fixture: Fixture) -> None:
        wanted = portals(portal("10.96.0.10", 12000))
        fixture.backend.installed = as_installed(PortalRules().rule_set(wanted.values(), SETTINGS))
        fixture.capture.want(wanted)
        await fixture.committed.get()
        fixture.deleted.clear()
        fixture.backend.installed = as_installed(RuleSet())
        fixture.backend.touched += 1
        await fixture.committed.get()
        assert [[*allowed.values()] for allowed in fixture.deleted] == [[{12000}]]
        assert fixture.whole_passes == 1  # the first time

    with_capture(scenario, verify_seconds=3600, watch_seconds=0.01)


def test_what_somebody_does_during_the_rest_after_a_change_is_repaired_at_once() -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.backend.read_seconds = 0.3  # the first change is followed by a rest of a second
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        rested_at = asyncio.get_running_loop().time() + 1.0
        fixture.backend.commits.clear()
        fixture.backend.read_seconds = 0.0
        fixture.backend.installed = as_installed(RuleSet())
        fixture.backend.touched += 1
        fixture.capture.want(portals(portal("10.96.0.10", 12001)))
        await fixture.committed.get()
        assert Table.NAT in fixture.backend.commits
        assert asyncio.get_running_loop().time() < rested_at

    with_capture(scenario, verify_seconds=3600, watch_seconds=0.01)


def test_a_verification_that_finds_nothing_is_not_told() -> None:
    async def scenario(fixture: Fixture) -> None:
        wanted = portals(portal("10.96.0.10", 12000))
        fixture.backend.installed = as_installed(PortalRules().rule_set(wanted.values(), SETTINGS))
        fixture.capture.want(wanted)
        await fixture.committed.get()
        reads = fixture.backend.reads
        while fixture.backend.reads < reads + 3:
            await asyncio.sleep(0.01)
        assert fixture.committed.empty()

    with_capture(scenario)


def test_where_somebody_touches_the_tables_all_the_time_readings_are_spaced_by_their_cost() -> None:
    """Four follow each other at once, as they do when somebody deletes our chains one by one."""

    async def scenario(fixture: Fixture) -> None:
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        fixture.backend.read_seconds = 0.02
        fixture.backend.touch_when_read = True
        fixture.backend.touched += 1
        started = asyncio.get_running_loop().time()
        reads = fixture.backend.reads
        for _ in range(4 + 2):
            await fixture.committed.get()
        assert fixture.backend.reads == reads + 4 + 2
        assert asyncio.get_running_loop().time() - started >= 2 * 0.15

    with_capture(scenario, verify_seconds=3600, watch_seconds=0.005)


def test_a_repair_is_told_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(fixture: Fixture) -> None:
        fixture.capture.want(portals(portal("10.96.0.10", 12000)))
        await fixture.committed.get()
        for _ in range(3):
            fixture.backend.installed = as_installed(RuleSet())
            fixture.backend.touched += 1
            await fixture.committed.get()

    with_capture(scenario, verify_seconds=3600, watch_seconds=0.01)
    [said] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == (
        "Rules of ours were changed by somebody, repaired: family=IPv4 repairs=1 rules=14 chains=9 "
        "such_as=filter/KUBE-PORTALS-GUARD,filter/INPUT,filter/OUTPUT"
    )
