"""Tells load balancers, on each Service's healthCheckNodePort, whether this node has an endpoint to send to.

Source: https://kubernetes.io/docs/reference/networking/virtual-ips/#external-traffic-policy and kube-proxy's
answers, which cloud load balancers know.

Theory of operation. `serve` notes what is wanted and answers by it at once; `run` opens and closes ports
until they are what is wanted, and tries again for as long as one is not. Anybody can reach these ports, in
the process that has every privilege, so a conversation is the least that HTTP allows: one request of bounded
size, one answer, no keep-alive, all within a few seconds. There is a limit to how many are held, and the
oldest make room: a real check needs milliseconds. (aiohttp.web limits neither their number nor how long a
request may take to arrive, and holds up the loop while it is imported.)
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NoReturn, cast

import msgspec

from userspace_proxy.core.back_off import delay_seconds
from userspace_proxy.core.proxy_plan import HealthCheck
from userspace_proxy.core.service_port import Port, ServiceName

logger = logging.getLogger(__name__)

_MAX_CONVERSATIONS: Final = 100
"""They come out of the descriptors that the agent keeps free beside its listeners."""
_CONVERSATION_SECONDS: Final = 5.0
_MAX_REQUEST_BYTES: Final = 16384
_BACKLOG: Final = 128
_REQUEST_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [^\s]+ HTTP/1\.[0-9]\r\n")
"""RFC 9112, section 3: any method, any target."""

_NAME: Final = "health check "

Keep = Callable[[Mapping[str, socket.socket]], Awaitable[None]]
_Binding = tuple[str, Port]
_Answer = Callable[[Port], tuple[HTTPStatus, int, bytes] | None]


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
    ) -> None:
        self._loop = loop
        self._is_healthy = is_healthy
        self._addresses = addresses
        self._kept = {} if kept is None else kept
        self._keep = keep
        self._sockets: dict[_Binding, socket.socket] = {}
        self._checks: dict[Port, tuple[ServiceName, HealthCheck]] = {}
        self._conflicts: dict[str, str] = {}
        self._servers: dict[_Binding, asyncio.Server] = {}
        self._conversations = _Conversations(self._answer, max_conversations, conversation_seconds)
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
                self._conflicts[str(service)] = (
                    f"Health checks not served: service={service} port={check.port} "
                    f"reason=the port belongs to {owner}"
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
        named: dict[str, str] = {}
        unopened: dict[str, str] = {}
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
            _name_changes(named, wrong)
            named = wrong

    async def _open_and_close(self) -> dict[str, str]:
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
                sock = self._kept.pop(_name(binding), None) or _listen(*binding)
            except OSError as error:
                place = _place(binding)
                unopened[place] = (
                    f"Health checks not served: service={service} address={place} reason={error.strerror}"
                )
            else:
                await self._start(binding, sock)
        if self._servers.keys() != open_before:
            await self._keep_open()
        return unopened

    async def _keep_open(self) -> None:
        if self._keep is not None:
            await self._keep({_name(binding): sock for binding, sock in self._sockets.items()})

    async def _start(self, binding: _Binding, sock: socket.socket) -> None:
        try:
            self._servers[binding] = await self._loop.create_server(
                lambda: _Conversation(self._loop, self._conversations, binding[1]),
                sock=sock,
                backlog=_BACKLOG,
                start_serving=False,  # else whoever is cancelled meanwhile leaves a server that nobody owns
            )
        except BaseException:
            sock.close()
            raise
        self._sockets[binding] = sock
        await self._servers[binding].start_serving()

    def _answer(self, port: Port) -> tuple[HTTPStatus, int, bytes] | None:
        """What to say on `port`: status, weight and body. None: the port is about to be closed."""
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
        status = HTTPStatus.OK if is_passed else HTTPStatus.SERVICE_UNAVAILABLE
        return status, check.local_endpoints, msgspec.json.encode(body)


class _Conversations:
    """Those that are held now, the oldest first."""

    def __init__(self, answer: _Answer, most: int, seconds: float) -> None:
        self.answer = answer
        self.seconds = seconds
        self._most = most
        self._is_closed = False
        self._held: dict[_Conversation, None] = {}
        self._none_held = asyncio.Event()
        self._none_held.set()

    def __iter__(self) -> Iterator[_Conversation]:
        return iter(tuple(self._held))

    def enter(self, conversation: _Conversation) -> None:
        if self._is_closed:
            conversation.abort()  # accepted just before its port was closed
            return
        if len(self._held) >= self._most:
            oldest = next(iter(self._held))
            self.leave(oldest)
            oldest.abort()
        self._held[conversation] = None
        self._none_held.clear()

    def leave(self, conversation: _Conversation) -> None:
        self._held.pop(conversation, None)
        if not self._held:
            self._none_held.set()

    async def close(self) -> None:
        """End all of them, and any that may still come."""
        self._is_closed = True
        for conversation in self:
            conversation.abort()
        await self._none_held.wait()


class _Conversation(asyncio.Protocol):
    """One request and its answer.

    After the answer we say that nothing more follows, and wait for the client to go: closing on data that
    was not read, such as a request's body, would be a reset, which can overtake the answer.
    """

    _transport: asyncio.Transport
    _deadline: asyncio.TimerHandle

    def __init__(self, loop: asyncio.AbstractEventLoop, conversations: _Conversations, port: Port) -> None:
        self._loop = loop
        self._conversations = conversations
        self._port = port
        self._request = bytearray()
        self._received = 0
        self._is_answered = False

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._deadline = self._loop.call_later(self._conversations.seconds, self.abort)
        self._conversations.enter(self)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if not self._is_answered:
            self._request += data
            if b"\r\n\r\n" in self._request:
                self._is_answered = True
                self._answer()
                self._request.clear()
        if self._received > _MAX_REQUEST_BYTES:
            self.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._deadline.cancel()
        self._conversations.leave(self)

    def _answer(self) -> None:
        answer = self._conversations.answer(self._port)
        if answer is None:
            self.abort()
            return
        if _REQUEST_LINE.match(self._request):
            status, weight, body = answer
            lines = [
                "Content-Type: application/json",
                "X-Content-Type-Options: nosniff",
                f"X-Load-Balancing-Endpoint-Weight: {weight}",
            ]
        else:
            status, body, lines = HTTPStatus.BAD_REQUEST, b"", []
        head = "\r\n".join(
            [
                f"HTTP/1.1 {status.value} {status.phrase}",
                f"Date: {formatdate(usegmt=True)}",
                *lines,
                f"Content-Length: {len(body)}",
                "Connection: close",
                "\r\n",
            ]
        )
        self._transport.write(head.encode() + (b"" if self._request.startswith(b"HEAD ") else body))
        self._transport.write_eof()


def _listen(address: str, port: Port) -> socket.socket:
    """A socket that listens there. Raises `OSError`."""
    is_ipv6 = ":" in address
    sock = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Connections of an earlier run in TIME_WAIT must not keep us from our own port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _name(binding: _Binding) -> str:
    return f"{_NAME}{_place(binding)}"


def _place(binding: _Binding) -> str:
    address, port = binding
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _name_changes(named: Mapping[str, str], wrong: Mapping[str, str]) -> None:
    """Log what is newly wrong, and what is no longer."""
    for subject, text in wrong.items():
        if named.get(subject) != text:
            logger.error("%s", text)
    for subject in named.keys() - wrong.keys():
        logger.info("Health checks mended: %s", subject)
