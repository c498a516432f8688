"""A Service of your own in your own event loop: no cluster, no rules, no other process.

    async with StaticService([("192.0.2.1", 80), ("192.0.2.2", 80)], listen=("127.0.0.1", 8080)) as service:
        ...

It is the data path that workers run: retries, ejection, balancing, half-closes, spliced bulk. Import it from
`userspace_proxy`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from random import Random
from types import TracebackType
from typing import Final, Self, TypeAlias

from userspace_proxy.core.balancing import Balancing
from userspace_proxy.core.service_port import IPFamily, Port, Protocol, TrafficPolicy, udp_idle_timeouts
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.listening_sockets import open_listener
from userspace_proxy.dataplane.messages import (
    ListenerConfig,
    ListenerKey,
    ServicePortConfig,
    WorkerLimits,
)
from userspace_proxy.dataplane.worker import Worker

__all__ = ["Address", "Balancing", "ServicePortCounters", "StaticService"]

Address: TypeAlias = tuple[str, int]
"""An IP address and a port."""

_KEY: Final = "static"


class StaticService:
    """Listens at `listen` (port 0: any) from `async with` on, and carries each connection to an endpoint.

    `protocol` is "TCP" or "UDP". `endpoints` are IP addresses and ports, of one family. With
    `affinity_seconds` a client keeps its endpoint until it was silent for so long. `proxy_protocol` tells TCP
    endpoints of the client (version 2). Leaving `async with` closes the listener and resets what goes on.

    Raises `ValueError` if something is no IP address or no known name, `OSError` if it cannot listen.
    """

    def __init__(
        self,
        endpoints: Sequence[Address],
        *,
        listen: Address = ("127.0.0.1", 0),
        protocol: str = "TCP",
        balancing: Balancing | str = Balancing.ROUND_ROBIN,
        affinity_seconds: int | None = None,
        proxy_protocol: bool = False,
    ) -> None:
        self._listen = listen
        self._protocol = Protocol(protocol)
        self._balancing = Balancing(balancing)
        self._affinity_seconds = affinity_seconds
        self._proxy_protocol = proxy_protocol
        self._endpoints = _checked(endpoints)
        self._family = IPFamily.IPV6 if ip_address(listen[0]).version == 6 else IPFamily.IPV4
        self._address: Address | None = None
        self._worker: Worker | None = None

    async def __aenter__(self) -> Self:
        sock = open_listener(self._family, self._protocol, *self._listen)
        host, port = sock.getsockname()[:2]
        self._address = (host, port)
        limits = WorkerLimits(dials_any_address=True)
        self._worker = Worker(asyncio.get_running_loop(), limits=limits, random=Random())
        self._configure({ListenerKey(self._protocol.value, port): sock})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    @property
    def address(self) -> Address:
        """Where it listens."""
        if self._address is None:
            raise RuntimeError("a StaticService listens from `async with` on")
        return self._address

    @property
    def counters(self) -> ServicePortCounters:
        """What it has carried so far."""
        if self._worker is None:
            raise RuntimeError("a StaticService counts within `async with`")
        return self._worker.counters([_KEY])[_KEY]

    def set_endpoints(self, endpoints: Sequence[Address]) -> None:
        """Use these from the next connection on; established ones go on. Not safe from other threads."""
        self._endpoints = _checked(endpoints)
        if self._worker is not None:
            self._configure({})

    def _configure(self, sockets: dict[ListenerKey, socket.socket]) -> None:
        assert self._worker is not None
        host, port = self.address
        timeouts = udp_idle_timeouts(Port(port), None)
        config = ServicePortConfig(
            key=_KEY,
            label=f"{host}:{port}",
            protocol=self._protocol.value,
            family=self._family.value,
            affinity_timeout_seconds=self._affinity_seconds,
            udp_unanswered_seconds=timeouts.unanswered_seconds,
            udp_answered_seconds=timeouts.answered_seconds,
            listeners=(ListenerConfig(TrafficPolicy.CLUSTER.value, port, self._endpoints),),
            balancing=self._balancing.value,
            sends_proxy_protocol=self._proxy_protocol,
        )
        self._worker.configure([config], [], sockets)


def _checked(endpoints: Sequence[Address]) -> tuple[Address, ...]:
    return tuple((str(ip_address(address)), port) for address, port in endpoints)
