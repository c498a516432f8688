"""One agent for each network namespace; every test runs in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import uvloop

from userspace_proxy.agent.single_instance import SingleInstance, end_running_agent, running_agent
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
        import asyncio

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
