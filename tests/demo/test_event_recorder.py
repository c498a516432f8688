"""Events, as they are written for people."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.scripted_api_client import NOT_FOUND, REFUSED, ScriptedApiClient
from tests.support.waiting import DEADLINE_SECONDS
from userspace_proxy.demo import event_recorder
from userspace_proxy.demo.event_recorder import EventRecorder, Notice, Reference

POD = Reference("v1", "Pod", "shop", "web-1", "uid-1")
NODE = Reference("v1", "Node", "", "node-1", "uid-node")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clock:
    """A second later each time."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def written(record: Callable[[EventRecorder], None], number: int, *answers: Any) -> ScriptedApiClient:
    """What is asked of the API server for what is recorded, `number` requests."""
    client = ScriptedApiClient()
    client.answers = list(answers)
    recorder = EventRecorder(client, "tester", host="node-1", clock=Clock())

    async def main() -> None:
        record(recorder)
        running = asyncio.create_task(recorder.run())
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(client.asked) < number:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    assert len(client.asked) == number
    return client


def test_an_event_says_what_about_whom() -> None:
    def record(recorder: EventRecorder) -> None:
        recorder.record(POD, Notice("Failed", "x" * 2000, is_warning=True))
        recorder.record(NODE, Notice("Ready", "it is"))

    client = written(record, 2)
    about_pod, about_node = client.bodies
    name = about_pod["metadata"].pop("name")
    assert name.startswith("web-1.")
    assert about_pod == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": "shop"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "shop",
            "name": "web-1",
            "uid": "uid-1",
        },
        "type": "Warning",
        "reason": "Failed",
        "message": "x" * 1024,
        "source": {"component": "tester", "host": "node-1"},
        "reportingComponent": "tester",
        "reportingInstance": "node-1",
        "firstTimestamp": "2026-01-01T12:00:01Z",
        "lastTimestamp": "2026-01-01T12:00:01Z",
        "count": 1,
    }
    assert (about_node["type"], about_node["metadata"]["namespace"]) == ("Normal", "default")


def test_what_is_said_again_is_counted() -> None:
    def record(recorder: EventRecorder) -> None:
        for message in ("a", "a", "b", "a"):
            recorder.record(POD, Notice("Failed", message))

    client = written(record, 4)
    verbs = [verb for verb, _ in client.asked]
    assert verbs == ["create", "patch", "create", "patch"]
    assert client.bodies[1] == {"count": 2, "lastTimestamp": "2026-01-01T12:00:02Z"}
    assert client.bodies[3] == {"count": 3, "lastTimestamp": "2026-01-01T12:00:04Z"}
    assert client.asked[3][1] == client.bodies[0]["metadata"]["name"]


def test_an_event_that_was_deleted_is_made_anew() -> None:
    def record(recorder: EventRecorder) -> None:
        for _ in range(3):
            recorder.record(POD, Notice("Failed", "a"))

    client = written(record, 4, {}, NOT_FOUND)
    assert [verb for verb, _ in client.asked] == ["create", "patch", "create", "patch"]
    assert client.bodies[3]["count"] == 2


def test_an_event_that_is_refused_is_lost_alone() -> None:
    def record(recorder: EventRecorder) -> None:
        for message in ("a", "b", "a"):
            recorder.record(POD, Notice("Failed", message))

    client = written(record, 3, REFUSED)
    assert [body["message"] for body in client.bodies] == ["a", "b", "a"]


def test_neither_what_waits_nor_what_is_remembered_grows_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_recorder, "MAX_WAITING", 5)
    monkeypatch.setattr(event_recorder, "MAX_REMEMBERED", 1)

    def record(recorder: EventRecorder) -> None:
        for message in ("a", "b", "a", "a", "b", "lost"):
            recorder.record(POD, Notice("Failed", message))

    client = written(record, 5)
    assert [verb for verb, _ in client.asked] == ["create", "create", "create", "patch", "create"]
