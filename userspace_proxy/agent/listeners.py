"""Opens the listeners that the plan wants, on the ports of an earlier run where these are still to be had.

What cannot be opened, for want of a port or a descriptor, is named once and tried again with `retry`. Each
attempt that fails is cheap, and the loop has its turn after every few, whether they fail or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Final

from userspace_proxy.agent.host import RESERVED_DESCRIPTORS
from userspace_proxy.core.event_reasons import LISTENER_NOT_OPENED
from userspace_proxy.core.event_series import RecordEvent, service_id, unrecorded
from userspace_proxy.core.listener_retirement import is_wanted
from userspace_proxy.core.proxy_plan import ListenerName, PlannedServicePort, ProxyPlan
from userspace_proxy.core.service_port import Frontend, Protocol, ProxyPort, ServicePortName
from userspace_proxy.dataplane.listening_sockets import ListenerError, ListeningSockets
from userspace_proxy.errors import StartupError
from userspace_proxy.iptables.portal_rules import AdoptedPorts

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 200
_NAMED_AT_ONCE: Final = 20
_PORTS_LOOKED_AT_AGAIN: Final = 1000


class Listeners:
    """`sockets` holds what is open; `max_descriptors` is what this process may have open."""

    def __init__(
        self,
        plan: ProxyPlan,
        sockets: ListeningSockets,
        max_descriptors: int,
        record_event: RecordEvent = unrecorded,
    ) -> None:
        self._record_event = record_event
        self._plan = plan
        self._sockets = sockets
        self._max_descriptors = max_descriptors
        self._adopted: dict[Frontend, AdoptedPorts] = {}
        self._unopened: set[ListenerName] = set()

    @property
    def has_unopened(self) -> bool:
        """Whether there is something to retry."""
        return bool(self._unopened)

    @property
    def unopened(self) -> int:
        """How many are wanted and cannot be opened."""
        return len(self._unopened)

    def adopt(self, adopted: Mapping[Frontend, AdoptedPorts]) -> None:
        """Open listeners where the rules of an earlier run lead; nobody else may listen there.

        An empty mapping ends that, once our own rules stand.
        """
        self._adopted = dict(adopted)
        self._sockets.keep_ports(
            (frontend.protocol, port)
            for frontend, ports in adopted.items()
            for port in (ports.outside, ports.inside)
            if port is not None
        )

    def require_room(self) -> None:
        """Raise `StartupError` if this process, or the range of proxy ports, cannot hold what is planned."""
        missing = dict.fromkeys(Protocol, 0)
        for name, planned in self._plan.service_ports.items():
            for policy, _ in planned.selections:
                missing[name.protocol] += ListenerName(name, policy) not in self._sockets
        listeners = len(self._sockets) + sum(missing.values())
        if listeners + RESERVED_DESCRIPTORS > self._max_descriptors:
            raise StartupError(
                f"{listeners} listeners are needed, and {RESERVED_DESCRIPTORS} descriptors beside them, "
                f"but this process may have only {self._max_descriptors} open: raise the limit "
                "(LimitNOFILE= in a systemd unit, ulimit -n in a shell)"
            )
        for protocol, count in missing.items():
            room = self._sockets.room(protocol)
            if count > room:
                raise StartupError(
                    f"{count} {protocol.value} listeners are needed, but the proxy ports "
                    f"{self._sockets.port_range} have room for only {room}: widen --proxy-port-range"
                )

    async def open(self, planned: Iterable[PlannedServicePort]) -> set[ServicePortName]:
        """Open what of `planned` is not open yet. Returns the Service ports that have a new listener."""
        return await self._open(
            name
            for port in planned
            for policy, _ in port.selections
            if (name := ListenerName(port.name, policy)) not in self._sockets
        )

    async def retry(self) -> set[ServicePortName]:
        """Try again what could not be opened and is still wanted. Returns as `open` does."""
        self._sockets.look_again(_PORTS_LOOKED_AT_AGAIN)
        self._unopened = {name for name in self._unopened if is_wanted(name, self._plan.service_ports)}
        opened = await self._open([name for name in self._unopened if name not in self._sockets])
        if opened:
            logger.info(
                "Listeners opened after all: service_ports=%d not_opened=%d", len(opened), len(self._unopened)
            )
        return opened

    async def _open(self, names: Iterable[ListenerName]) -> set[ServicePortName]:
        opened: set[ServicePortName] = set()
        newly_failed = 0
        for number, name in enumerate(names, 1):
            try:
                if len(self._sockets) + RESERVED_DESCRIPTORS >= self._max_descriptors:
                    raise ListenerError(f"{self._max_descriptors} descriptors are all that are allowed")
                self._sockets.open(name, self._adopted_port(name))
            except ListenerError as error:
                if name not in self._unopened:
                    self._unopened.add(name)
                    newly_failed += 1
                    if newly_failed <= _NAMED_AT_ONCE:
                        logger.error(
                            "Listener not opened, its clients are refused: "
                            "service_port=%s traffic_policy=%s reason=%s",
                            name.service_port.key,
                            name.policy.value,
                            error,
                        )
                        self._record_event(
                            LISTENER_NOT_OPENED,
                            f"Clients of {name.service_port.key} are refused, without a listener: {error}",
                            service_id(name.service_port.service),
                        )
            else:
                self._unopened.discard(name)
                opened.add(name.service_port)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        if newly_failed > _NAMED_AT_ONCE:
            logger.error("Listeners not opened: more=%d", newly_failed - _NAMED_AT_ONCE)
        return opened

    def _adopted_port(self, name: ListenerName) -> ProxyPort | None:
        """Where the rules of an earlier run lead this class of traffic, so that they can stay."""
        if not self._adopted:
            return None
        for frontend, portal in self._plan.portals_of(name.service_port):
            adopted = self._adopted.get(frontend)
            if adopted is None:
                continue
            if portal.outside.listener == name and adopted.outside is not None:
                return adopted.outside
            if portal.inside.listener == name and adopted.inside is not None:
                return adopted.inside
        return None
