from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from tests.support.recorded_events import RecordedEvents
from userspace_proxy.core.event_reasons import ENDPOINT_LEFT_OUT, INVALID_ANNOTATION
from userspace_proxy.core.problem import Problem
from userspace_proxy.observability.problem_ledger import ProblemLedger

BAD_PORT = Problem("web.yaml", "Service", "default", "web", "spec.ports[0].port", "0 is not a port (1-65535)")
BAD_ADDRESS = Problem("web.yaml", "Service", "default", "web", "spec.clusterIP", "'x' is not an IP address")
WEB = "Service default/web"


@pytest.fixture
def ledger(caplog: pytest.LogCaptureFixture) -> ProblemLedger:
    caplog.set_level(logging.INFO)
    return ProblemLedger()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged since the last call."""
    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    caplog.clear()
    return lines


def test_a_problem_is_named_once(ledger: ProblemLedger, caplog: pytest.LogCaptureFixture) -> None:
    ledger.report(WEB, [BAD_PORT])
    assert said(caplog) == [f"WARNING Skipped: {BAD_PORT}"]
    ledger.report(WEB, [BAD_PORT])
    assert said(caplog) == []
    assert (len(ledger), ledger.named) == (1, 1)


def test_a_problem_that_is_given_twice_is_one(
    ledger: ProblemLedger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.report(WEB, [BAD_PORT, BAD_PORT])
    assert said(caplog) == [f"WARNING Skipped: {BAD_PORT}"]
    assert (len(ledger), ledger.named) == (1, 1)


def test_only_what_is_new_is_named(ledger: ProblemLedger, caplog: pytest.LogCaptureFixture) -> None:
    ledger.report(WEB, [BAD_PORT])
    said(caplog)
    ledger.report(WEB, [BAD_PORT, BAD_ADDRESS])
    assert said(caplog) == [f"WARNING Skipped: {BAD_ADDRESS}"]
    ledger.report(WEB, [BAD_ADDRESS])
    assert said(caplog) == []
    assert (len(ledger), ledger.named) == (1, 2)


def test_a_problem_that_came_back_is_named_again(
    ledger: ProblemLedger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.report(WEB, [BAD_PORT])
    ledger.report(WEB, [])
    assert said(caplog) == [f"WARNING Skipped: {BAD_PORT}", f"INFO Mended: {WEB}"]
    assert len(ledger) == 0
    ledger.report(WEB, [BAD_PORT])
    assert said(caplog) == [f"WARNING Skipped: {BAD_PORT}"]
    assert (len(ledger), ledger.named) == (1, 2)


def test_what_was_never_wrong_is_not_mended(ledger: ProblemLedger, caplog: pytest.LogCaptureFixture) -> None:
    ledger.report(WEB, [])
    assert said(caplog) == []


def test_scopes_are_apart(ledger: ProblemLedger, caplog: pytest.LogCaptureFixture) -> None:
    ledger.report(WEB, [BAD_PORT])
    ledger.report("Service default/dns", [BAD_ADDRESS])
    ledger.report(WEB, [])
    assert len(ledger) == 1
    ledger.report("Service default/dns", [BAD_ADDRESS])
    assert said(caplog)[2:] == [f"INFO Mended: {WEB}"]


def test_what_is_newly_wrong_with_an_object_is_one_event_for_each_reason() -> None:
    recorded = RecordedEvents()
    ledger = ProblemLedger(recorded)
    annotation = replace(BAD_ADDRESS, event=INVALID_ANNOTATION)
    in_slice = Problem("API server", "EndpointSlice", "default", "web-1", "ports[0].port", "0 is no port")
    ledger.report(WEB, [BAD_PORT])
    ledger.report(WEB, [BAD_PORT, annotation, replace(BAD_PORT, field="spec.ports[1].port")])
    ledger.report("EndpointSlice default/web-1", [in_slice, replace(in_slice, field="ports[1].port")])
    ledger.report("web.yaml", [Problem("web.yaml", "", "", "", "", "it is no YAML")])
    ledger.report("e.yaml", [Problem("e.yaml", "Endpoints", "default", "web", "", "is as old as the hills")])
    assert recorded.said == [
        f"InvalidField of {WEB}",
        f"InvalidAnnotation of {WEB}",
        f"InvalidField of {WEB}",
        "InvalidField of EndpointSlice default/web-1",
    ]
    assert recorded.notes[0] == "spec.ports[0].port: 0 is not a port (1-65535)"
    assert recorded.notes[-1] == (
        "EndpointSlice web-1: ports[0].port: 0 is no port; ports[1].port: 0 is no port"
    )


def test_what_is_wrong_with_objects_is_recorded_again_in_one_order_whatever_came_first() -> None:
    notes = []
    for problems in ([BAD_PORT, BAD_ADDRESS], [BAD_ADDRESS, BAD_PORT]):
        recorded = RecordedEvents()
        ledger = ProblemLedger(recorded)
        ledger.report(WEB, problems)
        ledger.report("Service default/dns", [replace(BAD_PORT, event=ENDPOINT_LEFT_OUT)])
        ledger.record_again()
        assert recorded.said == [
            f"InvalidField of {WEB}",
            f"EndpointLeftOut of {WEB}",
            f"InvalidField of {WEB}",  # nothing that this node alone sees
        ]
        notes += [recorded.notes[0], recorded.notes[2]]
    assert len(set(notes)) == 1
