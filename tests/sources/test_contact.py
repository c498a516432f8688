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
