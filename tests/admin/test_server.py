"""The protocol, as another program sees it: lines of JSON over a Unix socket."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from userspace_proxy.admin.protocol import MAX_REQUEST_BYTES, AdminError, ErrorCode, NoParameters
from userspace_proxy.admin.server import AdminServer, Method
from userspace_proxy.admin.socket_file import SocketFile, admin_socket_in
from userspace_proxy.core.answers.shape import Parameters

SECONDS = 20.0


class Upto(Parameters, frozen=True):
    last_number: int


async def count(upto: Upto) -> AsyncGenerator[object, None]:
    for number in range(upto.last_number):
        yield {"number": number, "text": "x" * 100}


async def miss(_: NoParameters) -> AsyncGenerator[object, None]:
    yield "a first item"
    raise AdminError(ErrorCode.NOT_FOUND, "there is no default/web")


async def break_down(_: NoParameters) -> AsyncGenerator[object, None]:
    raise LookupError("a fault of ours")
    yield


METHODS = {"count": Method(count, Upto), "miss": Method(miss), "break": Method(break_down)}


def run(case: Coroutine[Any, Any, None]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(3 * SECONDS):
            await case

    uvloop.run(within_time())


@asynccontextmanager
async def serving(
    folder: Path,
    methods: Mapping[str, Method] = METHODS,
    *,
    is_welcome: bool = True,
    max_clients: int = 16,
    patience_seconds: float = SECONDS,
) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    """The server; who calls what this yields is a client of it."""
    server = AdminServer(
        SocketFile(folder),
        methods,
        lambda _: is_welcome,
        max_clients=max_clients,
        patience_seconds=patience_seconds,
    )
    running = asyncio.ensure_future(server.run())
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(await Client.connected(folder))
        return clients[-1]

    try:
        yield connect
    finally:
        for client in clients:
            client.writer.transport.abort()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "4026531840"
    folder.mkdir()
    return folder


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connected(cls, folder: Path) -> Client:
        while True:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                return cls(*await asyncio.open_unix_connection(str(admin_socket_in(folder)), limit=1 << 20))
            await asyncio.sleep(0.01)

    def say(self, line: str) -> None:
        self.writer.write(line.encode() + b"\n")

    async def hear(self) -> Any:
        """The next line; None at the end."""
        line = await asyncio.wait_for(self.reader.readline(), SECONDS)
        return json.loads(line) if line else None


def test_items_come_a_line_each_and_then_the_end(folder: Path) -> None:
    async def case() -> None:
        async with serving(folder) as connect:
            client = await connect()
            client.say('{"id": "a", "method": "count", "params": {"lastNumber": 2}}')
            for number in range(2):
                assert await client.hear() == {"id": "a", "item": {"number": number, "text": "x" * 100}}
            assert await client.hear() == {"id": "a", "done": True}
            client.say('{"id": 2, "method": "count", "params": {"lastNumber": 0}}')
            assert await client.hear() == {"id": 2, "done": True}

    run(case())


def test_who_says_all_at_once_and_hangs_up_half_is_answered_in_order(folder: Path) -> None:
    async def case() -> None:
        async with serving(folder) as connect:
            client = await connect()
            client.say('{"id": 1, "method": "count", "params": {"lastNumber": 5000}}\n')
            client.writer.write(b'{"id": 2, "method": "miss"}')
            client.writer.write_eof()
            numbers = [(await client.hear())["item"]["number"] for _ in range(5000)]
            assert numbers == list(range(5000))
            assert await client.hear() == {"id": 1, "done": True}
            assert await client.hear() == {"id": 2, "item": "a first item"}
            said = {"code": "not-found", "message": "there is no default/web"}
            assert await client.hear() == {"id": 2, "error": said}
            assert await client.hear() is None

    run(case())


@pytest.mark.parametrize(
    ("request_line", "code", "message"),
    [
        ("nonsense", "bad-request", "not understood: JSON is malformed: invalid character (byte 4)"),
        ("[]", "bad-request", "not understood: Expected `object`, got `array`"),
        ("{}", "bad-request", "not understood: Object missing required field `method`"),
        (
            '{"method": "count", "params": {"upTo": 3}}',
            "bad-request",
            "not understood: Object contains unknown field `upTo`",
        ),
        (
            '{"method": "count", "params": {"lastNumber": "3"}}',
            "bad-request",
            "not understood: Expected `int`, got `str` - at `$.lastNumber`",
        ),
        ('{"method": "fly"}', "unknown-method", "'fly' is none of break, count, miss"),
        ('{"method": "count", "version": 2}', "unsupported-version", "version 2 is not spoken, but 1"),
        ('{"method": "break"}', "internal", "the agent's log says what went wrong"),
    ],
)
def test_what_cannot_be_answered_is_an_error_and_the_talk_goes_on(
    folder: Path, request_line: str, code: str, message: str
) -> None:
    async def case() -> None:
        async with serving(folder) as connect:
            client = await connect()
            client.say(request_line)
            assert await client.hear() == {"id": None, "error": {"code": code, "message": message}}
            client.say('{"id": 2, "method": "count", "params": {"lastNumber": 0}}')
            assert await client.hear() == {"id": 2, "done": True}

    run(case())


def test_a_request_without_end_is_not_kept(folder: Path) -> None:
    async def case() -> None:
        async with serving(folder) as connect:
            client = await connect()
            client.writer.write(b"x" * 3 * MAX_REQUEST_BYTES)
            said = await client.hear()
            assert said["error"]["code"] == "bad-request"
            assert await client.hear() is None

    run(case())


def test_nobody_else_is_told_anything(folder: Path) -> None:
    async def case() -> None:
        async with serving(folder, is_welcome=False) as connect:
            client = await connect()
            client.say('{"method": "count", "params": {"lastNumber": 1}}')
            with suppress(ConnectionResetError):
                assert await client.hear() is None

    run(case())


def test_who_asks_nothing_makes_room_and_who_is_being_answered_does_not(folder: Path) -> None:
    async def case() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def wait(_: NoParameters) -> AsyncGenerator[object, None]:
            begun.set()
            await go_on.wait()
            yield "answered"

        async with serving(folder, {**METHODS, "wait": Method(wait)}, max_clients=2) as connect:
            busy = await connect()
            busy.say('{"id": 1, "method": "wait"}')
            await begun.wait()
            idle = await connect()
            begun.clear()
            newcomer = await connect()
            newcomer.say('{"id": 2, "method": "wait"}')
            await begun.wait()
            with suppress(ConnectionResetError):
                assert await idle.hear() is None
            too_many = await connect()
            assert (await too_many.hear())["error"]["code"] == "too-many-clients"
            assert await too_many.hear() is None
            go_on.set()
            assert await busy.hear() == {"id": 1, "item": "answered"}
            assert await newcomer.hear() == {"id": 2, "item": "answered"}

    run(case())


def test_no_more_is_made_than_a_client_takes_and_who_takes_nothing_is_left(folder: Path) -> None:
    async def case() -> None:
        made = 0
        ended = asyncio.Event()

        async def flood(_: NoParameters) -> AsyncGenerator[object, None]:
            nonlocal made
            try:
                while True:
                    made += 1
                    yield "x" * 10_000
            finally:
                ended.set()

        async with serving(folder, {"flood": Method(flood)}, patience_seconds=0.2) as connect:
            with socket.socket(socket.AF_UNIX) as sock:
                await connect()
                sock.connect(str(admin_socket_in(folder)))
                sock.sendall(b'{"method": "flood"}\n')
                await ended.wait()
                assert made < 2000

    run(case())


def test_a_live_view_ends_when_its_client_hangs_up(folder: Path) -> None:
    async def case() -> None:
        ended = asyncio.Event()

        async def tick(_: NoParameters) -> AsyncGenerator[object, None]:
            try:
                while True:
                    yield "tick"
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        async with serving(folder, {"tick": Method(tick)}) as connect:
            client = await connect()
            client.say('{"method": "tick"}')
            for _ in range(3):
                assert await client.hear() == {"id": None, "item": "tick"}
            client.writer.close()
            await ended.wait()

    run(case())


def test_the_loop_has_its_turn_while_much_is_answered(folder: Path) -> None:
    """Though all of the answer fits into the buffer, so that nobody waits for the client."""

    async def case() -> None:
        turns = turns_meanwhile = 0

        async def look_around() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def work(_: NoParameters) -> AsyncGenerator[object, None]:
            nonlocal turns_meanwhile
            began = turns
            for number in range(4000):
                sum(range(2000))
                yield number
            turns_meanwhile = turns - began

        async with serving(folder, {"work": Method(work)}) as connect:
            client = await connect()
            looking = asyncio.ensure_future(look_around())
            client.say('{"id": 1, "method": "work"}')
            while (await client.hear()).get("done") is None:
                pass
            looking.cancel()
            assert turns_meanwhile > 10

    run(case())


def test_the_socket_is_for_root_and_is_found_without_the_namespace(folder: Path) -> None:
    async def case() -> None:
        async with serving(folder) as connect:
            await connect()
            assert stat.S_IMODE(admin_socket_in(folder).stat().st_mode) == 0o600
            link = folder.parent / "admin.sock"
            assert link.resolve() == admin_socket_in(folder)

    run(case())
    assert not [*folder.iterdir()]
    assert not (folder.parent / "admin.sock").is_symlink()


def test_what_a_crash_left_is_replaced_and_a_successors_file_is_left_alone(folder: Path) -> None:
    async def case() -> None:
        stale = SocketFile(folder)
        stale.listen(1).close()
        async with serving(folder):
            while await asyncio.to_thread(_is_refused, folder):
                await asyncio.sleep(0.01)
            stale.remove()
            assert not _is_refused(folder)

    run(case())


def _is_refused(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(admin_socket_in(folder))) != 0


def test_the_link_is_the_first_ones_as_long_as_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first, second = SocketFile(tmp_path / "1"), SocketFile(tmp_path / "2")
    link = tmp_path / "admin.sock"
    for file in (first, second):
        file.listen(1).close()
    second.remove()
    assert link.resolve() == first.path
    first.remove()
    assert not link.is_symlink()
    second.listen(1).close()
    assert link.resolve() == second.path


def test_a_folder_that_is_not_there_yet_is_waited_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.rmdir()

    async def case() -> None:
        async with serving(folder):
            await asyncio.sleep(0)
            assert [record.levelname for record in caplog.records] == ["ERROR"]

    run(case())
    assert "Admin socket cannot be served, trying until it can" in caplog.text
