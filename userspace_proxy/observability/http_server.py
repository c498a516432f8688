"""The least of HTTP that health checks and scrapes need, in the process that has every privilege.

Whoever can reach a port may connect to it, so a conversation is one request of bounded size, one answer, no
keep-alive, all within some seconds. There is a limit to how many are held, and the oldest make room: a real
check needs milliseconds. (aiohttp.web limits neither their number nor how long a request may take to arrive,
and holds up the loop while it is imported.) Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NoReturn, TypeAlias, cast

from userspace_proxy.core.back_off import delay_seconds
from userspace_proxy.core.service_port import Port, host_port

logger = logging.getLogger(__name__)

_MAX_REQUEST_BYTES: Final = 16384
_BACKLOG: Final = 128
_REQUEST_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ ([^\s]+) HTTP/1\.[0-9]\r\n")
"""RFC 9112, section 3: any method, any target."""


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered. `headers` are lines, beside those that every answer has."""

    status: HTTPStatus
    body: bytes = b""
    headers: tuple[str, ...] = ()


Respond: TypeAlias = Callable[[str], Response | Awaitable[Response] | None]
"""The answer for a request's path; None: the port is about to be closed, so none is given."""


class Conversations:
    """Those that are held now, the oldest first: `most` at once, each for so many `seconds`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, seconds: float) -> None:
        self.loop = loop
        self.seconds = seconds
        self._most = most
        self._is_closed = False
        self._held: dict[_Conversation, None] = {}
        self._none_held = asyncio.Event()
        self._none_held.set()

    def __iter__(self) -> Iterator[_Conversation]:
        return iter(tuple(self._held))

    async def serve(self, sock: socket.socket, respond: Respond) -> asyncio.Server:
        """Converse with whoever connects to `sock`, which listens, and is ours from here on."""
        try:
            server = await self.loop.create_server(
                lambda: _Conversation(self, respond),
                sock=sock,
                backlog=_BACKLOG,
                start_serving=False,  # else whoever is cancelled meanwhile leaves a server that nobody owns
            )
        except BaseException:
            sock.close()
            raise
        return server

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

    def __init__(self, conversations: Conversations, respond: Respond) -> None:
        self._conversations = conversations
        self._respond = respond
        self._request = bytearray()
        self._received = 0
        self._is_asked = False
        self._answering: asyncio.Task[None] | None = None

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._deadline = self._conversations.loop.call_later(self._conversations.seconds, self.abort)
        self._conversations.enter(self)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if not self._is_asked:
            self._request += data
            if b"\r\n\r\n" in self._request:
                self._is_asked = True
                self._answer(bytes(self._request))
                self._request.clear()
        if self._received > _MAX_REQUEST_BYTES:
            self.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._deadline.cancel()
        if self._answering is not None:
            self._answering.cancel()
        self._conversations.leave(self)

    def _answer(self, request: bytes) -> None:
        is_head = request.startswith(b"HEAD ")
        line = _REQUEST_LINE.match(request)
        if line is None:
            self._write(Response(HTTPStatus.BAD_REQUEST), is_head)
            return
        response = self._respond(line[1].decode("latin-1").partition("?")[0])
        if response is None:
            self.abort()
        elif isinstance(response, Response):
            self._write(response, is_head)
        else:
            self._answering = self._conversations.loop.create_task(self._answer_later(response, is_head))

    async def _answer_later(self, pending: Awaitable[Response], is_head: bool) -> None:
        try:
            response = await pending
        except Exception:
            logger.exception("An answer over HTTP cannot be given")
            response = Response(HTTPStatus.INTERNAL_SERVER_ERROR)
        self._write(response, is_head)

    def _write(self, response: Response, is_head: bool) -> None:
        if self._transport.is_closing():
            return  # its time is over
        head = "\r\n".join(
            [
                f"HTTP/1.1 {response.status.value} {response.status.phrase}",
                f"Date: {formatdate(usegmt=True)}",
                *response.headers,
                f"Content-Length: {len(response.body)}",
                "Connection: close",
                "\r\n",
            ]
        )
        self._transport.write(head.encode())
        if not is_head:
            self._transport.write(response.body)
        self._transport.write_eof()


class HttpServer:
    """Serves at one address for as long as `run` runs; an address that is taken is named once, and tried
    again until it is free.

    `what` is what logs call it. `port_taken` is called, with a sentence, when it cannot be opened.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        what: str,
        address: tuple[str, int],
        respond: Respond,
        *,
        port_taken: Callable[[str], None] = lambda _sentence: None,
        max_conversations: int,
        conversation_seconds: float,
    ) -> None:
        self.what = what
        self._address = address[0], Port(address[1])
        self._respond = respond
        self._port_taken = port_taken
        self._conversations = Conversations(loop, max_conversations, conversation_seconds)
        self._server: asyncio.Server | None = None

    async def run(self) -> NoReturn:
        """Open the port, as soon as it is to be had, and serve for ever."""
        failures = 0
        while True:
            try:
                sock = listen(*self._address)
                break
            except OSError as error:
                failures += 1
                if failures == 1:
                    sentence = (
                        f"{self.what} cannot be served at {host_port(*self._address)}: {error.strerror}; "
                        "trying until it can"
                    )
                    logger.error("%s", sentence)
                    self._port_taken(sentence)
                await asyncio.sleep(delay_seconds(failures, random.random()))
        self._server = await self._conversations.serve(sock, self._respond)
        await self._server.start_serving()
        logger.info("%s served: address=%s", self.what, host_port(*self._address))
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")

    async def close(self) -> None:
        """Close the port and end every conversation. `run` has ended."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._conversations.close()


def listen(address: str, port: Port) -> socket.socket:
    """A socket that listens there ("0.0.0.0" and "::" are all of a family). Raises `OSError`."""
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
