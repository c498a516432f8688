"""How the agent follows the node's network."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import uvloop

from userspace_proxy.agent.network_watch import watch_network
from userspace_proxy.netlink.node_network import NetworkChanges


class ToldChanges(NetworkChanges):
    """Changes that the test makes up."""

    def __init__(self) -> None:
        self._socket, self._other = socket.socketpair()
        self._socket.setblocking(False)

    def change(self) -> None:
        self._other.send(b"x")

    def close(self) -> None:
        super().close()
        self._other.close()


def test_a_network_that_changes_all_the_time_is_read_a_tenth_of_the_time() -> None:
    reading_seconds = 0.02

    async def run() -> float:
        loop = asyncio.get_running_loop()
        changes, read_at = ToldChanges(), list[float]()
        enough = asyncio.Event()

        async def read() -> None:
            read_at.append(loop.time())
            changes.change()
            await asyncio.sleep(reading_seconds)
            if len(read_at) == 3:
                enough.set()

        following = asyncio.ensure_future(watch_network(changes, read))
        changes.change()
        try:
            async with asyncio.timeout(10):
                await enough.wait()
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            changes.close()
        return read_at[2] - read_at[0]

    assert uvloop.run(run()) >= 2 * 10 * reading_seconds
