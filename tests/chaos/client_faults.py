"""What clients do that do not behave. The others do not notice."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from random import Random

from tests.chaos.faults import Fault
from tests.chaos.world import World
from tests.support.clients import sockets
from tests.support.floods import flood_datagrams, flood_syns
from tests.support.loopback import reset

PORTIONS = 10
SYNS = 300
DATAGRAMS = (200, 2000)
IDLE = (200, 3000)
"""Few, and more than one client may have: a quarter of what a worker has room for."""


class SynFlood(Fault):
    """From addresses that nobody has."""

    def inflict(self) -> None:
        for _ in range(PORTIONS):
            flood_syns(self.world.node.network.outside, self.world.service["greet"], SYNS)
            time.sleep(0.05)


class UdpFlood(Fault):
    """From addresses that nobody has."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        self.size = random.choice(DATAGRAMS)
        self.detail = f"of {self.size * PORTIONS} datagrams"

    def inflict(self) -> None:
        start = self.random.randrange(60_000)
        for number in range(PORTIONS):
            target = self.world.service["name"]
            outside = self.world.node.network.outside
            flood_datagrams(outside, target, self.size, start=start + number * self.size)
            time.sleep(0.05)


class IdleConnections(Fault):
    """Many that ask for half of a page, and no more."""

    def __init__(self, world: World, random: Random) -> None:
        super().__init__(world, random)
        self.number = random.choice(IDLE)
        self.detail = f"{self.number} of them"

    def inflict(self) -> None:
        with ExitStack() as stack:
            for client in sockets(self.world.node.network.outside, self.number):
                stack.callback(reset, client)
                with suppress(OSError):
                    client.connect(self.world.service["http"])
                    client.send(b"GET / HTTP/1.1\r\n")
            self.idle = stack.pop_all()

    def heal(self) -> None:
        self.idle.close()
