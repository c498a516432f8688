"""Connections beyond what may be: reset at once, counted, said, and nobody else's affair."""

from __future__ import annotations

import logging

import pytest

from tests.support.loopback import (
    connect,
    echo,
    is_reset,
    receive_all,
    say_port,
    server,
    tcp_proxy,
    wait_until,
)
from userspace_proxy.core.admission import TCP_DESCRIPTORS, Refusal
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.limit_reports import SAY_AGAIN_SECONDS, LimitReports


def test_a_client_beyond_its_limit_is_reset_and_the_others_are_served() -> None:
    with server(echo) as endpoint, tcp_proxy(endpoint) as proxy:
        proxy.admission.max_per_client = 3
        clients = [proxy.connect() for _ in range(3)]
        for client in clients:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        assert is_reset(proxy.port)
        for client in clients:
            client.sendall(b"y")
            assert client.recv(1) == b"y"
            client.close()
        assert (proxy.counters.opened, proxy.counters.refused, proxy.counters.failed) == (3, 1, 0)
        proxy.wait_until_idle()
        with proxy.connect() as client:
            client.sendall(b"z")
            assert client.recv(1) == b"z"


def test_room_is_given_back_however_a_connection_ends() -> None:
    with server(say_port) as endpoint, tcp_proxy(endpoint) as proxy:
        for _ in range(20):
            with proxy.connect() as client:
                assert receive_all(client)
        proxy.wait_until_idle()
        proxy.call(proxy.balancer.set_endpoints, next(iter(proxy.balancer._turns)), ())
        assert is_reset(proxy.port)
        proxy.wait_until_idle()
        wait_until(lambda: (proxy.room.taken, proxy.admission.admitted) == (0, 0))


def test_no_room_is_said_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with server(echo) as endpoint, tcp_proxy(endpoint) as proxy:
        proxy.room.capacity = TCP_DESCRIPTORS
        with connect(proxy.port) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            assert is_reset(proxy.port)
    assert "service_port=default/web:http client=127.0.0.1 connections=1 refused_so_far=1" in caplog.text
    assert "raise the limit of open files" in caplog.text


def test_repeats_are_said_every_half_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    counters = ServicePortCounters()
    reports = LimitReports("default/web", counters)
    for second in range(100):
        reports.refused("10.0.0.1", Refusal.SERVICE_LIMIT, 7, float(second))
    assert counters.refused == 100
    assert len(caplog.records) == 1 + int(99 // SAY_AGAIN_SECONDS)
