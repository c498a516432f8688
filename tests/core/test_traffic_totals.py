from __future__ import annotations

from collections.abc import Collection

from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.traffic_counters import EndpointCounters, EndpointKey, ServicePortCounters
from userspace_proxy.core.traffic_totals import OTHER_ENDPOINTS, TrafficTotals

WEB, DNS, API = "default/web TCP IPv4", "default/dns UDP IPv4", "default/api TCP IPv4"
ONE, TWO, THREE = ("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.3", 80)


def nothing_listed(_key: str) -> Collection[EndpointKey]:
    return ()


def carried(opened: int, active: int = 0, **endpoints: EndpointCounters) -> ServicePortCounters:
    names = {"one": ONE, "two": TWO, "three": THREE}
    counters = ServicePortCounters(opened=opened, active=active)
    counters.endpoints = {names[name]: each for name, each in endpoints.items()}
    return counters


def totals(max_service_ports: int = 10, max_endpoints: int = 10) -> TrafficTotals:
    return TrafficTotals(max_service_ports, max_endpoints)


def opened(sums: TrafficTotals) -> dict[str, int]:
    return {key: each.counters.opened for key, each in sums}


def test_what_several_workers_carried_is_added_up() -> None:
    sums = totals()
    first = carried(3, 1, one=EndpointCounters(3, 1, bytes_in=30))
    second = carried(4, 2, one=EndpointCounters(4, 2, bytes_in=40, bytes_out=5))
    first.connected(0.2)
    second.connected(0.2)
    sums.take({1: {WEB: first, DNS: carried(1)}, 2: {WEB: second}}, (), nothing_listed)
    web = dict(sums)[WEB]
    assert opened(sums) == {WEB: 7, DNS: 1}
    assert (web.counters.active, web.counters.bytes_in, web.counters.bytes_out) == (3, 70, 5)
    assert web.endpoints == {ONE: EndpointCounters(7, 3, bytes_in=70, bytes_out=5)}
    assert sum(web.counters.connects) == 2


def test_reading_the_same_again_adds_nothing() -> None:
    sums = totals()
    for _ in range(2):
        sums.take({1: {WEB: carried(3, 2, one=EndpointCounters(3, 2))}}, (), nothing_listed)
    web = dict(sums)[WEB]
    assert (web.counters.opened, web.counters.active) == (3, 2)
    assert web.endpoints[ONE] == EndpointCounters(3, 2)


def test_what_a_worker_that_died_had_carried_stays_and_what_went_on_there_does_not() -> None:
    sums = totals()
    before = {WEB: carried(3, 2, one=EndpointCounters(3, 2, bytes_in=9))}
    sums.take({1: before}, {WEB}, nothing_listed)
    sums.take({}, {WEB}, lambda _key: {ONE})  # a moment in which nobody serves it
    assert opened(sums) == {WEB: 3}
    sums.take({2: {WEB: carried(1, 1)}}, {WEB}, lambda _key: {ONE})
    web = dict(sums)[WEB]
    assert (web.counters.opened, web.counters.active, web.counters.bytes_in) == (4, 1, 9)
    assert web.endpoints[ONE] == EndpointCounters(3, 0, bytes_in=9)


def test_a_service_port_that_comes_back_counts_from_where_it_was() -> None:
    sums = totals()
    sums.take({1: {WEB: carried(9, one=EndpointCounters(9))}}, (), nothing_listed)
    sums.take({1: {WEB: carried(2, one=EndpointCounters(2))}}, (), nothing_listed)
    assert opened(sums) == {WEB: 11}
    assert dict(sums)[WEB].endpoints[ONE].opened == 11


def test_an_endpoint_that_comes_back_counts_from_where_it_was() -> None:
    sums = totals()
    for said in (carried(5, one=EndpointCounters(5)), carried(6, one=EndpointCounters(1))):
        sums.take({1: {WEB: said}}, (), nothing_listed)
    assert opened(sums) == {WEB: 6}
    assert dict(sums)[WEB].endpoints[ONE].opened == 6


def test_what_is_neither_planned_nor_served_is_forgotten() -> None:
    sums = totals(max_endpoints=1)
    sums.take({1: {WEB: carried(1, one=EndpointCounters(1))}}, (), nothing_listed)
    sums.take({1: {DNS: carried(1, two=EndpointCounters(1))}}, (), nothing_listed)
    assert opened(sums) == {DNS: 1}
    assert dict(sums)[DNS].endpoints.keys() == {TWO}  # the room of the first is free again


def test_who_comes_when_there_is_no_room_is_among_the_others_and_stays_there() -> None:
    sums = totals(max_service_ports=1)
    sums.take({1: {WEB: carried(1), DNS: carried(2), API: carried(4, 4)}}, (), nothing_listed)
    assert opened(sums) == {WEB: 1}
    assert (sums.other.counters.opened, sums.other.counters.active) == (6, 4)
    assert sums.others == {DNS, API}
    sums.take({1: {DNS: carried(3)}}, (), nothing_listed)
    assert opened(sums) == {}
    assert sums.other.counters.opened == 7  # what was counted stays
    assert sums.others == {DNS}


def test_endpoints_beyond_the_limit_are_added_up_within_their_service_port() -> None:
    sums = totals(max_endpoints=1)
    once = EndpointCounters(1, 1)
    three = carried(3, 3, one=once, two=once, three=once)
    sums.take({1: {WEB: three}}, (), nothing_listed)
    sums.take({1: {WEB: three}}, (), nothing_listed)
    assert dict(sums)[WEB].endpoints == {ONE: EndpointCounters(1, 1), OTHER_ENDPOINTS: EndpointCounters(2, 2)}


def test_an_endpoint_that_has_left_is_forgotten() -> None:
    sums = totals()
    both = carried(2, one=EndpointCounters(1, bytes_in=1), two=EndpointCounters(1, bytes_in=1))
    sums.take({1: {WEB: both}}, (), nothing_listed)
    departed = carried(2, two=EndpointCounters(1, bytes_in=1))
    departed.departed_bytes_in = 1
    sums.take({1: {WEB: departed}}, (), nothing_listed)
    assert dict(sums)[WEB].endpoints.keys() == {TWO}
    assert dict(sums)[WEB].counters.bytes_in == 2


@given(
    st.lists(
        st.dictionaries(
            st.integers(1, 3),
            st.dictionaries(st.sampled_from([WEB, DNS, API]), st.integers(0, 5), max_size=3),
            max_size=3,
        ),
        max_size=8,
    ),
    st.integers(0, 3),
)
def test_no_sum_ever_goes_back(rounds: list[dict[int, dict[str, int]]], room: int) -> None:
    sums = totals(max_service_ports=room)
    before: dict[str, int] = {}
    other = 0
    for readings in rounds:
        said = {
            worker: {key: carried(count) for key, count in counts.items()}
            for worker, counts in readings.items()
        }
        sums.take(said, {WEB, DNS, API}, nothing_listed)
        now = opened(sums)
        assert all(now[key] >= count for key, count in before.items())
        assert sums.other.counters.opened >= other
        assert len(now) <= room
        before, other = now, sums.other.counters.opened
