"""Rates from two readings of the counters of workers."""

from __future__ import annotations

import pytest

from userspace_proxy.core.answers.top import Rates, TopQuestion, top_frame
from userspace_proxy.core.traffic_counters import (
    CONNECT_BOUNDS_SECONDS,
    EndpointCounters,
    EndpointKey,
    ServicePortCounters,
)
from userspace_proxy.core.traffic_totals import Reading

WEB, DNS = "default/web:http TCP IPv4", "default/dns UDP IPv4"
ONE, TWO = ("10.1.0.1", 80), ("10.1.0.2", 80)


def carried(
    endpoints: dict[EndpointKey, EndpointCounters] | None = None, **counters: int
) -> ServicePortCounters:
    return ServicePortCounters(**counters, endpoints=endpoints or {})  # type: ignore[arg-type]


def test_rates_are_differences_by_second_summed_over_workers() -> None:
    before: dict[int, Reading] = {
        1: {WEB: carried({ONE: EndpointCounters(opened=10, bytes_in=100)}, opened=10, failed=1)},
        2: {WEB: carried(opened=5)},
    }
    now: dict[int, Reading] = {
        1: {
            WEB: carried(
                {
                    ONE: EndpointCounters(opened=14, active=2, bytes_in=300, bytes_out=50, failed=1),
                    TWO: EndpointCounters(opened=6, bytes_in=20),
                },
                opened=20,
                active=2,
                failed=3,
                retried=4,
                refused_client_limit=6,
                ejected=1,
            )
        },
        2: {WEB: carried(opened=5, active=1)},
    }
    frame = top_frame(before, now, 2.0, None, 10)
    [web] = frame.service_ports
    assert (web.service_port, web.protocol, web.family) == ("default/web:http", "TCP", "IPv4")
    assert (web.active, web.ejected) == (3, 1)
    assert (web.connections_per_second, web.failures_per_second) == (5.0, 1.0)
    assert (web.retries_per_second, web.refused_per_second) == (2.0, 3.0)
    assert (web.bytes_in_per_second, web.bytes_out_per_second) == (110.0, 25.0)
    assert (web.connect_p50_seconds, web.connect_p99_seconds) == (None, None)
    two, one = web.endpoints
    assert (one.endpoint, one.connections_per_second, one.bytes_in_per_second) == ("10.1.0.1:80", 2.0, 100.0)
    assert (one.active, one.failures_per_second, one.bytes_out_per_second) == (2, 0.5, 25.0)
    assert (two.endpoint, two.connections_per_second) == ("10.1.0.2:80", 3.0)
    assert frame.total == Rates(
        active=3,
        connections_per_second=5.0,
        failures_per_second=1.0,
        bytes_in_per_second=110.0,
        bytes_out_per_second=25.0,
    )


def test_how_long_connects_took_is_of_those_within_the_time() -> None:
    slow, fast = carried(opened=100), carried(opened=200)
    slow.connects[-1] = 100  # long ago
    fast.connects[:2] = [0, 100]
    fast.connects[-1] = 100
    [web] = top_frame({1: {WEB: slow}}, {1: {WEB: fast}}, 1.0, None, 10).service_ports
    low, high = CONNECT_BOUNDS_SECONDS[:2]
    assert web.connect_p50_seconds == pytest.approx((low + high) / 2)
    assert web.connect_p99_seconds == pytest.approx(low + 0.99 * (high - low))


def test_the_busiest_come_first_the_idle_not_at_all_and_the_rest_is_counted() -> None:
    now: dict[int, Reading] = {
        1: {
            WEB: carried(opened=1),
            DNS: carried(opened=5),
            "default/idle TCP IPv4": carried(opened=7),
            "default/held TCP IPv4": carried(active=3),
            "default/bulk TCP IPv4": carried({ONE: EndpointCounters(bytes_out=9)}),
        }
    }
    before: dict[int, Reading] = {1: {"default/idle TCP IPv4": carried(opened=7)}}
    frame = top_frame(before, now, 1.0, None, 3)
    assert [each.service_port for each in frame.service_ports] == [
        "default/dns",
        "default/web:http",
        "default/bulk",
    ]
    assert frame.left_out == 1
    assert frame.total.connections_per_second == 6.0
    assert [each.service_port for each in top_frame({}, now, 1.0, {WEB}, 3).service_ports] == [
        "default/web:http"
    ]


def test_a_service_port_that_was_removed_and_came_back_begins_from_nothing() -> None:
    [web] = top_frame(
        {1: {WEB: carried(opened=100, failed=9)}}, {1: {WEB: carried(opened=2)}}, 1.0, None, 10
    ).service_ports
    assert (web.connections_per_second, web.failures_per_second) == (2.0, 0.0)


def test_a_frame_comes_every_second_unless_asked_otherwise() -> None:
    assert TopQuestion() == TopQuestion(service="", interval_seconds=1.0, limit=20)
