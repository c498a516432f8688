"""The answers that take a while, and the ports that somebody else has."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from http import HTTPStatus

import pytest

from userspace_proxy.observability.http_server import HttpServer, Respond, Response

SECONDS = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def serving(
    respond: Respond, port: int, said: Callable[[str], None] = lambda _: None
) -> AsyncIterator[None]:
    server = HttpServer(
        asyncio.get_running_loop(),
        "Metrics",
        ("127.0.0.1", port),
        respond,
        port_taken=said,
        max_conversations=2,
        conversation_seconds=SECONDS,
    )
    running = asyncio.ensure_future(server.run())
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await server.close()


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(ConnectionRefusedError):
                return await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.01)


async def ask(port: int, request: bytes = b"GET /metrics?all HTTP/1.1\r\n\r\n") -> bytes:
    reader, writer = await connected(port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), SECONDS)
    writer.close()
    return answer


def test_an_answer_may_take_a_while() -> None:
    async def scenario() -> None:
        ready = asyncio.Event()

        async def later(path: str) -> Response:
            await ready.wait()
            return Response(HTTPStatus.OK, path.encode())

        port = free_port()
        async with serving(later, port):
            asking = asyncio.ensure_future(ask(port))
            ready.set()
            answer = await asking
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\n/metrics")
            head = await ask(port, b"HEAD /metrics HTTP/1.1\r\n\r\n")
            assert b"Content-Length: 8\r\n" in head
            assert head.endswith(b"\r\n\r\n")

    asyncio.run(scenario())


def test_an_answer_that_fails_is_said_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async def failing(_path: str) -> Response:
            raise RuntimeError("of ours")

        port = free_port()
        async with serving(failing, port):
            for _ in range(2):
                assert (await ask(port)).startswith(b"HTTP/1.1 500 ")

    asyncio.run(scenario())
    assert "cannot be given" in caplog.text


def test_who_hangs_up_or_makes_room_is_not_answered_any_more() -> None:
    async def scenario() -> None:
        cancelled = asyncio.Semaphore(0)

        def never(_path: str) -> Awaitable[Response]:
            async def wait() -> Response:
                try:
                    await asyncio.Event().wait()
                finally:
                    cancelled.release()
                raise AssertionError

            return wait()

        port = free_port()
        async with serving(never, port):
            _, writer = await connected(port)  # it serves
            with ExitStack() as stack:
                talks = [
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS))
                    for _ in range(3)  # one more than are held
                ]
                for sock in talks:
                    sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    sock.setblocking(False)
                async with asyncio.timeout(SECONDS):
                    with suppress(ConnectionResetError):
                        assert await asyncio.get_running_loop().sock_recv(talks[0], 1) == b""
            async with asyncio.timeout(SECONDS):
                for _ in range(2):  # those that were held hung up
                    await cancelled.acquire()
            writer.close()

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_said_once_and_had_when_it_is_free(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> list[str]:
        said: list[str] = []
        with socket.create_server(("127.0.0.1", 0)) as somebody:
            port = somebody.getsockname()[1]
            server = serving(lambda _path: Response(HTTPStatus.OK, b"here"), port, said.append)
            await server.__aenter__()
            async with asyncio.timeout(SECONDS):
                while not said:
                    await asyncio.sleep(0.01)
        assert (await ask(port)).endswith(b"here")
        await server.__aexit__(None, None, None)
        return said

    [sentence] = asyncio.run(scenario())
    assert "Metrics cannot be served at 127.0.0.1:" in sentence
    assert "Address already in use" in sentence
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
