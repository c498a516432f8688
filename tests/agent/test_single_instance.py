"""One agent for each network namespace; every test runs in one of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from userspace_proxy.agent.single_instance import (
    Request,
    SingleInstance,
    end_running_agent,
    running_agent,
)
from userspace_proxy.errors import AgentRunningError

HOLDER = """
import signal, sys, time
from userspace_proxy.agent.single_instance import SingleInstance
signal.signal(signal.SIGTERM, signal.{on_sigterm})
instance = SingleInstance()
instance.hold()
print("held", flush=True)
time.sleep(60)
"""


def start_holder(on_sigterm: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(on_sigterm=on_sigterm)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_nobody_runs() -> None:
    assert running_agent() is None
    assert end_running_agent() is None


def test_the_second_is_told_who_the_first_is() -> None:
    first = SingleInstance()
    first.hold()
    assert running_agent() == os.getpid()
    with pytest.raises(AgentRunningError, match=f"pid {os.getpid()}") as caught:
        SingleInstance().hold()
    assert caught.value.pid == os.getpid()
    first.close()
    second = SingleInstance()
    second.hold()
    second.close()


def test_asking_never_fills_the_holder_up() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        instance = SingleInstance()
        instance.hold()
        instance.answer(loop, lambda request: None)
        for _ in range(1000):
            assert running_agent() == os.getpid()
            await asyncio.sleep(0)
        instance.close()

    uvloop.run(scenario())


@pytest.mark.parametrize("on_sigterm", ["SIG_DFL", "SIG_IGN"])
def test_a_running_agent_is_ended(on_sigterm: str) -> None:
    with start_holder(on_sigterm) as process:
        assert end_running_agent(grace_seconds=0.2) == process.pid
        assert process.wait(5) in (-signal.SIGTERM, -signal.SIGKILL)
        assert running_agent() is None


def in_a_loop(scenario: Callable[[asyncio.AbstractEventLoop], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await scenario(asyncio.get_running_loop())

    uvloop.run(run())


def test_with_nobody_there_it_takes_over_at_once() -> None:
    async def scenario(_: asyncio.AbstractEventLoop) -> None:
        instance = SingleInstance()
        assert await instance.take_over() is None
        assert running_agent() == os.getpid()
        instance.close()

    in_a_loop(scenario)


def test_the_first_is_asked_to_hand_over_and_the_second_waits_until_it_has() -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        first, second = SingleInstance(), SingleInstance()
        requests: asyncio.Queue[Request] = asyncio.Queue()
        first.hold()
        first.answer(loop, requests.put_nowait)
        taking_over = asyncio.create_task(second.take_over())
        assert await requests.get() is Request.HAND_OVER
        assert not taking_over.done()
        first.close()
        assert await taking_over == os.getpid()
        second.close()

    in_a_loop(scenario)


def test_who_does_not_hand_over_stays() -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        first, second = SingleInstance(), SingleInstance()
        first.hold()
        first.answer(loop, lambda request: None)
        with pytest.raises(AgentRunningError, match="does not let go"):
            await second.take_over(patience_seconds=0.1)
        assert running_agent() == os.getpid()
        first.close()

    in_a_loop(scenario)


def test_who_does_not_know_the_request_hangs_up_and_stays() -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        first = SingleInstance()
        first.hold()
        first.answer(loop, lambda request: pytest.fail("that is no request"))
        with socket.socket(socket.AF_UNIX) as asker:
            asker.setblocking(False)
            await loop.sock_connect(asker, "\0userspace-proxy/agent")
            await loop.sock_sendall(asker, b"what?\n")
            assert await loop.sock_recv(asker, 10) == b""
        first.close()

    in_a_loop(scenario)
