"""What recvmmsg says beside what Python's recvmsg says of the same datagrams, over loopback."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from userspace_proxy.dataplane.packet_info import receive_packet_info
from userspace_proxy.dataplane.received_datagrams import (
    BURST,
    LAYOUTS,
    MAX_DATAGRAM,
    RECORD_SIZE,
    ReceivedDatagrams,
    pack_address,
    unpack_address,
)

LOOPBACKS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


@contextmanager
def open_pair(family: socket.AddressFamily, address: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket that tells where datagrams were sent to, and one that is connected to it."""
    with (
        socket.socket(family, socket.SOCK_DGRAM) as server,
        socket.socket(family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((address, 0))
        server.setblocking(False)
        client.connect(server.getsockname())
        yield server, client


def part(received: ReceivedDatagrams, number: int, span: tuple[int, int]) -> bytes:
    return received.records[number * RECORD_SIZE + span[0] : number * RECORD_SIZE + span[1]]


@pytest.mark.parametrize(("family", "address"), LOOPBACKS)
def test_it_says_the_same(family: socket.AddressFamily, address: str) -> None:
    received, layout = ReceivedDatagrams(), LAYOUTS[family]
    with open_pair(family, address) as (server, client):
        receive_packet_info(server)
        for datagram in (b"peek", b"", bytes(60_000)):
            client.send(datagram)
        datagram, [(_, _, packet_info)], _, source = server.recvmsg(100, 100, socket.MSG_PEEK)
        assert datagram == b"peek"
        assert received.receive(server.fileno()) == 3
        assert list(received.lengths[:3]) == [4, 0, 60_000]
        assert bytes(received.buffers[0][:4]) == b"peek"
        for number in range(3):
            assert unpack_address(part(received, number, layout.client)) == source
            assert part(received, number, layout.packet_info) == packet_info
            assert part(received, number, layout.local_address) == socket.inet_pton(family, address)
        assert received.receive(server.fileno()) == 0


def test_more_than_a_burst_is_read_in_order() -> None:
    received = ReceivedDatagrams()
    with open_pair(*LOOPBACKS[0]) as (server, client):
        for number in range(BURST + 3):
            client.send(bytes([number] * number))
        read, counts = [], []
        while count := received.receive(server.fileno()):
            counts.append(count)
            read += [bytes(received.buffers[n][: received.lengths[n]]) for n in range(count)]
        assert counts == [BURST, 3]
        assert read == [bytes([number] * number) for number in range(BURST + 3)]


def test_a_datagram_that_nothing_is_told_of_has_not_what_was_told_of_another() -> None:
    received, layout = ReceivedDatagrams(), LAYOUTS[socket.AF_INET]
    with open_pair(*LOOPBACKS[0]) as (server, client):
        client.send(b"queued before it is asked for")
        receive_packet_info(server)
        for _ in range(2):
            client.send(b"?")
        received.receive(server.fileno())
        assert part(received, 1, layout.local_address) == socket.inet_aton("127.0.0.1")
        assert part(received, 0, layout.local_address) == bytes(4)
        with open_pair(*LOOPBACKS[0]) as (untold, other):
            other.send(b"?")
            assert received.receive(untold.fileno()) == 1
            assert part(received, 0, layout.packet_info) == bytes(12)


def test_any_socket_may_be_asked_after_any_other() -> None:
    received = ReceivedDatagrams()
    with ExitStack() as stack:
        pairs = [stack.enter_context(open_pair(*loopback)) for loopback in [*LOOPBACKS, LOOPBACKS[0]]]
        for server, _ in pairs[:2]:  # of the third, nothing is told
            receive_packet_info(server)
        for server, client in [*pairs, *pairs]:
            client.send(b"?")
            assert received.receive(server.fileno()) == 1
            layout = LAYOUTS[server.family]
            assert unpack_address(part(received, 0, layout.client)) == client.getsockname()
            assert any(part(received, 0, layout.local_address)) is (server is not pairs[2][0])


@pytest.mark.parametrize(
    "address", [("10.1.2.3", 53), ("::1", 65535, 0, 0), ("fe80::1", 1, 0xFFFFF, 7), ("2001:db8::", 256, 0, 0)]
)
def test_addresses_are_packed_as_they_are_unpacked(address: tuple[str | int, ...]) -> None:
    assert unpack_address(pack_address(address)) == address


def test_memory_is_taken_by_what_comes() -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident_bytes()
    several = [ReceivedDatagrams() for _ in range(16)]
    assert resident_bytes() - before < len(several) * BURST * MAX_DATAGRAM // 4
