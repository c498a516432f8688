"""The DNS server on loopback: over UDP and TCP, by dig and by hand, and with clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
import uvloop
from dns.rcode import Rcode

from tests.demo.dns.test_answer import RECORDS, WEB, ask
from tests.support.embedded_api_server import TOKEN, EmbeddedApiServer
from tests.support.waiting import DEADLINE_SECONDS
from userspace_proxy.demo.api_client import ApiClient
from userspace_proxy.demo.api_resources import SERVICES
from userspace_proxy.demo.dns import server
from userspace_proxy.demo.dns.cluster_dns import run_cluster_dns
from userspace_proxy.demo.dns.server import serving

MANY = "many.default.svc.cluster.local."


def run(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scene, 2 * DEADLINE_SECONDS))


def sockets(address: str = "127.0.0.1") -> tuple[socket.socket, socket.socket, int]:
    """For UDP and TCP, on one port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        listening = socket.create_server((address, 0), family=family)
        port = listening.getsockname()[1]
        bound = socket.socket(family, socket.SOCK_DGRAM)
        try:
            bound.bind((address, port))
        except OSError:
            bound.close()
            listening.close()
            continue
        return bound, listening, port


@contextlib.asynccontextmanager
async def dns_server(address: str = "127.0.0.1") -> AsyncIterator[int]:
    """Its port."""
    bound, listening, port = sockets(address)
    async with serving(lambda: RECORDS, [bound], [listening]):
        yield port


def play(scene: Callable[[int], Coroutine[Any, Any, None]], address: str = "127.0.0.1") -> None:
    async def main() -> None:
        async with dns_server(address) as port:
            await scene(port)

    run(main())


async def dig(port: int, *arguments: str) -> str:
    program = shutil.which("dig")
    if program is None:
        pytest.skip("dig is not installed")
    done = await asyncio.to_thread(
        subprocess.run,
        [program, "@127.0.0.1", "-p", str(port), "+tries=1", "+time=20", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_dig() -> None:
    async def scene(port: int) -> None:
        assert await dig(port, "+short", WEB) == "10.96.0.10\n"
        assert await dig(port, "+short", "+tcp", WEB, "AAAA") == "fd00:96::a\n"
        assert await dig(port, "+short", "-x", "10.96.0.10") == f"{WEB}\n"
        located = await dig(port, "_sql._tcp.db.default.svc.cluster.local", "SRV")
        assert "5432 db-0.db.default.svc.cluster.local." in located
        assert "recursion requested but not available" not in located
        # Truncated over UDP, so dig comes again over TCP.
        assert len((await dig(port, "+short", MANY)).splitlines()) == 300
        assert "status: NXDOMAIN" in await dig(port, "nobody.default.svc.cluster.local")
        assert "status: NOERROR" in await dig(port, "+search", "+domain=default.svc.cluster.local", "web")

    play(scene)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_both_families(address: str) -> None:
    async def scene(port: int) -> None:
        query = dns.message.make_query(WEB, "A")
        for asked in (dns.asyncquery.udp, dns.asyncquery.tcp):
            reply = await asked(query, address, port=port, timeout=DEADLINE_SECONDS)
            assert reply.answer == ask(WEB).answer

    play(scene, address)


def test_nonsense_is_answered_or_passed_over_and_the_next_question_is_answered() -> None:
    async def scene(port: int) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(("127.0.0.1", port))
            for scrap in (b"", b"?", bytes(500)):
                client.send(scrap)
            client.send(dns.message.make_query(WEB, "A", id=4711).to_wire())
            while True:
                reply = await asyncio.wait_for(loop.sock_recv(client, 2048), DEADLINE_SECONDS)
                if int.from_bytes(reply[:2]) == 4711:
                    break
            assert dns.message.from_wire(reply).answer == ask(WEB).answer

    play(scene)


def test_questions_over_one_connection_are_answered_in_their_order() -> None:
    async def scene(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, name in enumerate((WEB, MANY, "x.")):
            wire = dns.message.make_query(name, "A", id=number).to_wire()
            writer.write(len(wire).to_bytes(2) + wire)
        for number, rcode in enumerate((Rcode.NOERROR, Rcode.NOERROR, Rcode.NXDOMAIN)):
            length = int.from_bytes(await reader.readexactly(2))
            reply = dns.message.from_wire(await reader.readexactly(length))
            assert (reply.id, reply.rcode()) == (number, rcode)
            assert not reply.flags & dns.flags.TC
        writer.close()

    play(scene)


def test_clients_that_say_nothing_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.05)

    async def scene(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x00")
        assert await reader.read() == b""
        writer.close()

    play(scene)


def test_only_so_many_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)

    async def scene(port: int) -> None:
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        reply = await dns.asyncquery.udp(
            dns.message.make_query(WEB, "A"), "127.0.0.1", port=port, timeout=DEADLINE_SECONDS
        )
        assert reply.answer
        for _, each in kept:
            each.close()

    play(scene)


def test_it_follows_the_api_server(tmp_path: Path) -> None:
    async def scene(api: EmbeddedApiServer) -> None:
        bound, listening, port = sockets()

        async def rcode(name: str) -> Rcode:
            query = dns.message.make_query(name, "A")
            reply = await dns.asyncquery.udp(query, "127.0.0.1", port=port, timeout=DEADLINE_SECONDS)
            return reply.rcode()

        async def until(expected: Rcode) -> None:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while await rcode(WEB) != expected:
                    await asyncio.sleep(0.01)

        async with ApiClient(api.url, token=TOKEN, tls=api.certificates.client_context()) as client:
            running = asyncio.create_task(run_cluster_dns(client, udp=[bound], tcp=[listening]))
            try:
                await until(Rcode.NXDOMAIN)
                await client.create(
                    SERVICES, "default", {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}
                )
                await until(Rcode.NOERROR)
                await client.delete(SERVICES, "default", "web")
                await until(Rcode.NXDOMAIN)
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
            assert bound.fileno() == listening.fileno() == -1

    with EmbeddedApiServer(tmp_path) as api:
        run(scene(api))
