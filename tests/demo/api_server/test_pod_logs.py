"""Which log a request asks for, and how much of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from userspace_proxy.demo.api_server.pod_logs import LogRequest, log_request
from userspace_proxy.demo.api_server.statuses import StatusError

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
POD = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}
TWO = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}, {"name": "d"}]}}


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ({}, LogRequest(container="c")),
        ({"follow": "true", "previous": "true"}, LogRequest(container="c", follow=True, previous=True)),
        (
            {"timestamps": "true", "limitBytes": "9"},
            LogRequest(container="c", timestamps=True, limit_bytes=9),
        ),
        ({"tailLines": "0"}, LogRequest(container="c", tail_lines=0)),
        ({"sinceSeconds": "60"}, LogRequest(container="c", since=NOW - timedelta(minutes=1))),
        ({"sinceTime": "2026-11-29T13:00:00+01:00"}, LogRequest(container="c", since=NOW)),
        ({"sinceTime": "2026-11-29T12:00:00Z"}, LogRequest(container="c", since=NOW)),
    ],
)
def test_request_says_how_much(query: dict[str, str], asked: LogRequest) -> None:
    assert log_request(POD, query, NOW) == asked


@pytest.mark.parametrize(
    ("pod", "query", "message"),
    [
        (POD, {"sinceTime": "yesterday"}, "sinceTime must be a time"),
        (POD, {"tailLines": "x"}, "tailLines must be a number"),
        (POD, {"container": "e"}, "container e is not valid for pod p"),
        (TWO, {}, r"choose one of: \[c d\]"),
    ],
)
def test_what_cannot_be_had_is_refused(pod: dict[str, object], query: dict[str, str], message: str) -> None:
    with pytest.raises(StatusError, match=message):
        log_request(pod, query, NOW)


def test_long_ago_is_before_everything() -> None:
    since = log_request(POD, {"sinceSeconds": "9" * 18}, NOW).since
    assert since is not None and since.year < 2000
