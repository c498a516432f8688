"""Keeps the capture rules of one IP family equal to the wanted portals.

Theory of operation. `want` says which portals there should be; `run` carries that out, one commit a table,
and tells after each commit that it stands. A run that fails is taken again until it succeeds, with back-off;
what was committed before still works. After a run the next change rests for ten times what it took, up to
`max_spacing_seconds`, and for as long as it took if that is more. Every `verify_seconds` the rules are
verified, and, rest or not, as soon as a look every `watch_seconds` shows that somebody else has touched the
tables; where somebody does so all the time, that takes a tenth of it.

iptables blocks, so all of it happens in `rules_thread`, which has one thread for all families.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, NoReturn, TypeVar

from userspace_proxy.agent.repairs import Repairs
from userspace_proxy.agent.stale_conntrack import Portals, StaleConntrack
from userspace_proxy.core.back_off import doubled_seconds
from userspace_proxy.core.event_reasons import RULES_NOT_WRITTEN
from userspace_proxy.core.event_series import RecordEvent, unrecorded
from userspace_proxy.core.service_port import Frontend, IPFamily, Protocol, ProxyPort
from userspace_proxy.core.time_share import TimeShare
from userspace_proxy.errors import RulesError, UserspaceProxyError
from userspace_proxy.iptables.capture import Capture, Synced
from userspace_proxy.iptables.iptables_restore import read_counted
from userspace_proxy.iptables.other_variant import OtherVariant
from userspace_proxy.iptables.portal_rules import (
    AdoptedPorts,
    CaptureSettings,
    Destination,
    Portal,
    PortalRules,
    read_portals,
)
from userspace_proxy.iptables.rules import RuleSet
from userspace_proxy.observability.sync_record import SyncRecord

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_FIRST_RETRY_SECONDS: Final = 0.2
_MAX_RETRY_SECONDS: Final = 1.5
_SHARE_OF_TIME: Final = 0.1
_READINGS_AT_ONCE: Final = 4
"""Deleting our chains one by one is several touches; each is repaired at once."""


class PortalCapture:
    """Owns the rules of one family, and `stale_conntrack`. `capture` is called in `rules_thread` alone.

    A run ends with `on_committed`; the next one waits for it. `may_lead_as_earlier` says whether rules of an
    earlier run may still stand. `local_addresses` are the node's. Rules that `other_variant` finds are named.
    """

    def __init__(
        self,
        *,
        capture: Capture,
        settings: CaptureSettings,
        local_addresses: Collection[str],
        stale_conntrack: StaleConntrack,
        rules_thread: ThreadPoolExecutor,
        other_variant: OtherVariant | None = None,
        verify_seconds: float = 30.0,
        max_spacing_seconds: float = 1.0,
        watch_seconds: float = 0.5,
        record_event: RecordEvent = unrecorded,
    ) -> None:
        self._capture = capture
        self._settings = settings
        self._rules = PortalRules()
        self._local_addresses = frozenset(local_addresses)
        self._stale_conntrack = stale_conntrack
        self._rules_thread = rules_thread
        self._other_variant = other_variant
        self._verify_seconds = verify_seconds
        self._max_spacing_seconds = max_spacing_seconds
        self._watch_seconds = watch_seconds
        self.has_committed = False
        self.may_lead_as_earlier = True
        self.record = SyncRecord()
        self._due = asyncio.Event()
        self._waiting_since: float | None = None
        self._wanted: Portals | None = None
        self._committed: Portals = {}
        self._installed = RuleSet()
        self._committed_settings: CaptureSettings | None = None
        self._leads_to: frozenset[tuple[Protocol, ProxyPort]] = frozenset()
        self._may_lead_to: frozenset[tuple[Protocol, ProxyPort]] = frozenset()
        self._rechecked_for: tuple[tuple[str, ...] | None, frozenset[str]] | None = None
        self._record_event = record_event
        self._repairs = Repairs(settings.family, record_event)
        self._readings = TimeShare(_SHARE_OF_TIME, _READINGS_AT_ONCE)

    @property
    def family(self) -> IPFamily:
        return self._settings.family

    @property
    def written_by(self) -> str:
        """What writes the rules: nft, legacy, or legacy (python-iptables)."""
        return str(self._capture.backend)

    @property
    def installed(self) -> RuleSet:
        """The rules as the last sync left them."""
        return self._installed

    @property
    def settings(self) -> CaptureSettings:
        """How the next sync captures."""
        return self._settings

    @property
    def is_pending(self) -> bool:
        """Whether a change waits for the rules."""
        return self._waiting_since is not None

    async def read_counted(self) -> str:
        """All rules of the family with their counters, for `counted_rules`. Raises `RulesError`."""
        return await self._in_rules_thread(partial(read_counted, self._capture.backend.variant, self.family))

    @property
    def committed(self) -> Portals:
        """The portals that the installed rules make."""
        return self._committed

    def leads_to(self, protocol: Protocol, port: ProxyPort) -> bool:
        """Whether a rule leads to the proxy port, or may lead there once a sync under way is done."""
        return (protocol, port) in self._leads_to or (protocol, port) in self._may_lead_to

    async def adopt(self) -> dict[Frontend, AdoptedPorts]:
        """Where the rules of an earlier run lead. They stay as they are until the first `want`.

        Asks until the kernel answers: not to know would mean to write over what serves.
        """
        failures = 0
        while True:
            try:
                installed = await self._in_rules_thread(self._capture.read)
                break
            except RulesError as error:
                failures += 1
                if failures == 1:
                    logger.error("Rules cannot be read, trying until they can: %s", error)
                    self._record_event(
                        RULES_NOT_WRITTEN, f"{self.family.value} rules cannot be read: {error}"
                    )
                await asyncio.sleep(doubled_seconds(_FIRST_RETRY_SECONDS, failures, _MAX_RETRY_SECONDS))
        adopted = read_portals(installed, self.family)
        self.may_lead_as_earlier = bool(adopted)
        self._now_committed({frontend: _as_committed(frontend, ports) for frontend, ports in adopted.items()})
        if adopted:
            logger.info("Rules of an earlier run adopted: portals=%d", len(adopted))
        return adopted

    def want(self, portals: Portals) -> None:
        """Let the rules lead to exactly `portals`. Their listeners must serve already."""
        self._wanted = portals
        self._mark_due()

    def capture_with(self, settings: CaptureSettings, local_addresses: Collection[str]) -> None:
        """Capture differently from now on, because the node's interfaces or addresses have changed."""
        addresses = frozenset(local_addresses)
        if (settings, addresses) != (self._settings, self._local_addresses):
            self._settings, self._local_addresses = settings, addresses
            self._mark_due()

    def space(self, *, verify_seconds: float, max_spacing_seconds: float) -> None:
        """Verify and rest by these from the next time on."""
        self._verify_seconds, self._max_spacing_seconds = verify_seconds, max_spacing_seconds

    def is_healthy(self) -> bool:
        """Whether no change has waited for the rules longer than two verification periods."""
        if self._waiting_since is None:
            return True
        waiting = asyncio.get_running_loop().time() - self._waiting_since
        return waiting <= 2 * self._verify_seconds

    def _mark_due(self) -> None:
        self.record.last_queued = time.time()
        if self._waiting_since is None:
            self._waiting_since = asyncio.get_running_loop().time()
        self._due.set()

    async def run(self, on_committed: Callable[[], Awaitable[None]]) -> NoReturn:
        """Carry out what is wanted, for ever; `on_committed` is awaited after each commit."""
        try:
            await self._run(on_committed)
        finally:
            self._stale_conntrack.close()

    async def _run(self, on_committed: Callable[[], Awaitable[None]]) -> NoReturn:
        clock = asyncio.get_running_loop().time
        failures = 0
        rested_at = clock()
        look_around_at = clock()
        verify_at = clock() + self._verify_seconds
        while True:
            is_touched = await self._wait_until_due(rested_at, verify_at)
            self._repairs.log(clock())
            if self._wanted is None:
                verify_at = clock() + self._verify_seconds
                continue
            started = clock()
            verify = is_touched or started >= verify_at
            try:
                is_news = await self._sync(self._wanted, verify=verify, is_touched=is_touched)
            except UserspaceProxyError as error:
                self._mark_due()
                self.record.failed(str(error))
                failures += 1
                if failures == 1:
                    logger.error("Rules cannot be installed, trying until they can: %s", error)
                    self._record_event(
                        RULES_NOT_WRITTEN, f"{self.family.value} rules cannot be installed: {error}"
                    )
                await asyncio.sleep(doubled_seconds(_FIRST_RETRY_SECONDS, failures, _MAX_RETRY_SECONDS))
                continue
            self._waiting_since = clock() if self._due.is_set() else None
            if failures:
                logger.info("Rules can be installed again: failures=%d", failures)
                failures = 0
            took = clock() - started
            self.record.synced(took, time.time())
            rested_at = clock() + max(took, min(self._max_spacing_seconds, took / _SHARE_OF_TIME))
            if verify:
                verify_at = clock() + self._verify_seconds
            await self._stale_conntrack.forget(self._committed, self._settings)
            if is_news:
                await on_committed()
            if self._other_variant is not None and clock() >= look_around_at:
                look_around_at = clock() + self._verify_seconds
                if warning := await self._in_rules_thread(self._other_variant.warning):
                    logger.warning(warning)

    async def _wait_until_due(self, rested_at: float, verify_at: float) -> bool:
        """Wait until something wanted has rested, or is to be verified, or (then true) somebody has touched
        the tables. The times are the loop's.
        """
        clock = asyncio.get_running_loop().time
        look_at = clock() + self._watch_seconds
        is_touched = False
        while not is_touched:
            now = clock()
            if now >= verify_at or (now >= rested_at and self._due.is_set()):
                break
            if now >= look_at and now >= self._readings.begins_at:
                is_touched = await self._in_rules_thread(self._capture.was_touched)
                look_at = clock() + self._watch_seconds
                continue
            await self._wait(max(look_at, self._readings.begins_at), verify_at, rested_at)
        self._due.clear()
        return is_touched

    async def _wait(self, look_at: float, verify_at: float, rested_at: float) -> None:
        """Wait until the first of these, or, from `rested_at` on, until something is wanted."""
        until = min(look_at, verify_at)
        if self._due.is_set():
            until = min(until, rested_at)
            await asyncio.sleep(until - asyncio.get_running_loop().time())
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._due.wait()

    async def _sync(self, portals: Portals, *, verify: bool, is_touched: bool) -> bool:
        """Returns whether the rules are others now, or stand for something else."""
        settings, local_addresses = self._settings, self._local_addresses
        is_known = portals is self._committed and settings is self._committed_settings
        is_known &= not self._may_lead_to
        if not is_known:
            # A sync that fails may have taken effect all the same, so this stays until one succeeds.
            self._may_lead_to |= _served_ports(portals)
        synced, rules, seconds = await self._in_rules_thread(
            lambda: self._timed_sync(portals, settings, verify)
        )
        self._installed = rules
        if is_touched:
            self._readings.spend(asyncio.get_running_loop().time(), seconds)
        if synced.had_drifted:
            self._repairs.add(synced)
            self._repairs.log(asyncio.get_running_loop().time())
        elif synced.changes:
            logger.info(
                "Rules installed: family=%s portals=%d changed_rules=%d",
                self.family.value,
                len(portals),
                synced.rule_count,
            )
        node_ports = (settings.nodeport_addresses, local_addresses)
        is_repaired = synced.had_drifted or (is_known and bool(synced.changes))
        if self._rechecked_for != node_ports:
            # The first time too: nobody knows whether an earlier run lived to see to its last rules' entries.
            self._rechecked_for = node_ports
            self._stale_conntrack.recheck_all()
        elif is_repaired:
            self._stale_conntrack.recheck(portals, settings)
        elif is_known:
            return False
        self._stale_conntrack.portals_changed(self._committed, portals, settings)
        self._committed_settings = settings
        self._now_committed(portals)
        self.has_committed = True
        self.may_lead_as_earlier = False
        return True

    def _timed_sync(
        self, portals: Portals, settings: CaptureSettings, verify: bool
    ) -> tuple[Synced, RuleSet, float]:
        """The sync, what it was to install, and the seconds that it took; blocks."""
        began = time.monotonic()
        rules = self._rules.rule_set(portals.values(), settings)
        synced = self._capture.sync(rules, verify=verify)
        self.record.rules = rules.count_by_table()
        return synced, rules, time.monotonic() - began

    def _now_committed(self, portals: Portals) -> None:
        self._committed = portals
        self._leads_to, self._may_lead_to = _served_ports(portals), frozenset()

    async def _in_rules_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._rules_thread, work)


def _as_committed(frontend: Frontend, ports: AdoptedPorts) -> Portal:
    """What an earlier run's rules amount to; a class that they refuse leads where the other does."""
    outside = ports.outside or ports.inside or ProxyPort(0)
    return Portal(frontend, "", Destination(outside), Destination(ports.inside or outside))


def _served_ports(portals: Portals) -> frozenset[tuple[Protocol, ProxyPort]]:
    return frozenset(
        (frontend.protocol, destination.proxy_port)
        for frontend, portal in portals.items()
        for destination in _destinations(portal)
        if destination.refusal is None
    )


def _destinations(portal: Portal) -> tuple[Destination, Destination]:
    return portal.outside, portal.inside
