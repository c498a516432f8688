from __future__ import annotations

import pytest

from userspace_proxy.core.objects import Kind
from userspace_proxy.sources.contact import Contact, RequestFailedError

SILENCE = RequestFailedError("it did not answer in time")
REFUSAL = RequestFailedError("403 Forbidden", 403)


def explained(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith("API server does not answer: ")]


def test_who_never_got_an_answer_is_told_why_once(caplog: pytest.LogCaptureFixture) -> None:
    contact = Contact("it is our own Service")
    for kind in (Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.SERVICE):
        contact.lost(kind, SILENCE)
    assert explained(caplog) == ["API server does not answer: it is our own Service"]


def test_who_got_an_answer_is_not(caplog: pytest.LogCaptureFixture) -> None:
    refused = Contact("it is our own Service")
    refused.lost(Kind.SERVICE, REFUSAL)
    refused.lost(Kind.ENDPOINT_SLICE, SILENCE)
    followed = Contact("it is our own Service")
    followed.regained(Kind.SERVICE)
    followed.lost(Kind.SERVICE, SILENCE)
    assert explained(caplog) == []


def test_it_is_followed_since_all_that_is_asked_for_is_answered() -> None:
    now = iter((10.0, 20.0))
    contact = Contact(clock=lambda: next(now))
    assert contact.since is None
    contact.regained(Kind.SERVICE)
    contact.regained(Kind.ENDPOINT_SLICE)
    assert contact.since == 10.0
    contact.lost(Kind.SERVICE, REFUSAL)
    contact.lost(Kind.ENDPOINT_SLICE, SILENCE)
    assert contact.since is None
    assert contact.failures == {
        Kind.SERVICE: "403 Forbidden",
        Kind.ENDPOINT_SLICE: "it did not answer in time",
    }
    contact.regained(Kind.SERVICE)
    assert contact.since is None
    contact.regained(Kind.ENDPOINT_SLICE)
    assert contact.since == 20.0 and not contact.failures
