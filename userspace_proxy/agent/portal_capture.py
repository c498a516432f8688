"""Keeps the capture rules of one IP family equal to the wanted portals.

Theory of operation. `want` says which portals there should be; `run` carries that out, one commit a table,
and tells after each commit that it stands. A run that fails is taken again until it succeeds, with back-off;
what was committed before still works. Runs are spaced by how long they take, so that a node with many rules
and many changes spends a tenth of its time on them at most. Every `verify_seconds` the rules are read back,
and as soon as a look every `watch_seconds` shows that somebody has touched the tables.

iptables blocks, so all of it happens in `rules_thread`, which has one thread for all families.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NoReturn, TypeAlias, TypeVar

from userspace_proxy.core.service_port import Frontend, IPFamily, Protocol, ProxyPort
from userspace_proxy.errors import RulesError, UserspaceProxyError
from userspace_proxy.iptables.capture import Capture
from userspace_proxy.iptables.portal_rules import (
    AdoptedPorts,
    CaptureSettings,
    Destination,
    Portal,
    PortalRules,
    read_portals,
)

logger = logging.getLogger(__name__)

Portals: TypeAlias = Mapping[Frontend, Portal]
DeleteStaleUdp: TypeAlias = Callable[[IPFamily, Mapping[Frontend, ProxyPort | None]], int]
"""Deletes UDP conntrack entries of frontends that lead elsewhere than to the port given (None: anywhere).

Returns how many; raises a `UserspaceProxyError` if it cannot."""

_Result = TypeVar("_Result")

_MAX_RETRY_SECONDS: Final = 5.0
_MIN_SPACING_SECONDS: Final = 1.0
_SHARE_OF_TIME: Final = 0.1


class PortalCapture:
    """Owns the rules of one family. `capture` and `delete_stale_udp` are called in `rules_thread` alone.

    A run ends with `on_committed`; the next one waits for it.
    """

    def __init__(
        self,
        *,
        capture: Capture,
        settings: CaptureSettings,
        delete_stale_udp: DeleteStaleUdp,
        rules_thread: ThreadPoolExecutor,
        verify_seconds: float = 30.0,
        watch_seconds: float = 0.5,
    ) -> None:
        self._capture = capture
        self._settings = settings
        self._rules = PortalRules()
        self._delete_stale_udp = delete_stale_udp
        self._rules_thread = rules_thread
        self._verify_seconds = verify_seconds
        self._watch_seconds = watch_seconds
        self.has_committed = False
        self._due = asyncio.Event()
        self._waiting_since: float | None = None
        self._wanted: Portals | None = None
        self._committed: Portals = {}
        self._leads_to: frozenset[tuple[Protocol, ProxyPort]] = frozenset()
        self._may_lead_to: frozenset[tuple[Protocol, ProxyPort]] = frozenset()
        self._committed_addresses = _target_addresses(settings)
        self._stale_udp: dict[Frontend, ProxyPort | None] = {}

    @property
    def family(self) -> IPFamily:
        return self._settings.family

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
                await asyncio.sleep(min(0.1 * 2**failures, _MAX_RETRY_SECONDS))
        adopted = read_portals(installed, self.family)
        self._now_committed({frontend: _as_committed(frontend, ports) for frontend, ports in adopted.items()})
        if adopted:
            logger.info("Rules of an earlier run adopted: portals=%d", len(adopted))
        return adopted

    def want(self, portals: Portals) -> None:
        """Let the rules lead to exactly `portals`. Their listeners must serve already."""
        self._wanted = portals
        self._mark_due()

    def capture_with(self, settings: CaptureSettings) -> None:
        """Capture differently from now on, because the node's interfaces or addresses have changed."""
        if settings != self._settings:
            self._settings = settings
            self._mark_due()

    def is_healthy(self) -> bool:
        """Whether no change has waited for the rules longer than two verification periods."""
        if self._waiting_since is None:
            return True
        waiting = asyncio.get_running_loop().time() - self._waiting_since
        return waiting <= 2 * self._verify_seconds

    def _mark_due(self) -> None:
        if self._waiting_since is None:
            self._waiting_since = asyncio.get_running_loop().time()
        self._due.set()

    async def run(self, on_committed: Callable[[], Awaitable[None]]) -> NoReturn:
        """Carry out what is wanted, for ever; `on_committed` is awaited after each commit."""
        clock = asyncio.get_running_loop().time
        failures = 0
        verify_at = clock() + self._verify_seconds
        while True:
            is_touched = await self._wait_until_due(verify_at - clock())
            if self._wanted is None:
                verify_at = clock() + self._verify_seconds
                continue
            started = clock()
            verify = is_touched or started >= verify_at
            try:
                await self._sync(self._wanted, verify=verify)
            except UserspaceProxyError as error:
                self._mark_due()
                failures += 1
                if failures == 1:
                    logger.error("Rules cannot be installed, trying until they can: %s", error)
                await asyncio.sleep(min(0.1 * 2**failures, _MAX_RETRY_SECONDS))
                continue
            self._waiting_since = clock() if self._due.is_set() else None
            if failures:
                logger.info("Rules can be installed again: failures=%d", failures)
                failures = 0
            if verify:
                verify_at = clock() + self._verify_seconds
            await on_committed()
            await asyncio.sleep(min(_MIN_SPACING_SECONDS, (clock() - started) / _SHARE_OF_TIME))

    async def _wait_until_due(self, seconds: float) -> bool:
        """Wait, `seconds` at most, until something is wanted or (then true) somebody touched the tables."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        is_touched = False
        while not (self._due.is_set() or is_touched) and clock() < until:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self._watch_seconds, until - clock())):
                    await self._due.wait()
            if not self._due.is_set():
                is_touched = await self._in_rules_thread(self._capture.was_touched)
        self._due.clear()
        return is_touched

    async def _sync(self, portals: Portals, *, verify: bool) -> None:
        settings = self._settings
        # A sync that fails may have taken effect all the same, so this stays until one succeeds.
        self._may_lead_to |= _served_ports(portals)
        synced = await self._in_rules_thread(
            lambda: self._capture.sync(self._rules.rule_set(portals.values(), settings), verify=verify)
        )
        if synced.had_drifted:
            logger.warning("Rules of ours were changed by somebody, repaired: rules=%d", synced.rule_count)
        elif synced.changes:
            logger.info(
                "Rules installed: family=%s portals=%d changed_rules=%d",
                self.family.value,
                len(portals),
                synced.rule_count,
            )
        self._stale_udp |= stale_udp_frontends(self._committed, portals)
        if self._committed_addresses != _target_addresses(settings):
            # Entries lead to the old address, whatever their port.
            self._stale_udp |= {f: None for f in portals if f.protocol is Protocol.UDP}
            self._committed_addresses = _target_addresses(settings)
        self._now_committed(portals)
        self.has_committed = True
        if self._stale_udp:
            await self._forget_udp()

    def _now_committed(self, portals: Portals) -> None:
        self._committed = portals
        self._leads_to, self._may_lead_to = _served_ports(portals), frozenset()

    async def _forget_udp(self) -> None:
        """Delete the conntrack entries that lead astray; what fails is tried again at the next sync."""
        stale = dict(self._stale_udp)
        try:
            deleted = await self._in_rules_thread(lambda: self._delete_stale_udp(self.family, stale))
        except UserspaceProxyError as error:
            logger.warning("Stale UDP conntrack entries remain: %s", error)
            return
        self._stale_udp.clear()
        if deleted:
            logger.info("Stale UDP conntrack entries deleted: entries=%d", deleted)

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


def _target_addresses(settings: CaptureSettings) -> tuple[str | None, str | None]:
    """The addresses that captured traffic is sent to."""
    return settings.bind_address, settings.node_address


def stale_udp_frontends(before: Portals, after: Portals) -> dict[Frontend, ProxyPort | None]:
    """The UDP frontends whose conntrack entries may lead astray, and where they should lead (None: nowhere).

    conntrack decides where a UDP flow goes once, when its first datagram comes, so an entry outlives the rule
    that made it: one from before a rule appeared, from before its proxy port changed, from a rule that is
    gone, or from the other side of a flip between refusing and serving.
    """
    stale: dict[Frontend, ProxyPort | None] = {}
    for frontend, portal in after.items():
        old = before.get(frontend)
        if frontend.protocol is not Protocol.UDP:
            continue
        now = _destinations(portal)
        if old is not None and _destinations(old) == now and old.source_ranges == portal.source_ranges:
            continue
        # Entries that lead to the one place where all of it goes now may stay; it may be theirs of before.
        only = now[0] if len(set(now)) == 1 and now[0].refusal is None else None
        was_refused = old is not None and any(place.refusal for place in _destinations(old))
        stays = only is not None and not was_refused and portal.source_ranges is None
        stale[frontend] = only.proxy_port if only is not None and stays else None
    for frontend in before.keys() - after.keys():
        if frontend.protocol is Protocol.UDP:
            stale[frontend] = None
    return stale
