"""Frames and descriptors over a socket pair."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop

from userspace_proxy.dataplane.channel import Channel


class End:
    """One end of a pair of channels; remembers what came."""

    def __init__(self, sock: socket.socket) -> None:
        self.frames: asyncio.Queue[tuple[bytes, list[int]]] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.channel = Channel(
            asyncio.get_running_loop(),
            sock,
            lambda payload, descriptors: self.frames.put_nowait((payload, descriptors)),
            self.closed.set,
        )

    async def next_frame(self) -> tuple[bytes, list[int]]:
        async with asyncio.timeout(20):
            return await self.frames.get()


def with_pair(scenario: Callable[[End, End], Awaitable[None]]) -> None:
    async def run() -> None:
        left, right = (End(sock) for sock in socket.socketpair())
        try:
            await scenario(left, right)
        finally:
            left.channel.close()
            right.channel.close()

    uvloop.run(run())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_frames_arrive_whole_and_in_order() -> None:
    payloads = [b"", b"a", b"x" * 3_000_000, b"last"]

    async def scenario(left: End, right: End) -> None:
        for payload in payloads:
            left.channel.send(payload)
        assert [(await right.next_frame())[0] for _ in payloads] == payloads

    with_pair(scenario)


def test_descriptors_come_with_the_frame_they_were_sent_with() -> None:
    async def scenario(left: End, right: End) -> None:
        pipes = [os.pipe() for _ in range(5)]
        left.channel.send(b"two", [pipes[0][0], pipes[1][0]])
        left.channel.send(b"none" * 100_000)
        left.channel.send(b"three", [pipe[0] for pipe in pipes[2:]])
        came = [await right.next_frame() for _ in range(3)]
        assert [len(descriptors) for _, descriptors in came] == [2, 0, 3]
        received = [fd for _, descriptors in came for fd in descriptors]
        for (_, write_end), fd in zip(pipes, received, strict=True):
            os.write(write_end, str(write_end).encode())
            assert os.read(fd, 10) == str(write_end).encode()
        for fd in [*received, *(end for pipe in pipes for end in pipe)]:
            os.close(fd)

    before = open_descriptors()
    with_pair(scenario)
    assert open_descriptors() == before


def test_253_descriptors_fit_in_a_frame() -> None:
    async def scenario(left: End, right: End) -> None:
        null = os.open("/dev/null", os.O_RDONLY)
        left.channel.send(b"many", [null] * 253)
        _, descriptors = await right.next_frame()
        assert len(descriptors) == 253
        for fd in [null, *descriptors]:
            os.close(fd)

    with_pair(scenario)


@pytest.mark.parametrize(
    "frame",
    [struct.pack("!IH", 0, 0), struct.pack("!IH", 1000, 253) + b"part of 1000 bytes"],
    ids=["that says it has none", "that never ends"],
)
def test_descriptors_are_not_hoarded_for_a_frame(frame: bytes) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        end = End(ours)
        before = open_descriptors()
        with theirs, suppress(BrokenPipeError):
            for number in range(len(frame)):
                socket.send_fds(theirs, [frame[number : number + 1]], [theirs.fileno()] * 100)
                await asyncio.sleep(0.001)
        async with asyncio.timeout(20):
            await end.closed.wait()
        assert open_descriptors() == before - 2

    uvloop.run(scenario())


def test_both_sides_learn_of_the_end() -> None:
    async def scenario(left: End, right: End) -> None:
        left.channel.close()
        async with asyncio.timeout(20):
            await right.closed.wait()
            await left.closed.wait()
        left.channel.send(b"into the void")
        right.channel.send(b"into the void")

    with_pair(scenario)


@pytest.mark.parametrize(
    "nonsense",
    [b"\xff\xff\xff\xff\x00\x00", b"\x00\x00\x00\x01\x00\x01x"],
    ids=["a frame of 4 GiB", "a descriptor that did not come"],
)
def test_nonsense_closes_the_channel(nonsense: bytes) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        end = End(ours)
        with theirs:
            theirs.send(nonsense)
            async with asyncio.timeout(20):
                await end.closed.wait()

    uvloop.run(scenario())
