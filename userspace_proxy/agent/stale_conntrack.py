"""Which conntrack entries may lead astray, and having them deleted.

conntrack decides where a UDP flow goes once, when its first datagram comes, so an entry outlives the rule
that made it: one from before a rule appeared, from before its proxy port changed, from a rule that is gone,
from the other side of a flip between refusing and serving, or from a time in which nobody looked: before this
agent, or while rules of ours were deleted by somebody. Entries that lead to the right place stay:
without its entry, an answer that is under way to a client would leave with the wrong source.

The same holds for a TCP connection until somebody replies to its SYN, if the rule came later than that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Final, Protocol, TypeAlias

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Frontend, IPFamily, ProxyPort
from userspace_proxy.core.service_port import Protocol as TransportProtocol
from userspace_proxy.errors import UserspaceProxyError
from userspace_proxy.iptables.portal_rules import CaptureSettings, Destination, Portal

logger = logging.getLogger(__name__)

Portals: TypeAlias = Mapping[Frontend, Portal]
Allowed: TypeAlias = Mapping[Frontend, Collection[ProxyPort]]
"""Frontends, and the proxy ports to which their entries may lead; none: no entry may stay."""

_NONE: Final[frozenset[ProxyPort]] = frozenset()


class DeleteStaleEntries(Protocol):
    """`userspace_proxy.netlink.conntrack.delete_stale_entries`, which blocks and may raise."""

    def __call__(
        self,
        family: IPFamily,
        allowed: Allowed,
        *,
        bind_address: str | None = None,
        captured_ports: PortRange | None = None,
        node_port_networks: Collection[str] | None = None,
    ) -> int: ...


class StaleConntrack:
    """The frontends of one family whose entries are to be looked through. `delete` blocks `netlink_thread`.

    What cannot be deleted waits for the next `forget`. Of more than `max_frontends` that wait none is
    remembered: then all entries go that have to do with us.
    """

    def __init__(
        self,
        settings: CaptureSettings,
        delete: DeleteStaleEntries,
        netlink_thread: Executor,
        *,
        max_frontends: int = 10_000,
        patience_seconds: float = 1.0,
    ) -> None:
        self._settings = settings
        self._committed: Portals = {}
        self._delete = delete
        self._netlink_thread = netlink_thread
        self._max_frontends = max_frontends
        self._patience_seconds = patience_seconds
        self._waiting: dict[Frontend, Collection[ProxyPort]] = {}
        self._recheck_all = False
        self._forget_all = False
        self._is_refused = False
        self._forgetting: asyncio.Task[None] | None = None

    def portals_changed(self, before: Portals, after: Portals, settings: CaptureSettings) -> None:
        """Entries of the frontends that differ may lead astray."""
        self._waiting |= stale_frontends(before, after, settings)
        if len(self._waiting) > self._max_frontends:
            self._forget_too_many()

    def recheck(self, portals: Portals, settings: CaptureSettings) -> None:
        """Entries of all frontends may lead astray: these were not captured for a while.

        To ask for those of a few frontends is cheap; to look through all of UDP may take a second.
        """
        concerned = {frontend: _ports_of(portal, settings) for frontend, portal in portals.items()}
        if len(concerned) > self._max_frontends:
            self.recheck_all()
        else:
            self._waiting = concerned | self._waiting

    def recheck_all(self) -> None:
        """Any entry may lead astray: nobody looked for a while, or the node has other addresses now."""
        self._recheck_all = True

    def _forget_too_many(self) -> None:
        self._forget_all = True
        self._waiting.clear()

    async def forget(self, committed: Portals, settings: CaptureSettings) -> None:
        """Have entries deleted, now that the rules are these. Waits for it, but not for long."""
        self._committed, self._settings = committed, settings
        self._take_result()  # of a deletion that ended since then; what waits now is not part of it
        if self._forgetting is None:
            if not self._is_anything_due():
                return
            self._forgetting = asyncio.create_task(self._forget())
        await asyncio.wait([self._forgetting], timeout=self._patience_seconds)
        self._take_result()

    def _take_result(self) -> None:
        if self._forgetting is not None and self._forgetting.done():
            finished, self._forgetting = self._forgetting, None
            finished.result()

    def close(self) -> None:
        """Give up what is under way."""
        if self._forgetting is not None:
            self._forgetting.cancel()

    def _is_anything_due(self) -> bool:
        return bool(self._waiting) or self._recheck_all or self._forget_all

    async def _forget(self) -> None:
        """Delete entries until none is due; what fails waits again, with what has come since then."""
        loop = asyncio.get_running_loop()
        while self._is_anything_due():
            waiting, rechecks, forgets = self._waiting, self._recheck_all, self._forget_all
            self._waiting, self._recheck_all, self._forget_all = {}, False, False
            delete = self._deletion(waiting, rechecks, forgets)
            try:
                deleted = await loop.run_in_executor(self._netlink_thread, delete)
            except UserspaceProxyError as error:
                if not self._is_refused:
                    logger.warning("Stale conntrack entries remain, trying until they go: %s", error)
                self._is_refused = True
                self._recheck_all |= rechecks
                self._waiting = waiting | self._waiting
                if forgets or len(self._waiting) > self._max_frontends:
                    self._forget_too_many()
                return
            self._is_refused = False
            if deleted:
                logger.info("Stale conntrack entries deleted: entries=%d", deleted)

    def _deletion(
        self, waiting: dict[Frontend, Collection[ProxyPort]], rechecks: bool, forgets: bool
    ) -> Callable[[], int]:
        settings = self._settings
        allowed, captured_ports = waiting, None
        if rechecks or forgets:
            captured_ports = settings.proxy_ports
            allowed = {
                frontend: _NONE if forgets and _is_udp(frontend) else _ports_of(portal, settings)
                for frontend, portal in self._committed.items()
            }
            allowed |= waiting
        return partial(
            self._delete,
            settings.family,
            allowed,
            bind_address=settings.bind_address,
            captured_ports=captured_ports,
            node_port_networks=settings.nodeport_addresses,
        )


def stale_frontends(
    before: Portals, after: Portals, settings: CaptureSettings
) -> dict[Frontend, Collection[ProxyPort]]:
    """The frontends that differ, and where their entries may lead.

    Of a UDP frontend that leads clients to several places none may stay: who belongs where is for the rules.
    What TCP clients were led to any of these is about to be replied to. A TCP frontend that is gone keeps its
    entries: they lead to a port that refuses.
    """
    stale: dict[Frontend, Collection[ProxyPort]] = {}
    for frontend, portal in after.items():
        old = before.get(frontend)
        if old is not None and _places(old) == _places(portal) and old.source_ranges == portal.source_ranges:
            continue
        ports = _ports_of(portal, settings)
        stale[frontend] = _NONE if _is_udp(frontend) and len(ports) > 1 else ports
    stale |= {frontend: _NONE for frontend in before.keys() - after.keys() if _is_udp(frontend)}
    return stale


def _is_udp(frontend: Frontend) -> bool:
    return frontend.protocol is TransportProtocol.UDP


def _places(portal: Portal) -> tuple[Destination, Destination]:
    return portal.outside, portal.inside


def _ports_of(portal: Portal, settings: CaptureSettings) -> frozenset[ProxyPort]:
    """Where rules for the portal may lead a client."""
    ports = {settings.port_of(place) for place in _places(portal)}
    return frozenset(ports if portal.source_ranges is None else {*ports, settings.silent_port})
