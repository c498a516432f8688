"""A worker's end of the talk: what comes along and nobody takes is closed."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterator

import msgspec
import pytest
import uvloop

from userspace_proxy.dataplane.agent_conversation import AgentConversation, Obey
from userspace_proxy.dataplane.channel import encode_frame
from userspace_proxy.dataplane.descriptor_reserve import DescriptorReserve
from userspace_proxy.dataplane.messages import AgentMessage
from userspace_proxy.dataplane.succession import Hello
from userspace_proxy.dataplane.worker_process import take_sockets


@pytest.fixture
def reserve() -> Iterator[DescriptorReserve]:
    """It lowers this process's limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield DescriptorReserve()
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def take_nothing(_: AgentConversation, message: AgentMessage, descriptors: list[int]) -> None:
    """As for a message that needs none."""


def fail(_: AgentConversation, message: AgentMessage, descriptors: list[int]) -> None:
    raise RuntimeError("it cannot be done")


def take_what_is_no_socket(_: AgentConversation, message: AgentMessage, descriptors: list[int]) -> None:
    take_sockets(descriptors, 1)


@pytest.mark.parametrize("obey", [take_nothing, fail, take_what_is_no_socket])
@pytest.mark.parametrize("said", [msgspec.msgpack.encode(Hello(1)), b"\xc1"])
def test_what_nobody_takes_is_closed(obey: Obey, said: bytes, reserve: DescriptorReserve) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        conversation = AgentConversation(loop, ours, obey, lambda _: None, reserve)
        received, sent = os.pipe()
        with theirs:
            socket.send_fds(theirs, [encode_frame(said, 1)], [received])
            os.close(received)
            async with asyncio.timeout(10):
                with pytest.raises(BrokenPipeError):
                    while os.write(sent, b"?"):
                        await asyncio.sleep(0.005)
        os.close(sent)
        conversation.close()

    uvloop.run(scenario())
