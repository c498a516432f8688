"""Who is let in while room gets scarce."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.admission import SHARE, TCP_DESCRIPTORS, Admission, Refusal, Room, client_of

CLIENT = "10.244.1.7"
OTHER = "10.244.1.8"


def room_for(connections: int) -> Room:
    return Room(connections * TCP_DESCRIPTORS)


def fill(admission: Admission, client: str = CLIENT) -> int:
    """How many connections of `client` are taken until one is not."""
    taken = 0
    while admission.admit(client) is None:
        taken += 1
    return taken


def test_a_single_service_port_may_have_four_fifths_of_the_room() -> None:
    assert fill(Admission(room_for(1000))) == 800


def test_each_busy_service_port_leaves_a_fifth_of_what_was_left() -> None:
    room = room_for(1000)
    assert [fill(Admission(room)) for _ in range(4)] == [800, 160, 32, 6]


def test_attempts_beside_each_other_leave_room_for_others() -> None:
    room = room_for(100)
    busy = Admission(room)
    assert [busy.admit(CLIENT) for _ in range(40)] == [None] * 40
    beside = 0
    while busy.take_beside():
        beside += 1
    assert room.taken == 80 + beside == 160
    assert busy.admit(CLIENT) is Refusal.NO_ROOM
    assert fill(Admission(room)) == 16
    for _ in range(beside):
        busy.leave_beside()
    assert room.taken == (40 + 16) * TCP_DESCRIPTORS


def test_nothing_is_tried_beside_where_there_is_no_room() -> None:
    busy = Admission(room_for(1))
    assert busy.admit(CLIENT) is None
    assert not busy.take_beside()


@pytest.mark.parametrize("connections", [1, 2, 3, 5])
def test_little_room_is_room_for_somebody(connections: int) -> None:
    assert fill(Admission(room_for(connections))) >= 1


def test_nobody_is_let_in_where_there_is_no_room() -> None:
    assert Admission(Room(TCP_DESCRIPTORS - 1)).admit(CLIENT) is Refusal.NO_ROOM


def test_busy_service_ports_come_to_have_the_same_as_connections_end() -> None:
    room = room_for(900)
    noisy, late = Admission(room), Admission(room)
    fill(noisy)
    for _ in range(1000):
        noisy.leave(CLIENT)
        fill(late)
        fill(noisy)
    assert abs(noisy.admitted - late.admitted) <= SHARE


def test_a_room_that_shrinks_takes_nothing_back_and_lets_nobody_in() -> None:
    room = room_for(100)
    admission = Admission(room)
    fill(admission)
    room.capacity //= 2
    assert admission.admit(CLIENT) is Refusal.NO_ROOM
    assert Admission(room).admit(CLIENT) is Refusal.NO_ROOM
    while admission.admitted > 20:
        admission.leave(CLIENT)
    assert admission.admit(CLIENT) is None


def test_a_service_port_has_no_more_than_its_limit() -> None:
    admission = Admission(room_for(1000))
    admission.max_connections = 3
    assert [admission.admit(CLIENT) for _ in range(4)] == [None] * 3 + [Refusal.SERVICE_LIMIT]
    admission.leave(CLIENT)
    assert admission.admit(OTHER) is None


def test_a_client_has_no_more_than_its_limit_and_others_are_not_concerned() -> None:
    admission = Admission(room_for(1000))
    admission.max_per_client = 2
    assert [admission.admit(CLIENT) for _ in range(3)] == [None, None, Refusal.CLIENT_LIMIT]
    assert admission.admit(OTHER) is None
    admission.leave(CLIENT)
    assert admission.admit(CLIENT) is None


def test_a_limit_that_is_lowered_holds_for_who_comes_next() -> None:
    admission = Admission(room_for(1000))
    fill(admission)
    admission.max_per_client = 2
    assert admission.admit(CLIENT) is Refusal.CLIENT_LIMIT


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=200),
)
def test_the_room_is_never_overdrawn_and_clients_are_forgotten(
    connections: int, steps: list[tuple[int, int, bool]]
) -> None:
    room = room_for(connections)
    admissions = [Admission(room) for _ in range(4)]
    held: Counter[tuple[int, str]] = Counter()
    for number, client_number, comes in steps:
        client = f"10.0.0.{client_number}"
        if comes and admissions[number].admit(client) is None:
            held[number, client] += 1
        elif not comes and held[number, client]:
            admissions[number].leave(client)
            held[number, client] -= 1
        assert 0 <= room.taken == held.total() * TCP_DESCRIPTORS <= room.capacity
    for (number, client), count in held.items():
        for _ in range(count):
            admissions[number].leave(client)
    assert not any(admission.admitted or admission._clients for admission in admissions)


PODS = ("fd00:10:244::/56", "2001:db8:7:0::/64")


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.244.1.7", "10.244.1.7"),
        ("2001:db8::1", "2001:db8:0:0::/64"),
        ("2001:db8::ffff:1:2:3", "2001:db8:0:0::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::5", "0:0:0:0::/64"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4::/64"),
        ("2001:db8:7::5", "2001:db8:7::5"),
        ("fd00:10:244:12::7", "fd00:10:244:12::7"),
        ("fd00:10:245::7", "fd00:10:245:0::/64"),
    ],
)
def test_a_client_is_an_ipv4_address_an_ipv6_64_or_a_pod(address: str, client: str) -> None:
    assert client_of(address, PODS) == client


@given(st.ip_addresses(v=6), st.ip_addresses(v=6))
def test_two_ipv6_addresses_are_one_client_if_their_first_64_bits_are(a: IPv6Address, b: IPv6Address) -> None:
    twin = IPv6Address(int(a) >> 64 << 64 | int(b) & (1 << 64) - 1)
    assert client_of(str(a), ()) == client_of(str(twin), ())
    assert (client_of(str(a), ()) == client_of(str(b), ())) is (int(a) >> 64 == int(b) >> 64)
