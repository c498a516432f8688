from __future__ import annotations

import logging

import pytest

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
