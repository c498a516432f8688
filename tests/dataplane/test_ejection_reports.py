from __future__ import annotations

import logging

import pytest

from userspace_proxy.core.ejection import FIRST_SECONDS
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.service_port import Port
from userspace_proxy.core.traffic_counters import ServicePortCounters
from userspace_proxy.dataplane.ejection_reports import EjectionReports

ONE = Endpoint("10.1.0.1", Port(80))


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_the_first_ejection_and_the_return_are_logged_and_every_ejection_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counters = ServicePortCounters()
    changed = EjectionReports(lambda: 0).of("default/web:http", counters)
    changed(ONE, FIRST_SECONDS)
    changed(ONE, 2 * FIRST_SECONDS)
    changed(ONE, None)
    assert counters.ejections == 2
    assert caplog.messages == [
        "Endpoint keeps failing, others take its turn: service_port=default/web:http endpoint=10.1.0.1:80",
        "Endpoint is used again: service_port=default/web:http endpoint=10.1.0.1:80",
    ]


def test_lines_are_limited_and_what_was_left_unsaid_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    reports = EjectionReports(lambda: now[0])
    for number in range(100):
        reports.of(f"default/web-{number}", ServicePortCounters())(ONE, FIRST_SECONDS)
    assert len(caplog.messages) == 20
    now[0] = 60.0
    reports.of("default/web", ServicePortCounters())(ONE, None)
    assert caplog.messages[20:] == [
        "More endpoints failed or were used again: lines=80",
        "Endpoint is used again: service_port=default/web endpoint=10.1.0.1:80",
    ]
    now[0] = 120.0
    reports.of("default/web", ServicePortCounters())(ONE, None)
    assert len(caplog.messages) == 23
