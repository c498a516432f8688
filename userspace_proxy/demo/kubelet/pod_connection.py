"""One TCP client of the built-in server."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from userspace_proxy.demo.kubelet.pod_http import (
    Answer,
    Identity,
    Request,
    RequestError,
    answer,
    may_be_http,
    read_request,
    refusal,
)

_ZEROS: Final = memoryview(bytes(65536))
_MOST_OUTPUT_BYTES: Final = 262144


class Server(Protocol):
    """What a connection needs of the server that accepted it."""

    identity: Identity
    is_leaving: bool

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Have `function` called."""

    def want(self, connection: Connection, stream: socket.socket, mask: int) -> None:
        """Have `connection` called when `stream` is ready for what `mask` says."""

    def forget(self, connection: Connection, stream: socket.socket) -> None:
        """The connection is over."""

    def log(self, line: str) -> None:
        """Say `line`."""


class Connection:
    """One TCP client. `is_http` is None until it has said enough."""

    def __init__(self, server: Server, stream: socket.socket, client: str) -> None:
        self._server = server
        self._stream = stream
        self._client = client
        self._is_http: bool | None = None
        self._input = bytearray()
        self._skipped = 0  # bytes of a request's body that are still to come
        self._output = bytearray()
        self._zeros = 0
        self._delayed: Answer | None = None
        self._ends = False  # once everything is sent
        self._client_is_done = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way that a client waits for."""
        begun = self._input or self._output or self._zeros or self._skipped or self._delayed
        return not begun and self._is_http is not False

    def ready(self, mask: int) -> None:
        """Read and write what can be; close when done or broken."""
        try:
            if mask & selectors.EVENT_READ:
                self._read()
            self._go_on()
        except OSError:
            self.close()

    def close(self) -> None:
        if self._stream.fileno() >= 0:
            self._server.forget(self, self._stream)
            self._stream.close()

    def _read(self) -> None:
        with suppress(BlockingIOError):
            data = self._stream.recv(65536)
            self._input += data
            self._client_is_done = not data

    def _go_on(self) -> None:
        """Answer what was asked, send what can be sent, and wait for what comes next."""
        while self._answer_next():
            pass
        self._send()
        sends = bool(self._output or self._zeros)
        # In the middle of a request's body the connection must not end: its client would be reset.
        reads = not self._client_is_done and (self._skipped > 0 or not self._ends)
        if self._ends and not (sends or reads or self._delayed):
            self.close()
            return
        wanted = selectors.EVENT_WRITE if sends else 0
        if reads and not (self._delayed or len(self._output) > _MOST_OUTPUT_BYTES):
            wanted |= selectors.EVENT_READ
        self._server.want(self, self._stream, wanted)

    def _answer_next(self) -> bool:
        """Take the next piece of input; False if there is no more, or its turn has not come."""
        taken = min(self._skipped, len(self._input))
        del self._input[:taken]
        self._skipped -= taken
        if self._ends or self._delayed or self._zeros or len(self._output) > _MOST_OUTPUT_BYTES:
            return False
        if self._is_http is None:
            self._is_http = may_be_http(bytes(self._input[:16])) if self._input else None
            if self._is_http is None and not self._client_is_done:
                return False
            if not self._is_http:
                self._is_http = False
                self._output += self._server.identity.line(self._client).encode()
                if self._input:  # else it may have been a probe
                    self._server.log(f"{self._client} TCP")
        if not self._is_http:
            self._output += self._input
            self._input.clear()
            self._ends = self._client_is_done
            return False
        return self._answer_request()

    def _answer_request(self) -> bool:
        try:
            request = read_request(bytes(self._input)) if self._input and not self._skipped else None
        except RequestError as error:
            self._take(refusal(error), f"- {error.status}", is_last=True)
            return False
        if request is None:
            self._ends = self._client_is_done
            return False
        del self._input[: request.head_bytes]
        self._skipped = request.body_bytes
        if request.expects_continue:
            self._output += b"HTTP/1.1 100 Continue\r\n\r\n"
        self._answer(request)
        return True

    def _answer(self, request: Request) -> None:
        is_last = request.is_last or self._server.is_leaving
        reply = answer(request, self._server.identity, self._client, is_last=is_last)
        what = "" if request.is_probe else f"{request.method} {request.path} {reply.status}"
        self._take(reply, what, is_last=is_last)

    def _take(self, reply: Answer, what: str, *, is_last: bool) -> None:
        if what:
            self._server.log(f"{self._client} {what}")
        self._ends = is_last
        if reply.delay_seconds:
            self._delayed = reply
            self._server.call_later(reply.delay_seconds, self._waited)
        else:
            self._put(reply)

    def _waited(self) -> None:
        if self._delayed is not None and self._stream.fileno() >= 0:
            due, self._delayed = self._delayed, None
            self._put(due)
            self.ready(0)

    def _put(self, reply: Answer) -> None:
        self._output += reply.head_and_body
        self._zeros = reply.zeros

    def _send(self) -> None:
        with suppress(BlockingIOError):
            while self._output:
                del self._output[: self._stream.send(self._output)]
            while self._zeros:
                self._zeros -= self._stream.send(_ZEROS[: self._zeros])
