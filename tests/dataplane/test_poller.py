from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvloop

from tests.support.loopback import open_descriptors
from userspace_proxy.dataplane.poller import HUNG_UP, PEER_CLOSED, READABLE, WRITABLE, Poller


class Bench:
    """A poller in a loop that a test advances by hand, and what it reported."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.errors: list[Exception] = []
        self.poller = Poller(self.loop, self.errors.append)
        self.events: list[int] = []
        self._sockets: list[socket.socket] = []

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Two connected sockets; the first is the one to register."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._sockets += (ours, theirs)
        return ours, theirs

    def turn(self) -> None:
        """Let everything that is ready be reported."""
        for _ in range(3):
            self.loop.run_until_complete(asyncio.sleep(0))

    def close(self) -> None:
        self.poller.close()
        for sock in self._sockets:
            sock.close()
        self.loop.close()


@contextmanager
def open_bench() -> Iterator[Bench]:
    bench = Bench()
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with open_bench() as opened:
        yield opened


def test_a_connection_reports_edges_of_both_directions_once(bench: Bench) -> None:
    ours, theirs = bench.pair()
    bench.poller.register(ours.fileno(), bench.events.append)
    bench.turn()
    assert bench.events == [WRITABLE]
    bench.turn()
    assert len(bench.events) == 1
    theirs.send(b"x")
    bench.turn()
    assert bench.events[1:] == [READABLE | WRITABLE]
    bench.turn()
    theirs.shutdown(socket.SHUT_WR)
    bench.turn()
    assert bench.events[2:] == [READABLE | WRITABLE | PEER_CLOSED]
    theirs.close()
    bench.turn()
    assert bench.events[-1] & HUNG_UP


def test_a_listener_is_reported_until_it_is_served(bench: Bench) -> None:
    ours, theirs = bench.pair()
    bench.poller.register(ours.fileno(), bench.events.append, READABLE)
    theirs.send(b"x")
    bench.turn()
    seen = len(bench.events)
    bench.turn()
    assert len(bench.events) > seen
    bench.poller.modify(ours.fileno(), 0)
    seen = len(bench.events)
    bench.turn()
    assert len(bench.events) == seen
    bench.poller.modify(ours.fileno(), READABLE)
    bench.turn()
    assert len(bench.events) > seen


def test_another_callback_takes_over(bench: Bench) -> None:
    ours, theirs = bench.pair()
    bench.poller.register(ours.fileno(), bench.events.append)
    bench.turn()
    later: list[int] = []
    bench.poller.rebind(ours.fileno(), later.append)
    theirs.send(b"x")
    bench.turn()
    assert bench.events == [WRITABLE]
    assert later == [READABLE | WRITABLE]


def test_unregistering_ends_the_reports_though_others_hold_the_socket(bench: Bench) -> None:
    ours, theirs = bench.pair()
    with ours.dup():
        bench.poller.register(ours.fileno(), bench.events.append, READABLE)
        bench.poller.unregister(ours.fileno())
        ours.close()
        theirs.send(b"x")
        assert bench.poller._epoll.poll(0) == [], "else it would be reported, to nobody, for ever"
    assert len(bench.poller) == 0


def test_what_cannot_be_registered_is_forgotten(bench: Bench) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        bench.poller.register(1_000_000, bench.events.append)
    assert len(bench.poller) == 0


def test_a_callback_that_fails_does_not_keep_the_others_from_theirs(bench: Bench) -> None:
    def fail(_: int) -> None:
        raise ValueError("broken")

    one, _ = bench.pair()
    two, _ = bench.pair()
    bench.poller.register(one.fileno(), fail)
    bench.poller.register(two.fileno(), bench.events.append)
    bench.turn()
    assert [str(error) for error in bench.errors] == ["broken"]
    assert bench.events == [WRITABLE]


def test_a_number_is_not_reused_while_events_of_the_same_batch_may_name_it(bench: Bench) -> None:
    """Whoever is called first retires the other; the other's event must find nobody."""
    one, _ = bench.pair()
    two, _ = bench.pair()
    reused: list[bool] = []

    def retire(other: socket.socket) -> None:
        number = other.fileno()
        bench.poller.retire(other)
        with socket.socket() as newcomer:
            reused.append(newcomer.fileno() == number)

    bench.poller.register(one.fileno(), lambda _: retire(two))
    bench.poller.register(two.fileno(), lambda _: retire(one))
    bench.turn()
    assert reused == [False]
    assert sorted((one.fileno(), two.fileno()))[0] == -1
    assert len(bench.poller) == 1


def test_outside_a_batch_retiring_closes_at_once(bench: Bench) -> None:
    ours, _ = bench.pair()
    bench.poller.register(ours.fileno(), bench.events.append)
    bench.poller.retire(ours)
    assert ours.fileno() == -1
    assert len(bench.poller) == 0


def test_a_conversation_that_answers_at_once_is_waited_for(bench: Bench) -> None:
    ours, theirs = bench.pair()
    bench.poller.register(ours.fileno(), bench.events.append)
    bench.turn()
    bench.poller._patience.seconds = 10.0

    def answer(events: int) -> None:
        bench.events.append(events)
        ours.recv(10)
        if len(bench.events) < 5:
            theirs.send(b"next")
        else:
            bench.poller._patience.seconds = 0

    bench.poller.rebind(ours.fileno(), answer)
    theirs.send(b"first")
    bench.loop.run_until_complete(asyncio.sleep(0))
    bench.loop.run_until_complete(asyncio.sleep(0))
    assert len(bench.events) == 5, "all within one turn of the loop"


def test_a_conversation_that_never_pauses_leaves_others_their_turn(bench: Bench) -> None:
    ours, theirs = bench.pair()

    def answer(_: int) -> None:
        bench.events.append(1)
        ours.recv(10)
        theirs.send(b"next")

    theirs.send(b"first")
    bench.poller._patience.seconds = 10.0
    bench.poller.register(ours.fileno(), answer)
    bench.turn()
    bench.poller._patience.seconds = 0
    assert len(bench.events) < 1000


def test_who_is_to_go_on_soon_does_so_before_anybody_is_waited_for(bench: Bench) -> None:
    ours, theirs = bench.pair()
    order: list[str] = []

    def on_event(_: int) -> None:
        order.append("event")
        if len(order) == 1:
            bench.poller.soon(lambda: order.append("went on"))
            theirs.send(b"the next event")

    bench.poller._patience.seconds = 1.0
    bench.poller.register(ours.fileno(), on_event)
    bench.turn()
    bench.poller._patience.seconds = 0
    assert order[:3] == ["event", "went on", "event"]


def test_what_is_to_pile_up_is_not_looked_for(bench: Bench) -> None:
    ours, theirs = bench.pair()
    order: list[str] = []

    def on_event(_: int) -> None:
        order.append("event")
        ours.recv(10)
        if len(order) < 3:
            bench.poller.let_pile_up()
            bench.loop.call_soon(order.append, "others")
            theirs.send(b"the next event")

    bench.poller.register(ours.fileno(), lambda _: None)
    bench.turn()
    bench.poller.rebind(ours.fileno(), on_event)
    theirs.send(b"first")
    bench.poller._patience.seconds = 1.0
    bench.turn()
    bench.poller._patience.seconds = 0
    assert order[:3] == ["event", "others", "event"]


def test_closing_leaves_nothing_open() -> None:
    with open_bench():
        pass  # what libraries open once and keep
    before = open_descriptors()
    with open_bench() as bench:
        ours, _ = bench.pair()
        bench.poller.register(ours.fileno(), bench.events.append)
        bench.turn()
    assert open_descriptors() == before
