"""What is asked next, and when: conversations with an API server by script, with a clock of paper."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.recording_sink import RecordingSink
from userspace_proxy.core.back_off import delay_seconds
from userspace_proxy.core.objects import Deleted, Kind, Listed
from userspace_proxy.sources.contact import Contact, RequestFailedError
from userspace_proxy.sources.list_watch import SILENCE_SECONDS, STEADY_SECONDS, ListWatch, Watched

SELECTOR = {"labelSelector": "!skipped"}


@dataclass
class Answer:
    """What one request gets: chunks, then perhaps an error; `seconds` pass meanwhile."""

    chunks: list[bytes] = field(default_factory=list)
    error: RequestFailedError | None = None
    seconds: float = 0.0


class EndOfScriptError(Exception):
    """There is no answer left."""


class ScriptedApi:
    def __init__(self, script: list[Answer | RequestFailedError]) -> None:
        self.script = script[::-1]
        self.queries: list[dict[str, str]] = []
        self.now = 0.0

    @asynccontextmanager
    async def get(
        self, path: str, query: Mapping[str, str], silence_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        assert path == "/services"
        if not self.script:
            raise EndOfScriptError
        self.queries.append(dict(query))
        answer = self.script.pop()
        if isinstance(answer, RequestFailedError):
            raise answer
        yield self._chunks(answer)

    async def _chunks(self, answer: Answer) -> AsyncIterator[bytes]:
        for chunk in answer.chunks:
            yield chunk
        self.now += answer.seconds
        if answer.error:
            raise answer.error


@dataclass
class Played:
    queries: list[dict[str, str]]
    waits: list[float]
    sink: RecordingSink

    def asked(self) -> list[str]:
        """In short: `list`, `list <token>`, `watch <version>`; `where` asks for the version alone."""
        return [_in_short(query) for query in self.queries]


def _in_short(query: Mapping[str, str]) -> str:
    match query:
        case {"watch": _}:
            return f"watch {query['resourceVersion']}"
        case {"continue": token}:
            return f"list {token}"
        case {"limit": "1"}:
            return "where"
        case _:
            return "list"


class NoChance(random.Random):
    """Every wait is the shortest of its range."""

    def random(self) -> float:
        return 0.0


def play(
    *script: Answer | RequestFailedError,
    chance: random.Random | None = None,
    is_dispensable: bool = False,
    contact: Contact | None = None,
) -> Played:
    """Follow Services through a script, until its end."""
    api = ScriptedApi(list(script))
    waits: list[float] = []
    sink = RecordingSink()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def run() -> None:
        list_watch = ListWatch(
            Watched(Kind.SERVICE, "/services", SELECTOR, is_dispensable),
            api,
            sink,
            contact or Contact(),
            chance=chance or NoChance(),
            sleep=sleep,
            clock=lambda: api.now,
        )
        with pytest.raises(EndOfScriptError):
            await list_watch.run()

    asyncio.run(run())
    return Played(api.queries, waits, sink)


def service(name: str, version: int, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "a", "resourceVersion": str(version)}, "spec": spec}


def listed(version: int, *items: dict[str, Any], more: str = "") -> Answer:
    body = {"metadata": {"resourceVersion": str(version), "continue": more}, "items": items}
    return Answer([json.dumps(body).encode()])


def event(kind: str, item: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def error_event(code: int) -> bytes:
    return event("ERROR", {"kind": "Status", "code": code, "message": "too old"})


def status(code: int, retry_after_seconds: float = 0.0) -> RequestFailedError:
    return RequestFailedError(f"{code}", code, retry_after_seconds)


CUT = RequestFailedError("connection reset")
GONE = status(410)


def watched(*chunks: bytes, error: RequestFailedError | None = None, seconds: float = 300.0) -> Answer:
    return Answer(list(chunks), error, seconds)


def test_a_list_and_then_watches_from_where_the_last_one_came_to() -> None:
    played = play(
        listed(5, service("a", 3)),
        watched(event("ADDED", service("b", 6)), event("MODIFIED", service("a", 7))),
        watched(bookmark(9)),
        watched(event("DELETED", service("a", 11))),
        watched(),
    )
    assert played.asked() == ["list", "watch 5", "watch 7", "watch 9", "watch 11"]
    assert played.waits == []
    assert played.sink.names() == ["a/b"]
    first, second = played.queries[:2]
    assert first == {**SELECTOR, "limit": "500"}
    assert second.pop("timeoutSeconds").isdigit()
    assert second == {
        **SELECTOR,
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": "5",
    }


def test_watches_end_at_different_times() -> None:
    played = play(listed(5), *[watched()] * 20, chance=random.Random(1))
    timeouts = {int(query["timeoutSeconds"]) for query in played.queries[1:]}
    assert len(timeouts) > 10
    assert 300 <= min(timeouts) <= max(timeouts) <= 600


def test_pages_are_one_list() -> None:
    played = play(
        listed(5, service("a", 1), more="x"),
        listed(5, service("b", 2), more="y"),
        Answer([b'{"metadata": {"resourceVersion": "5"}, "items": null}']),
        watched(),
    )
    assert played.asked() == ["list", "list x", "list y", "watch 5"]
    assert played.sink.listings() == 1
    assert played.sink.names() == ["a/a", "a/b"]


def test_a_list_whose_pages_expire_begins_again() -> None:
    played = play(
        listed(5, service("gone", 1), more="x"), GONE, listed(8, service("a", 7)), watched(), watched()
    )
    assert played.asked() == ["list", "list x", "list", "watch 8", "watch 8"]
    assert played.waits == []
    assert played.sink.names() == ["a/a"]


@pytest.mark.parametrize("gone", [GONE, Answer([error_event(410)])])
def test_an_expired_version_is_listed_again_at_once(gone: Answer | RequestFailedError) -> None:
    played = play(
        listed(5, service("a", 1), service("b", 2)), watched(), gone, listed(9, service("a", 1)), watched()
    )
    assert played.asked() == ["list", "watch 5", "watch 5", "list", "watch 9"]
    assert played.waits == []
    assert played.sink.names() == ["a/a"]


def test_versions_that_expire_again_and_again_are_waited_for() -> None:
    played = play(listed(5), GONE, listed(5), GONE, listed(5), GONE)
    assert played.asked() == ["list", "watch 5"] * 3
    assert played.waits == [delay_seconds(2, 0), delay_seconds(3, 0)]


def test_events_before_an_error_count() -> None:
    chunk = event("ADDED", service("a", 6)) + event("ADDED", service("b", 7)) + error_event(500)
    played = play(listed(5), watched(chunk, seconds=0), listed(9, service("a", 6)), watched())
    assert played.asked() == ["list", "watch 5", "list", "watch 9"]
    assert [len(call) for call in played.sink.observed] == [1, 2, 1]


@pytest.mark.parametrize("failure", [CUT, status(429), status(500), status(502), status(503)])
def test_a_failure_that_says_nothing_of_the_version_keeps_it(failure: RequestFailedError) -> None:
    asked = play(listed(5), failure, listed(9, service("b", 8)), watched()).asked()
    assert asked == ["list", "watch 5", "where", "watch 5"]


@pytest.mark.parametrize("failure", [CUT, status(503)])
def test_a_server_that_went_back_is_listed_again(
    failure: RequestFailedError, caplog: pytest.LogCaptureFixture
) -> None:
    """It was restored from a backup: a watch from what it does not know yet would miss all until it does."""
    restored = listed(3, service("old", 2))
    played = play(
        listed(5, service("new", 4)),
        watched(error=failure, seconds=1),
        restored,
        restored,
        watched(),
        CUT,
        restored,
    )
    assert played.asked() == ["list", "watch 5", "where", "list", "watch 3", "watch 3", "where"]
    assert played.sink.names() == ["a/old"]
    said = [message for message in caplog.messages if "went back" in message]
    assert said == [
        "API server went back to an earlier state, which counts now: kind=Service version=3 known=5"
    ]


def test_a_server_that_cannot_say_where_it_is_keeps_what_is_known() -> None:
    played = play(listed(5, service("a", 4)), CUT, CUT, status(500), listed(6), watched())
    assert played.asked() == ["list", "watch 5", "where", "where", "where", "watch 5"]
    assert played.sink.names() == ["a/a"]


def test_a_watch_without_a_word_is_not_trusted_with_its_version() -> None:
    silent = watched(error=RequestFailedError("it did not answer in time"), seconds=SILENCE_SECONDS)
    played = play(listed(5, service("a", 4)), silent, listed(3), watched())
    assert played.asked() == ["list", "watch 5", "list", "watch 3"]
    assert played.sink.names() == []

    later = watched(bookmark(6), error=RequestFailedError("it did not answer in time"), seconds=1000.0)
    assert play(listed(5), later, listed(6), watched()).asked() == ["list", "watch 5", "where", "watch 6"]
    early = watched(error=CUT, seconds=SILENCE_SECONDS / 2 - 1)
    assert play(listed(5), early, listed(6), watched()).asked() == ["list", "watch 5", "where", "watch 5"]


@pytest.mark.parametrize("late", [event("MODIFIED", service("a", 6)), bookmark(6), bookmark(4)])
def test_events_out_of_order_list_again(late: bytes) -> None:
    """The late one does not count: for all that we know it is older than what we have."""
    chunk = event("DELETED", service("a", 7)) + late + event("ADDED", service("z", 8))
    played = play(listed(5, service("a", 4)), watched(chunk), listed(8, service("b", 8)), watched())
    assert played.asked() == ["list", "watch 5", "list", "watch 8"]
    assert played.sink.observed[1] == (Deleted(Kind.SERVICE, "a", "a"),)
    assert played.sink.names() == ["a/b"]


def test_events_that_come_twice_do_no_harm() -> None:
    chunk = event("ADDED", service("b", 6)) * 2 + event("DELETED", service("b", 7)) * 3
    played = play(listed(5, service("a", 4)), watched(chunk), watched())
    assert played.asked() == ["list", "watch 5", "watch 7"]
    assert played.sink.names() == ["a/a"]


def test_versions_that_are_no_numbers_have_no_order() -> None:
    events = [event("ADDED", {"metadata": {"name": n, "resourceVersion": n}}) for n in ("z", "y", "10", "x")]
    played = play(listed(5), watched(*events), watched())
    assert played.asked() == ["list", "watch 5", "watch x"]


def test_what_a_server_says_at_the_end_is_shown_in_part(caplog: pytest.LogCaptureFixture) -> None:
    end = {"kind": "Status", "code": 500, "message": "no\n" * 10_000}
    play(listed(5), watched(event("ERROR", end), seconds=0))
    [line] = caplog.messages
    assert "no no no" in line and len(line) < 500


@pytest.mark.parametrize("code", [400, 401, 403, 404, 504])
def test_any_other_refusal_lists_again(code: int) -> None:
    """504 is what a version that the server has not reached gets, after etcd was restored from a backup."""
    assert play(listed(5), status(code), listed(3), watched()).asked() == [
        "list",
        "watch 5",
        "list",
        "watch 3",
    ]


def test_failures_in_a_row_are_spaced_ever_wider() -> None:
    played = play(*[CUT] * 8)
    assert played.waits == [delay_seconds(failures, 0) for failures in range(1, 9)]
    assert played.waits[0] == pytest.approx(0.8)
    assert max(played.waits) <= 30


def test_a_watch_that_lasted_ends_the_row() -> None:
    played = play(CUT, CUT, listed(5), watched(error=CUT, seconds=STEADY_SECONDS), CUT, CUT)
    assert played.waits == [delay_seconds(failures, 0) for failures in (1, 2, 1, 2)]


def test_watches_that_end_at_once_are_spaced_too() -> None:
    played = play(listed(5), *[watched(seconds=0)] * 3)
    assert played.waits == [delay_seconds(failures, 0) for failures in (1, 2, 3)]


def test_retry_after_is_honoured_within_reason() -> None:
    assert play(status(429, 7.0)).waits == [7.0]
    assert play(status(429, 1e9)).waits == [60.0]


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": {"metadata": {"name": "a"}}}\n',
        b'{"type": "DELETED", "object": {"metadata": {"name": 5, "resourceVersion": "6"}}}\n',
        b'{"type": "ERROR", "object": 5}\n',
        b'{"type": "ADDED", "object": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b"\xff\n",
    ],
)
def test_a_line_that_cannot_be_read_lists_again(line: bytes) -> None:
    chunk = event("ADDED", service("a", 6)) + line
    played = play(listed(5), watched(chunk, seconds=0), listed(8), watched())
    assert played.asked() == ["list", "watch 5", "list", "watch 8"]
    assert [len(call) for call in played.sink.observed] == [1, 1, 1]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"items": []}', b'{"metadata": {}, "items": [', b"\xff"])
def test_a_list_that_cannot_be_read_is_asked_for_again(body: bytes) -> None:
    played = play(Answer([body]), listed(5), watched())
    assert played.asked() == ["list", "list", "watch 5"]
    assert played.sink.listings() == 1


def test_events_that_are_cut_anywhere() -> None:
    events = [event("ADDED", service("b", 6)), event("ADDED", service("c", 7))]
    text = b"".join(events)
    for cut in range(len(text)):
        arrived = text[:cut].count(b"\n")
        played = play(
            listed(5),
            watched(text[:cut], error=CUT, seconds=1),
            listed(7),
            watched(b"".join(events[arrived:])),
        )
        assert played.asked()[:4] == ["list", "watch 5", "where", f"watch {5 + arrived}"]
        assert played.sink.names() == ["a/b", "a/c"]


def test_a_bad_object_is_named_until_it_is_mended_or_gone() -> None:
    bad = {"ports": [{"port": "x"}]}
    played = play(listed(5, service("a", 1, **bad), service("b", 2, **bad), service("c", 3)), watched())
    assert played.sink.problem_texts() == [
        "Service a/a: spec.ports[0].port: 'x' is not an integer",
        "Service a/b: spec.ports[0].port: 'x' is not an integer",
    ]
    assert played.sink.names() == ["a/a", "a/b", "a/c"]

    mended = watched(event("MODIFIED", service("a", 6)), event("DELETED", service("b", 7)))
    sink = play(listed(5, service("a", 1, **bad), service("b", 2, **bad)), mended).sink
    assert not sink.problems
    sink = play(listed(5, service("a", 1, **bad)), watched(), GONE, listed(9, service("a", 8))).sink
    assert not sink.problems


def test_an_object_that_becomes_unusable_is_gone() -> None:
    unusable = event("MODIFIED", service("a", 6, type=5))
    sink = play(listed(5, service("a", 1)), watched(unusable)).sink
    assert sink.names() == []
    assert sink.problem_texts() == ["Service a/a: spec.type: 5 is not a string"]


def test_unknown_events_are_ignored() -> None:
    played = play(listed(5), watched(event("RENAMED", service("a", 6))), watched())
    assert played.asked() == ["list", "watch 5", "watch 6"]
    assert played.sink.names() == []


@pytest.mark.parametrize(
    "failure",
    [RequestFailedError("no", 403), RequestFailedError("down"), RequestFailedError("ails", 500)],
    ids=["refused", "down", "ailing"],
)
def test_what_is_dispensable_is_waited_for_a_few_times_and_asked_for_all_the_same(
    failure: RequestFailedError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert play(failure, is_dispensable=True).sink.observed == []
    played = play(*[failure] * 9, listed(7, service("web", 1)), is_dispensable=True)
    assert played.sink.observed[0] == (Listed(Kind.SERVICE, ()),)
    assert len(played.sink.observed) == 2 and played.sink.names() == ["a/web"]
    assert len([text for text in caplog.messages if text.startswith("Going on without")]) == 1


def test_what_is_dispensable_is_waited_for_while_nothing_can_be_listed() -> None:
    contact = Contact(failing={Kind.ENDPOINT_SLICE: ""})
    failure = RequestFailedError("down")
    assert play(*[failure] * 9, is_dispensable=True, contact=contact).sink.observed == []


def test_what_was_known_once_stays_though_it_is_dispensable() -> None:
    refusal = RequestFailedError("no", 403)
    played = play(listed(7, service("web", 1)), *[refusal] * 9, is_dispensable=True)
    assert played.sink.names() == ["a/web"]


def test_what_is_needed_is_waited_for() -> None:
    assert play(*[RequestFailedError("no", 403)] * 9).sink.observed == []


def test_losing_contact_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    play(
        CUT, status(503), CUT, listed(5), watched(), GONE, listed(6), watched(error=CUT), listed(6), watched()
    )
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "API server cannot be followed; keeping what is known and trying again: connection reset",
        ),
        ("INFO", "API server can be followed again"),
    ]


def test_losing_contact_is_said_once_for_all_kinds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    contact = Contact()
    for kind, failure in zip(Kind, (CUT, status(503), RequestFailedError("refused")), strict=True):
        contact.lost(kind, failure)
    for kind in Kind:
        contact.regained(kind)
    contact.regained(Kind.NODE)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_each_refusal_is_said(caplog: pytest.LogCaptureFixture) -> None:
    contact = Contact()
    for kind in (Kind.NODE, Kind.NODE, Kind.SERVICE):
        contact.lost(kind, RequestFailedError(f"403 Forbidden: {kind.value}", 403))
    assert [record.getMessage()[-7:] for record in caplog.records] == ["n: Node", "Service"]
