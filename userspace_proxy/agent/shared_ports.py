"""Names addresses of the node at which a Service is reached and a process of the node listens as well."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import NoReturn

from userspace_proxy.core.event_reasons import PORT_SHARED
from userspace_proxy.core.event_series import RecordEvent, service_id, unrecorded
from userspace_proxy.core.service_port import EVERY_LOCAL_ADDRESS, Frontend, Protocol, ServiceName
from userspace_proxy.iptables.portal_rules import Portal

logger = logging.getLogger(__name__)


class SharedPorts:
    """Warns of each such frontend once, and again if the process went and came back.

    `listening_ports` says, in a thread, where processes listen. That reads every socket of the node, so it is
    asked when a frontend is new and every `look_seconds`, `spacing_seconds` apart at least. A look that fails
    is logged and the next one taken, because nothing but a warning depends on it.
    """

    def __init__(
        self,
        listening_ports: Callable[[], Collection[tuple[Protocol, int]]],
        *,
        look_seconds: float = 60.0,
        spacing_seconds: float = 5.0,
        record_event: RecordEvent = unrecorded,
    ) -> None:
        self._record_event = record_event
        self._listening_ports = listening_ports
        self._look_seconds = look_seconds
        self._spacing_seconds = spacing_seconds
        self._here: dict[Frontend, Portal] = {}
        self._has_new = asyncio.Event()
        self._named: frozenset[Frontend] = frozenset()

    def look_at(self, portals: Mapping[Frontend, Portal], node_addresses: Collection[str]) -> None:
        """These are the portals from now on, and those the addresses of this node. Returns at once."""
        own = {*EVERY_LOCAL_ADDRESS.values(), *node_addresses}
        here = {frontend: portal for frontend, portal in portals.items() if frontend.address in own}
        if here.keys() - self._here.keys():
            self._has_new.set()
        self._here = here

    async def run(self) -> NoReturn:
        """Look whenever it is due, for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds if self._here else None):
                    await self._has_new.wait()
            self._has_new.clear()
            try:
                await self._look()
            except Exception:
                logger.exception("The ports on which processes of this node listen cannot be seen")
            await asyncio.sleep(self._spacing_seconds)

    async def _look(self) -> None:
        here = self._here
        listening = await asyncio.to_thread(self._listening_ports)
        shared = frozenset(frontend for frontend in here if (frontend.protocol, frontend.port) in listening)
        for frontend in sorted(shared - self._named, key=str):
            logger.warning(
                "A process of this node listens where a Service is reached; the Service gets what is "
                "sent there: frontend=%s service_port=%s",
                frontend,
                here[frontend].comment,
            )
            namespace, _, name = here[frontend].comment.partition(":")[0].partition("/")
            self._record_event(
                PORT_SHARED,
                f"A process of the node listens at {frontend}; the Service gets what is sent there",
                service_id(ServiceName(namespace, name)),
            )
        self._named = shared
