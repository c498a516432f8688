"""Tells load balancers, on each Service's healthCheckNodePort, whether this node has an endpoint to send to.

Source: https://kubernetes.io/docs/reference/networking/virtual-ips/#external-traffic-policy and kube-proxy's
answers, which cloud load balancers know.

Theory of operation. `serve` notes what is wanted and answers by it at once; `run` opens and closes ports
until they are what is wanted, and tries again for as long as one is not. All ports share the conversations
that may be held (`http_server`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final, NoReturn

import msgspec

from userspace_proxy.core.back_off import delay_seconds
from userspace_proxy.core.event_reasons import HEALTH_CHECK_NOT_SERVED
from userspace_proxy.core.event_series import RecordEvent, service_id, unrecorded
from userspace_proxy.core.proxy_plan import HealthCheck
from userspace_proxy.core.service_port import Port, ServiceName, host_port
from userspace_proxy.observability.http_server import Conversations, Response, listen

logger = logging.getLogger(__name__)

_MAX_CONVERSATIONS: Final = 100
"""They come out of the descriptors that the agent keeps free beside its listeners."""
_CONVERSATION_SECONDS: Final = 5.0
_NAME: Final = "health check "

Keep = Callable[[Mapping[str, socket.socket]], Awaitable[None]]
_Binding = tuple[str, Port]


@dataclass(frozen=True, slots=True)
class _Unserved:
    """A health check that nobody can ask for, and why."""

    service: ServiceName
    why: str


class HealthCheckNodePorts:
    """Opens the ports, owns them, answers on them. To be used in the loop's thread.

    `is_healthy` says whether the proxy itself is; it is asked at every check. `addresses` says where the
    ports are to be open (IP addresses; "0.0.0.0" and "::" are all of a family); it is asked after every
    `serve`. `max_conversations` are held at once on all ports together, each for `conversation_seconds`.

    `kept` are sockets that an earlier agent had open, by name: those that are wanted are taken from there,
    and the others closed, once that is known. `keep` is awaited with all that are open when that changes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        is_healthy: Callable[[], bool],
        addresses: Callable[[], Sequence[str]],
        kept: MutableMapping[str, socket.socket] | None = None,
        keep: Keep | None = None,
        max_conversations: int = _MAX_CONVERSATIONS,
        conversation_seconds: float = _CONVERSATION_SECONDS,
        record_event: RecordEvent = unrecorded,
    ) -> None:
        self._record_event = record_event
        self._is_healthy = is_healthy
        self._addresses = addresses
        self._kept = {} if kept is None else kept
        self._keep = keep
        self._sockets: dict[_Binding, socket.socket] = {}
        self._checks: dict[Port, tuple[ServiceName, HealthCheck]] = {}
        self._conflicts: dict[str, _Unserved] = {}
        self._servers: dict[_Binding, asyncio.Server] = {}
        self._conversations = Conversations(loop, max_conversations, conversation_seconds)
        self._changed = asyncio.Event()

    def serve(self, checks: Mapping[ServiceName, HealthCheck]) -> None:
        """From now on these, and no others, are wanted. Answers follow at once, ports as soon as they can.

        A port that cannot be opened is named once and tried again; of Services that claim one port the first
        by name has it, and the others are named.
        """
        claims: dict[Port, tuple[ServiceName, HealthCheck]] = {}
        self._conflicts = {}
        for service, check in sorted(checks.items(), key=lambda item: item[0]):
            owner, _ = claims.setdefault(check.port, (service, check))
            if owner != service:
                self._conflicts[str(service)] = _Unserved(
                    service, f"port={check.port} reason=the port belongs to {owner}"
                )
        self._checks = claims
        self._changed.set()

    async def close(self) -> None:
        """Close every port and end every conversation. `run` has ended, and nothing is served after that."""
        self._checks = {}
        while self._servers:
            self._servers.popitem()[1].close()
        await self._conversations.close()

    async def run(self) -> NoReturn:
        """Open and close ports until they are what is wanted, for ever."""
        named: dict[str, _Unserved] = {}
        unopened: dict[str, _Unserved] = {}
        failures = 0
        while True:
            try:
                async with asyncio.timeout(delay_seconds(failures, random.random()) if failures else None):
                    await self._changed.wait()
            except TimeoutError:
                failures += 1  # what is tried because something changed does not prolong the wait
            self._changed.clear()
            before, unopened = unopened, await self._open_and_close()
            if unopened != before:
                failures = 1 if unopened else 0
            wrong = self._conflicts | unopened
            self._name_changes(named, wrong)
            named = wrong

    def _name_changes(self, named: Mapping[str, _Unserved], wrong: Mapping[str, _Unserved]) -> None:
        """Say what is newly wrong, and what is no longer."""
        for subject, unserved in wrong.items():
            if named.get(subject) != unserved:
                logger.error("Health checks not served: service=%s %s", unserved.service, unserved.why)
                note = f"Health checks are not answered: {unserved.why}"
                self._record_event(HEALTH_CHECK_NOT_SERVED, note, service_id(unserved.service))
        for subject in named.keys() - wrong.keys():
            logger.info("Health checks mended: %s", subject)

    async def _open_and_close(self) -> dict[str, _Unserved]:
        """Take every step that can be taken; returns what is still not open, and why."""
        addresses = tuple(dict.fromkeys(self._addresses()))
        wanted = {
            (address, port): service for port, (service, _) in self._checks.items() for address in addresses
        }
        closing = [self._servers.pop(binding) for binding in self._servers.keys() - wanted.keys()]
        unwanted = {name for name in self._kept if name.startswith(_NAME)} - set(map(_name, wanted))
        for name in unwanted:
            self._kept.pop(name).close()
        if closing or unwanted:
            # First: a port may be wanted on another address.
            self._sockets = {binding: self._sockets[binding] for binding in self._servers}
            await self._keep_open()
            for server in closing:
                server.close()
        open_before = set(self._servers)
        unopened = {}
        for binding, service in wanted.items():
            if binding in self._servers:
                continue
            try:
                sock = self._kept.pop(_name(binding), None) or listen(*binding)
            except OSError as error:
                where = host_port(*binding)
                unopened[where] = _Unserved(service, f"address={where} reason={error.strerror}")
            else:
                await self._start(binding, sock)
        if self._servers.keys() != open_before:
            await self._keep_open()
        return unopened

    async def _keep_open(self) -> None:
        if self._keep is not None:
            await self._keep({_name(binding): sock for binding, sock in self._sockets.items()})

    async def _start(self, binding: _Binding, sock: socket.socket) -> None:
        self._servers[binding] = await self._conversations.serve(sock, partial(self._answer, binding[1]))
        self._sockets[binding] = sock
        await self._servers[binding].start_serving()

    def _answer(self, port: Port, _path: str) -> Response | None:
        """What to say on `port`, whatever the path. None: the port is about to be closed."""
        owned = self._checks.get(port)
        if owned is None:
            return None
        service, check = owned
        is_healthy = self._is_healthy()
        body = {
            "service": {"namespace": service.namespace, "name": service.name},
            "localEndpoints": check.local_endpoints,
            "serviceProxyHealthy": is_healthy,
        }
        is_passed = is_healthy and check.local_endpoints > 0
        return Response(
            HTTPStatus.OK if is_passed else HTTPStatus.SERVICE_UNAVAILABLE,
            msgspec.json.encode(body),
            (
                "Content-Type: application/json",
                "X-Content-Type-Options: nosniff",
                f"X-Load-Balancing-Endpoint-Weight: {check.local_endpoints}",
            ),
        )


def _name(binding: _Binding) -> str:
    return f"{_NAME}{host_port(*binding)}"
