from __future__ import annotations

import msgspec

from userspace_proxy.core.traffic_counters import CONNECT_BOUNDS_SECONDS, ServicePortCounters

ONE, TWO = ("10.0.0.1", 80), ("10.0.0.2", 80)


def test_each_endpoint_is_counted_by_itself() -> None:
    counters = ServicePortCounters()
    counters.at(*ONE).bytes_in += 3
    counters.at(*ONE).bytes_out += 5
    counters.at(*TWO).bytes_in += 4
    assert (counters.bytes_in, counters.bytes_out) == (7, 5)
    assert counters.endpoints.keys() == {ONE, TWO}


def test_bytes_of_an_endpoint_that_has_left_stay_counted() -> None:
    counters = ServicePortCounters()
    for endpoint, active in ((ONE, 0), (TWO, 1)):
        counters.at(*endpoint).active = active
        counters.at(*endpoint).bytes_in = 10
        counters.at(*endpoint).bytes_out = 20
    counters.forget_departed({ONE})
    assert counters.endpoints.keys() == {ONE, TWO}  # one is listed, the other has a connection
    counters.at(*TWO).active = 0
    counters.forget_departed({ONE})
    assert counters.endpoints.keys() == {ONE}
    assert (counters.bytes_in, counters.bytes_out) == (20, 40)


def test_connects_are_counted_by_how_long_they_took() -> None:
    counters = ServicePortCounters()
    for seconds in (0.0001, CONNECT_BOUNDS_SECONDS[0], 0.26, 31):
        counters.connected(seconds)
    assert counters.connects[0] == 2
    assert counters.connects[CONNECT_BOUNDS_SECONDS.index(0.5)] == 1
    assert counters.connects[-1] == 1
    assert sum(counters.connects) == 4


def test_refusals_are_those_for_any_reason() -> None:
    counters = ServicePortCounters(refused_client_limit=1, refused_service_limit=2, refused_no_room=4)
    assert counters.refused == 7


def test_an_agent_reads_what_a_worker_wrote() -> None:
    counters = ServicePortCounters(opened=3)
    counters.at("fd00::1", 53).bytes_in = 9
    counters.connected(0.1)
    encoded = msgspec.msgpack.encode(counters)
    assert msgspec.msgpack.decode(encoded, type=ServicePortCounters) == counters


def test_an_endpoint_that_was_never_used_has_no_connections_and_no_counters() -> None:
    counters = ServicePortCounters()
    counters.at("10.1.0.1", 80).active = 2
    assert counters.active_at("10.1.0.1", 80) == 2
    assert counters.active_at("10.1.0.2", 80) == 0
    assert list(counters.endpoints) == [("10.1.0.1", 80)]
