"""Requests that are sent for the page's sake: bounded, counted, and forgotten when nobody looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, cast

import pytest

from tests.demo.web.answers import service
from userspace_proxy.demo.sandbox import Sandbox
from userspace_proxy.demo.web.load import MOST_PER_SECOND, Aim, Load, aim_at

DEADLINE_SECONDS = 30.0

T = TypeVar("T")


class Here:
    """The namespaces that we are in already."""

    def call(self, function: Callable[[], T]) -> T:
        return function()


def here() -> Sandbox:
    return cast(Sandbox, Here())


@asynccontextmanager
async def server(answer: bytes) -> AsyncIterator[Aim]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield Aim("default/web", *listening.sockets[0].getsockname()[:2])


async def until(load: Load, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Run a load until its state is so; the state after its end."""
    running = asyncio.create_task(load.run())
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition(state := load.state()):
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert load.state()["perSecond"] == 0
    return state


def test_answers_are_counted_and_timed() -> None:
    async def send() -> dict[str, Any]:
        load = Load(here)
        async with server(b"HTTP/1.1 200 OK\r\n\r\n") as aim:
            load.send(aim, 50)
            return await until(load, lambda state: state["answered"] >= 5)

    state = asyncio.run(send())
    assert state["failed"] == 0
    assert state["medianMilliseconds"] > 0
    assert state["service"] == "default/web"


def test_who_gets_no_answer_has_failed() -> None:
    async def send() -> dict[str, Any]:
        load = Load(here)
        async with server(b"") as aim:
            load.send(aim, 50)
            return await until(load, lambda state: state["failed"] >= 3)

    assert asyncio.run(send())["answered"] == 0


def test_without_its_pod_nothing_is_sent() -> None:
    async def send() -> dict[str, Any]:
        load = Load(lambda: None)
        load.send(Aim("default/web", "127.0.0.1", 1), 50)
        return await until(load, lambda state: state["problem"])

    assert asyncio.run(send())["problem"] == "there is no pod default/client to send from"


def test_there_is_a_limit() -> None:
    load = Load(lambda: None)
    load.send(Aim("default/web", "127.0.0.1", 1), 10_000)
    assert load.state()["perSecond"] == MOST_PER_SECOND
    load.send(None, 10)
    assert load.state()["perSecond"] == 0


@pytest.mark.parametrize(
    ("spec", "aim"),
    [
        ({}, Aim("default/web", "10.96.0.7", 80)),
        ({"clusterIP": "fd00::7"}, Aim("default/web", "fd00::7", 80)),
        ({"ports": [{"port": 53, "protocol": "UDP"}, {"port": 54}]}, Aim("default/web", "10.96.0.7", 54)),
        ({"clusterIP": "None"}, None),
        ({"clusterIP": None}, None),
        ({"ports": [{"port": 53, "protocol": "UDP"}]}, None),
    ],
)
def test_requests_go_to_the_first_tcp_port(spec: dict[str, Any], aim: Aim | None) -> None:
    assert aim_at(service(**spec)) == aim
