"""The data path as a library: in an event loop of anybody's, without cluster and rules."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

import userspace_proxy
from tests.support.loopback import open_descriptors, refusing, say_port, server, wait_until
from userspace_proxy import Balancing, StaticService
from userspace_proxy.core.endpoint import Endpoint

ROOT = Path(__file__).parents[1]


def run(conversation: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(conversation(), 20))


def address_of(endpoint: Endpoint) -> tuple[str, int]:
    return endpoint.address, int(endpoint.port)


async def who_answers(service: StaticService) -> int:
    """The port of the endpoint that a new connection reaches."""
    reader, writer = await asyncio.open_connection(*service.address)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer)


async def several(ask: Callable[[], Awaitable[int]], count: int) -> Counter[int]:
    return Counter([await ask() for _ in range(count)])


def test_connections_go_to_each_endpoint_in_turn_and_past_one_that_refuses() -> None:
    with server(say_port) as one, server(say_port) as two, refusing() as nobody:

        async def conversation() -> None:
            endpoints = [address_of(each) for each in (one, two, nobody)]
            async with StaticService(endpoints) as service:
                answers = await several(lambda: who_answers(service), 12)
                assert set(answers) == {one.port, two.port}
                assert service.counters.opened == 12
                assert service.counters.retried >= 1

        run(conversation)


def say_port_and_stay(sock: socket.socket) -> None:
    say_port(sock)
    sock.recv(1)


def test_the_endpoint_with_the_fewest_connections_has_the_next_one() -> None:
    with (
        server(say_port_and_stay) as one,
        server(say_port_and_stay) as two,
        server(say_port_and_stay) as three,
    ):

        async def conversation() -> None:
            endpoints = [address_of(each) for each in (one, two, three)]
            async with StaticService(endpoints, balancing="least-connections") as service:
                held: dict[int, list[asyncio.StreamWriter]] = defaultdict(list)

                async def hold() -> int:
                    reader, writer = await asyncio.open_connection(*service.address)
                    port = int(await reader.read(5))
                    held[port].append(writer)
                    return port

                assert set((await several(hold, 6)).values()) == {2}
                for writer in held[two.port]:
                    writer.close()
                while service.counters.active > 4:
                    await asyncio.sleep(0.01)
                assert await several(hold, 2) == {two.port: 2}
                for writer in (writer for writers in held.values() for writer in writers):
                    writer.close()
                    await writer.wait_closed()

        run(conversation)


def test_a_clients_address_decides() -> None:
    with server(say_port) as one, server(say_port) as two, server(say_port) as three:

        async def conversation() -> None:
            endpoints = [address_of(each) for each in (one, two, three)]
            async with StaticService(endpoints, balancing="source-hash") as service:
                assert len(await several(lambda: who_answers(service), 10)) == 1

        run(conversation)


def test_endpoints_are_replaced() -> None:
    with server(say_port) as one, server(say_port) as two:

        async def conversation() -> None:
            async with StaticService([address_of(one)], balancing=Balancing.LEAST_CONNECTIONS) as service:
                assert await who_answers(service) == one.port
                service.set_endpoints([address_of(two)])
                assert await who_answers(service) == two.port

        run(conversation)


def test_udp() -> None:
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.DatagramTransport", transport)

        def datagram_received(self, data: bytes, address: object) -> None:
            self.transport.sendto(data, address)  # type: ignore[arg-type]

    class Ask(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.answer = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, address: object) -> None:
            self.answer.set_result(data)

    async def conversation() -> None:
        loop = asyncio.get_running_loop()
        endpoint, _ = await loop.create_datagram_endpoint(Echo, ("127.0.0.1", 0))
        async with StaticService([endpoint.get_extra_info("sockname")], protocol="UDP") as service:
            client, asked = await loop.create_datagram_endpoint(Ask, remote_addr=service.address)
            client.sendto(b"hello")
            assert await asked.answer == b"hello"
            client.close()
        endpoint.close()
        await asyncio.sleep(0)  # both close in the loop's next turn

    run(conversation)


def test_nothing_is_left_open() -> None:
    with server(say_port) as one:

        async def conversation() -> None:
            async with StaticService([address_of(one)]) as service:
                await who_answers(service)

        run(conversation)
        before = open_descriptors()
        run(conversation)
        wait_until(lambda: open_descriptors() == before)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: StaticService([("localhost", 80)]),
        lambda: StaticService([], listen=("localhost", 80)),
        lambda: StaticService([], protocol="SCTP"),
        lambda: StaticService([], balancing="maglev"),
    ],
)
def test_what_cannot_be_is_refused_at_once(wrong: Callable[[], StaticService]) -> None:
    with pytest.raises(ValueError):
        wrong()


def test_before_it_listens_it_has_no_address_and_no_counters() -> None:
    service = StaticService([])
    with pytest.raises(RuntimeError):
        _ = service.address
    with pytest.raises(RuntimeError):
        _ = service.counters


def test_the_package_offers_the_library_and_nothing_else() -> None:
    assert all(getattr(userspace_proxy, name) for name in userspace_proxy.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Proxier'"):
        _ = userspace_proxy.Proxier


def test_the_example_serves() -> None:
    with (
        subprocess.Popen(
            [sys.executable, "-m", "http.server", "9001", "--bind", "127.0.0.1", "--directory", str(ROOT)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as endpoint,
        subprocess.Popen(
            [sys.executable, "-u", str(ROOT / "examples" / "library.py")], stdout=subprocess.PIPE, text=True
        ) as example,
    ):
        try:
            assert example.stdout is not None
            assert example.stdout.readline() == "serving at 127.0.0.1 8080\n"
            fetch = ["curl", "-sf", "--retry", "20", "--retry-all-errors", "--retry-delay", "1"]
            fetched = subprocess.run(
                [*fetch, "http://127.0.0.1:8080/LICENSE"], capture_output=True, check=True
            )
            assert fetched.stdout == (ROOT / "LICENSE").read_bytes()
        finally:
            example.terminate()
            endpoint.terminate()


def test_the_page_shows_the_example() -> None:
    example = (ROOT / "examples" / "library.py").read_text().partition("\n\n")[2]
    assert f"```python\n{example}```" in (ROOT / "docs" / "library.md").read_text()
