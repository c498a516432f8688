"""Serves the admin socket: who may ask, how much of anything there may be, and that nobody waits for it.

An answer is made item by item, and after every few milliseconds of that the loop has as long for its work;
so an answer about 10,000 Services takes a while, and no sync waits for it. What a client does not take is
not made: beyond a buffer's worth its answer stands still, and after `_PATIENCE_SECONDS` the client is left.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import msgspec

from userspace_proxy.admin.protocol import (
    MAX_REQUEST_BYTES,
    VERSION,
    AdminError,
    AnswerLine,
    ErrorCode,
    Failure,
    NoParameters,
    Request,
)
from userspace_proxy.admin.socket_file import SocketFile
from userspace_proxy.core.decoding import describe

logger = logging.getLogger(__name__)

_MAX_CLIENTS: Final = 16
_SLICE_SECONDS: Final = 0.002
_MAX_REST_SECONDS: Final = 0.01
_BUFFERED_BYTES: Final = 256 << 10
_PATIENCE_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 5.0

MayAsk = Callable[[socket.socket], bool]


@dataclass(frozen=True, slots=True)
class Method:
    """What can be asked for: `answer` yields the items of the answer to `parameters`.

    It is called on the loop, and makes an item quickly or awaits something. Raises `AdminError`. It yields
    for as long as it likes: it is closed when the client hangs up.
    """

    answer: Callable[[Any], AsyncGenerator[object, None]]
    parameters: type[msgspec.Struct] = NoParameters


class AdminServer:
    """Answers with `methods` at `file`, for as long as `run` runs; `may_ask` is asked about every client."""

    def __init__(
        self,
        file: SocketFile,
        methods: Mapping[str, Method],
        may_ask: MayAsk,
        *,
        max_clients: int = _MAX_CLIENTS,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._file = file
        self._methods = methods
        self._may_ask = may_ask
        self._max_clients = max_clients
        self._patience_seconds = patience_seconds
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], _Client] = {}

    async def run(self) -> NoReturn:
        """Open the socket, as soon as that is possible, and serve until `close`."""
        is_named = False
        while self._server is None:
            try:
                sock = self._file.listen(self._max_clients)
            except OSError as error:
                if not is_named:
                    is_named = True
                    logger.error(
                        "Admin socket cannot be served, trying until it can: file=%s %s; "
                        "see to --state-directory",
                        self._file.path,
                        error.strerror or error,
                    )
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                server = asyncio.start_unix_server(self._converse, sock=sock, limit=MAX_REQUEST_BYTES)
                self._server = await server
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")

    async def close(self) -> None:
        """Remove the file, close the socket, and end every conversation. `run` has ended."""
        self._file.remove()
        if self._server is not None:
            self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        client = _Client(self._methods, reader, writer, self._patience_seconds)
        try:
            if not self._may_ask(writer.get_extra_info("socket")):
                return
            if self._has_room():
                self._clients[task] = client
                await client.serve()
            else:
                message = f"{len(self._clients)} clients are served already"
                await client.fail(ErrorCode.TOO_MANY_CLIENTS, message)
            await client.finish()
        except (_HungUpError, asyncio.CancelledError):
            pass  # whoever cancels means this conversation alone, which asyncio would complain about
        finally:
            self._clients.pop(task, None)
            writer.transport.abort()

    def _has_room(self) -> bool:
        """Whether one more may come; who has asked for nothing makes room."""
        if len(self._clients) < self._max_clients:
            return True
        for task, client in self._clients.items():
            if client.is_idle:
                del self._clients[task]
                task.cancel()
                return True
        return False


class _HungUpError(Exception):
    """The client is gone, or takes nothing."""


class _Client:
    """One connection: requests, one after the other, and their answers. Raises `_HungUpError`."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        patience_seconds: float,
    ) -> None:
        self.is_idle = True
        self._methods = methods
        self._reader = reader
        self._writer = writer
        self._patience_seconds = patience_seconds
        self._encoder = msgspec.json.Encoder()
        writer.transport.set_write_buffer_limits(_BUFFERED_BYTES)

    async def serve(self) -> None:
        """Until the client has said all it wants, and has been answered."""
        while True:
            try:
                line = await self._reader.readline()
            except ValueError:
                await self.fail(ErrorCode.BAD_REQUEST, f"a request has {MAX_REQUEST_BYTES} bytes at most")
                return
            except OSError as error:
                raise _HungUpError from error
            if not line:
                return
            if not line.isspace():
                self.is_idle = False
                await self._answer(line)
                self.is_idle = True

    async def fail(self, code: ErrorCode, message: str, request_id: int | str | None = None) -> None:
        self._write(AnswerLine(request_id, error=Failure(code, message)))
        await self._sent()

    async def finish(self) -> None:
        """See to it that the client has all that was written."""
        self._writer.close()
        with suppress(OSError):
            async with asyncio.timeout(self._patience_seconds):
                await self._writer.wait_closed()

    async def _answer(self, line: bytes) -> None:
        request_id: int | str | None = None
        try:
            request = _decoded(line, Request)
            request_id = request.id
            await self._send_items(request_id, self._items(request))
        except AdminError as error:
            await self.fail(error.code, str(error), request_id)
        except _HungUpError:
            raise
        except Exception:
            logger.exception("An answer over the admin socket cannot be given: request=%.200r", line)
            await self.fail(ErrorCode.INTERNAL, "the agent's log says what went wrong", request_id)
        else:
            self._write(AnswerLine(request_id, done=True))
            await self._sent()

    def _items(self, request: Request) -> AsyncGenerator[object, None]:
        if request.version != VERSION:
            message = f"version {request.version} is not spoken, but {VERSION}"
            raise AdminError(ErrorCode.UNSUPPORTED_VERSION, message)
        method = self._methods.get(request.method)
        if method is None:
            message = f"{describe(request.method)} is none of {', '.join(sorted(self._methods))}"
            raise AdminError(ErrorCode.UNKNOWN_METHOD, message)
        return method.answer(_decoded(request.params, method.parameters))

    async def _send_items(self, request_id: int | str | None, items: AsyncGenerator[object, None]) -> None:
        clock = asyncio.get_running_loop().time
        async with aclosing(items):
            began = clock()
            async for item in items:
                self._write(AnswerLine(request_id, item=msgspec.Raw(self._encoder.encode(item))))
                worked = clock() - began
                if worked > _SLICE_SECONDS:
                    await self._sent()
                    await asyncio.sleep(min(worked, _MAX_REST_SECONDS))
                    began = clock()

    def _write(self, line: AnswerLine) -> None:
        if self._writer.transport.is_closing():
            raise _HungUpError
        self._writer.write(self._encoder.encode(line) + b"\n")

    async def _sent(self) -> None:
        """Returns when most of what was written is on its way."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._writer.drain()
        except OSError as error:
            raise _HungUpError from error


def _decoded(line: bytes | msgspec.Raw, to: type[Any]) -> Any:
    try:
        return msgspec.json.decode(line, type=to)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AdminError(ErrorCode.BAD_REQUEST, f"not understood: {error}") from error
