"""What holds for every picker, and what each is for."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.balancing import Balancing
from userspace_proxy.core.ejection import FAILURES_TO_EJECT, FIRST_SECONDS, Ejections
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.pickers import PICKERS
from userspace_proxy.core.pickers.least_connections import COMPARED, LeastConnections
from userspace_proxy.core.pickers.picker import Picker
from userspace_proxy.core.pickers.random_choice import RandomChoice
from userspace_proxy.core.pickers.source_hash import SourceHash
from userspace_proxy.core.service_port import Port

CLIENT = "10.2.0.1"


def endpoints(count: int, *, first: int = 1) -> list[Endpoint]:
    return [
        Endpoint(f"10.1.{number >> 8}.{number & 255}", Port(80)) for number in range(first, first + count)
    ]


class Setting:
    """A picker of `kind`, and what it asks: who is ejected, and what everyone has to do."""

    def __init__(self, kind: type[Picker], usable: list[Endpoint], seed: int = 1) -> None:
        self.ejections = Ejections()
        self.loads: Counter[Endpoint] = Counter()
        self.picker = kind(Random(seed), self.ejections, self.loads.__getitem__)
        self.picker.update(usable)

    def pick(self, client: str = CLIENT, *tried: Endpoint, now: float = 0.0) -> Endpoint | None:
        return self.picker.pick(client, tried, now)

    def eject(self, endpoint: Endpoint) -> None:
        for _ in range(FAILURES_TO_EJECT):
            self.ejections.failed(endpoint, 0.0, 0.0)
        self.picker.leave_out()

    def take_out(self, *endpoints: Endpoint) -> None:
        self.ejections.taken_out = frozenset(endpoints)
        self.picker.leave_out()


def test_each_name_has_a_picker() -> None:
    assert set(PICKERS) == set(Balancing)


every_kind = pytest.mark.parametrize("kind", PICKERS.values())


@every_kind
def test_all_are_reached_by_who_tries_on_and_then_there_is_none(kind: type[Picker]) -> None:
    usable = endpoints(200)
    setting = Setting(kind, usable)
    tried: list[Endpoint] = []
    while (endpoint := setting.pick(CLIENT, *tried)) is not None:
        tried.append(endpoint)
    assert sorted(tried) == sorted(usable)


@every_kind
def test_nothing_usable_gives_none(kind: type[Picker]) -> None:
    assert Setting(kind, []).pick() is None


@every_kind
def test_one_that_is_left_out_gets_a_probe_and_nothing_else(kind: type[Picker]) -> None:
    failing, *others = endpoints(4)
    setting = Setting(kind, [failing, *others])
    setting.eject(failing)
    clients = [f"10.2.0.{number}" for number in range(200)]
    assert failing not in {setting.pick(client) for client in clients}
    probed = [setting.pick(client, now=FIRST_SECONDS) for client in clients]
    assert probed.count(failing) == 1


@every_kind
def test_one_that_is_left_out_is_the_last_resort(kind: type[Picker]) -> None:
    failing, other = endpoints(2)
    setting = Setting(kind, [failing, other])
    setting.eject(failing)
    assert setting.pick(CLIENT, other) == failing


@every_kind
@given(before=st.sets(st.integers(1, 20)), after=st.sets(st.integers(1, 20)))
def test_after_a_change_only_the_new_ones_are_picked(
    kind: type[Picker], before: set[int], after: set[int]
) -> None:
    setting = Setting(kind, [each for number in before for each in endpoints(1, first=number)])
    setting.pick()
    usable = [each for number in after for each in endpoints(1, first=number)]
    setting.picker.update(usable)
    picked = {setting.pick(f"10.2.0.{number}") for number in range(30)}
    assert picked <= set(usable) or picked == {None}


def test_by_chance_every_endpoint_is_as_likely() -> None:
    setting = Setting(RandomChoice, endpoints(4))
    picked = Counter(setting.pick() for _ in range(4000))
    assert len(picked) == 4
    assert all(850 < count < 1150 for count in picked.values())
    assert any(
        one == other for one, other in zip(*[iter([setting.pick() for _ in range(100)])] * 2, strict=True)
    )


def test_by_chance_a_failing_endpoints_share_is_spread_over_all_others() -> None:
    failing, *others = endpoints(4)
    setting = Setting(RandomChoice, [failing, *others])
    picked = Counter(setting.pick(CLIENT, failing) for _ in range(3000))
    assert set(picked) == set(others)
    assert all(850 < count < 1150 for count in picked.values())


def test_the_least_loaded_is_picked() -> None:
    one, two, three = usable = endpoints(3)
    setting = Setting(LeastConnections, usable)
    setting.loads.update({one: 2, two: 1, three: 3})
    assert setting.pick() == two
    assert setting.pick(CLIENT, two) == one


def test_equally_loaded_ones_are_picked_in_turn() -> None:
    usable = endpoints(3)
    setting = Setting(LeastConnections, usable)
    for load in (0, 5):
        setting.loads.update(dict.fromkeys(usable, load))
        assert {setting.pick() for _ in range(3)} == set(usable)


def test_connections_that_stay_are_spread_evenly_whatever_ends_meanwhile() -> None:
    usable = endpoints(5)
    setting = Setting(LeastConnections, usable)
    setting.loads[usable[0]] = 7
    for _ in range(38):
        picked = setting.pick()
        assert picked is not None
        setting.loads[picked] += 1
    assert sorted(setting.loads.values()) == [9, 9, 9, 9, 9]


def test_among_many_a_bounded_number_is_compared() -> None:
    usable = endpoints(10 * COMPARED)
    setting = Setting(LeastConnections, usable)
    asked: list[Endpoint] = []

    def load(endpoint: Endpoint) -> int:
        asked.append(endpoint)
        return 1

    picker = LeastConnections(Random(1), setting.ejections, load)
    picker.update(usable)
    picker.pick(CLIENT, (), 0)
    assert len(asked) == COMPARED


def test_a_clients_address_decides_alike_on_every_node() -> None:
    usable = endpoints(5)
    one, other = Setting(SourceHash, usable, seed=1), Setting(SourceHash, usable[::-1], seed=2)
    clients = [f"10.2.{number >> 8}.{number & 255}" for number in range(2000)]
    assert [one.pick(client) for client in clients] == [other.pick(client) for client in clients]
    shares = Counter(one.pick(client) for client in clients)
    assert all(240 < share < 560 for share in shares.values())


def test_of_five_endpoints_one_leaves_and_the_others_keep_their_clients() -> None:
    usable = endpoints(5)
    setting = Setting(SourceHash, usable)
    clients = [f"10.2.{number >> 8}.{number & 255}" for number in range(500)]
    before = {client: setting.pick(client) for client in clients}
    setting.picker.update(usable[1:])
    moved = [client for client in clients if setting.pick(client) != before[client]]
    assert moved == [client for client in clients if before[client] == usable[0]]
    assert len({setting.pick(client) for client in moved}) > 1


def test_of_several_that_are_left_out_the_first_in_turn_is_the_last_resort() -> None:
    usable = endpoints(4)
    setting = Setting(LeastConnections, usable)
    for endpoint in usable[:2]:
        setting.eject(endpoint)
    assert setting.pick(CLIENT, *usable[2:]) in usable[:2]


@every_kind
@given(
    st.integers(0, 6),
    st.sets(st.integers(0, 5)),
    st.sets(st.integers(0, 5)),
    st.lists(st.integers(1, 3), max_size=6),
    st.sampled_from([0.0, FIRST_SECONDS]),
)
def test_what_a_peek_shows_is_what_the_next_pick_is(
    kind: type[Picker], count: int, ejected: set[int], taken_out: set[int], loads: list[int], now: float
) -> None:
    usable = endpoints(count)
    setting = Setting(kind, usable)
    setting.loads.update(dict(zip(usable, loads, strict=False)))
    for number in ejected:
        setting.eject(Endpoint(f"10.1.0.{number + 1}", Port(80)))
    setting.take_out(*(Endpoint(f"10.1.0.{number + 1}", Port(80)) for number in taken_out))
    for number in range(8):
        client = f"10.2.0.{number}"
        shown = setting.picker.peek(client, now)
        assert setting.picker.peek(client, now) == shown, "a look changes nothing"
        picked = setting.pick(client, now=now)
        if picked is None:
            assert shown == ()
        elif kind is RandomChoice:
            assert picked in shown or picked in setting.picker.left_out  # that one is a probe
        else:
            assert shown == (picked,)


@every_kind
def test_somebody_may_be_any_client(kind: type[Picker]) -> None:
    usable = endpoints(3)
    setting = Setting(kind, usable)
    setting.take_out(usable[0])
    shown = setting.picker.peek(None, 0.0)
    if kind in (RandomChoice, SourceHash):
        assert shown == (usable[1], usable[2])
    else:
        assert shown == (setting.pick(),)


@every_kind
def test_an_endpoint_that_was_taken_out_gets_nothing_while_another_is_there(kind: type[Picker]) -> None:
    one, two, three = usable = endpoints(3)
    setting = Setting(kind, usable)
    setting.take_out(one, two)
    clients = [f"10.2.0.{number}" for number in range(30)]
    assert {setting.pick(client, now=1e9) for client in clients} == {three}
    assert setting.pick(CLIENT, three) in (one, two), "who has nowhere else to go still goes there"
    setting.take_out()
    assert {setting.pick(client) for client in clients} == {one, two, three}


@every_kind
def test_where_all_were_taken_out_all_are_used(kind: type[Picker]) -> None:
    usable = endpoints(2)
    setting = Setting(kind, usable)
    setting.take_out(*usable)
    clients = [f"10.2.0.{number}" for number in range(30)]
    assert {setting.pick(client) for client in clients} == set(usable)


@every_kind
def test_half_of_the_others_may_fail_beside_one_that_was_taken_out(kind: type[Picker]) -> None:
    one, two, three = usable = endpoints(3)
    setting = Setting(kind, usable)
    setting.take_out(one)
    for endpoint in usable:
        setting.eject(endpoint)
    assert setting.picker.left_out == {one, two}
    setting.take_out(one, three)
    assert setting.picker.left_out == {one, three}, "the last one of the others is used, well or not"
