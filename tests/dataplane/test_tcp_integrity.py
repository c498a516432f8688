"""Many connections of every kind at once, and each byte of them compared.

Sizes, pauses, who ends first and who resets are random. Every connection has a piece of its own of one pool
of random bytes, so that bytes that are lost, doubled, out of order or somebody else's all show. What the test
prints runs it again; for a long run set these:

    USERSPACE_PROXY_TEST_CONNECTIONS=10000 USERSPACE_PROXY_TEST_SEED=7
"""

from __future__ import annotations

import os
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from random import Random, SystemRandom

from tests.support.loopback import DEADLINE_SECONDS, digest, reset, server, tcp_proxy, wait_until

CONNECTIONS = int(os.environ.get("USERSPACE_PROXY_TEST_CONNECTIONS", "300"))
SEED = int(os.environ.get("USERSPACE_PROXY_TEST_SEED", SystemRandom().randrange(1_000_000)))
AT_ONCE = 32
MOST_BYTES = 3_000_000
HEADER_BYTES = 8


class Ending(Enum):
    """How the other side's stream ended."""

    ORDERLY = "orderly"
    RESET = "reset"


@dataclass(frozen=True)
class Manner:
    """What one side does: it sends `outgoing` in pieces of `writes`, reads `reads` at a time, and may rest.

    `waits` says that it sends only when the other side has ended, `resets_after` that it resets the
    connection after so many bytes of its own instead of ending its stream.
    """

    outgoing: memoryview
    writes: int
    reads: int
    rests: bool
    waits: bool
    resets_after: int | None


@dataclass
class Received:
    data: bytearray = field(default_factory=bytearray)
    ending: Ending | None = None


@dataclass(frozen=True)
class Plan:
    client: Manner
    endpoint: Manner


def manner(pool: memoryview, chance: Random, *, may_wait: bool) -> Manner:
    size = chance.choice((0, 1, 1000, 65535, 65536, 65537, 131072, chance.randrange(100_000)))
    if chance.random() < 0.05:
        size = chance.randrange(MOST_BYTES)
    start = chance.randrange(len(pool) - size)
    resets = chance.random() < 0.1
    return Manner(
        outgoing=pool[start : start + size],
        writes=chance.choice((size // 20 + 1, 1 << 20)),
        reads=chance.choice((size // 20 + 4096, 1 << 18)),
        rests=chance.random() < 0.2,
        waits=may_wait and chance.random() < 0.3,
        resets_after=chance.randrange(size + 1) if resets else None,
    )


def converse(sock: socket.socket, side: Manner) -> Received:
    """Send and receive at the same time, to the end of both streams or a reset."""
    received = Received()
    sock.setblocking(False)
    left = side.outgoing if side.resets_after is None else side.outgoing[: side.resets_after]
    speaks = True
    poll = select.poll()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while speaks or received.ending is None:
        assert time.monotonic() < deadline, "the conversation does not end"
        may_write = speaks and not (side.waits and received.ending is None)
        hears = select.POLLIN if received.ending is None else 0
        poll.register(sock, hears | (select.POLLOUT if may_write else 0))
        poll.poll(1000)
        if side.rests:
            time.sleep(0.0002)
        try:
            if received.ending is None:
                receive(sock, side.reads, received)
            if may_write and not left:
                speaks = False
                if side.resets_after is not None:
                    reset(sock)
                    break
                sock.shutdown(socket.SHUT_WR)
            elif may_write:
                left = left[sock.send(left[: side.writes]) :]
        except BlockingIOError:
            continue
        except OSError:
            received.ending = Ending.RESET
            break
    return received


def receive(sock: socket.socket, most: int, received: Received) -> None:
    try:
        chunk = sock.recv(most)
    except BlockingIOError:
        return
    received.data += chunk
    if not chunk:
        received.ending = Ending.ORDERLY


def check(number: int, received: Received, sender: Manner, *, is_reset: bool) -> None:
    """`is_reset`: one of the two sides resets, so that any beginning may have come."""
    came = bytes(received.data)
    if not is_reset:
        assert received.ending is Ending.ORDERLY, f"connection {number} was reset by nobody"
        assert len(came) == len(sender.outgoing), f"connection {number}"
    sent = bytes(sender.outgoing[: len(came)])
    assert digest(came) == digest(sent), f"connection {number}: other bytes than were sent"
    if sender.resets_after is not None:
        assert received.ending is not Ending.ORDERLY, f"connection {number}: a reset came as an end"


def test_no_byte_is_lost_doubled_or_somebody_elses() -> None:
    print(f"USERSPACE_PROXY_TEST_SEED={SEED} USERSPACE_PROXY_TEST_CONNECTIONS={CONNECTIONS}")
    chance = Random(SEED)
    pool = memoryview(chance.randbytes(2 * MOST_BYTES))
    plans = [
        Plan(manner(pool, chance, may_wait=False), manner(pool, chance, may_wait=True))
        for _ in range(CONNECTIONS)
    ]
    at_endpoints: dict[int, Received] = {}

    def answer(sock: socket.socket) -> None:
        number = int(sock.recv(HEADER_BYTES, socket.MSG_WAITALL) or -1)
        if number >= 0:
            at_endpoints[number] = converse(sock, plans[number].endpoint)

    def call(number: int) -> Received:
        with proxy.connect() as client:
            client.sendall(b"%08d" % number)
            return converse(client, plans[number].client)

    with ExitStack() as stack:
        endpoints = [stack.enter_context(server(answer)) for _ in range(2)]
        listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        # Inherited by what is accepted: with room for little, answers wait in the proxy at every point.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        proxy = stack.enter_context(tcp_proxy(*endpoints, listening=listening))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            at_clients = list(threads.map(call, range(CONNECTIONS)))
        proxy.wait_until_idle()
        orderly = {
            number
            for number, plan in enumerate(plans)
            if plan.client.resets_after is None and plan.endpoint.resets_after is None
        }
        wait_until(lambda: orderly <= at_endpoints.keys())
        assert proxy.counters.failed == 0
        assert proxy.counters.active == 0
        assert proxy.pipes.lent == 0
    for number, plan in enumerate(plans):
        is_reset = number not in orderly
        check(number, at_clients[number], plan.endpoint, is_reset=is_reset)
        if number in at_endpoints:
            check(number, at_endpoints[number], plan.client, is_reset=is_reset)
