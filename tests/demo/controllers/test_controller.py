"""Running a plan: what is written when, what is tried again, and what is waited for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

import pytest

from tests.demo.controllers.simulation import pod
from tests.support.scripted_api_client import CONFLICT, NO_ANSWER, NOT_FOUND, REFUSED, ScriptedApiClient
from tests.support.waiting import DEADLINE_SECONDS
from userspace_proxy.demo.api_client import ApiError
from userspace_proxy.demo.controllers import attempts, controller
from userspace_proxy.demo.controllers.controller import Controller
from userspace_proxy.demo.controllers.objects import DEPLOYMENTS, PODS, Metadata, Pod
from userspace_proxy.demo.controllers.writes import Create, Delete, Patch, Plan, Post, Say, Write, reference
from userspace_proxy.demo.event_recorder import EventRecorder
from userspace_proxy.demo.mirror import Mirror
from userspace_proxy.demo.notices import Notice, Reference

OWNER = Reference("apps/v1", "Deployment", "default", "web", "uid-web")


class PaperMirror(Mirror[Pod]):
    """Shows what the test says."""

    def __init__(self, client: ScriptedApiClient) -> None:
        super().__init__(client, PODS)
        self.show("1")

    def show(self, version: str, *pods: Pod) -> None:
        self._become({("default", each.metadata.name): each for each in pods}, version)


class RecordedEvents(EventRecorder):
    """Keeps them."""

    def __init__(self, client: ScriptedApiClient) -> None:
        super().__init__(client, "test")
        self.said: list[tuple[str, str]] = []

    def record(self, subject: Reference, notice: Notice) -> None:
        self.said.append((subject.name, notice.reason))


class Scene:
    """A controller that runs, with all that it meets."""

    def __init__(self) -> None:
        self.client = ScriptedApiClient()
        self.mirror = PaperMirror(self.client)
        self.events = RecordedEvents(self.client)
        self.plan = Plan()
        self.plans = 0
        self.controller = Controller("test", self._planned, [self.mirror], self.client, self.events)

    def _planned(self, now: datetime, chance: random.Random) -> Plan:
        self.plans += 1
        return self.plan

    async def asked(self, number: int) -> list[tuple[str, str]]:
        """What was asked, once it is so much."""
        await self.until(lambda: len(self.client.asked) >= number)
        return self.client.asked[:number]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                await asyncio.sleep(0.001)

    async def replan(self, *writes: Write, again_in_seconds: float | None = None) -> None:
        """Have the controller make this plan, and wait until it has."""
        self.plan = Plan(writes, again_in_seconds)
        plans = self.plans
        self.mirror.show("1", *self.mirror.objects.values())
        await self.until(lambda: self.plans > plans)


def play(scene: Callable[[Scene], Coroutine[Any, Any, None]], *writes: Write, **plan: Any) -> Scene:
    stage = Scene()
    stage.plan = Plan(writes, **plan)

    async def main() -> None:
        running = asyncio.create_task(stage.controller.run())
        try:
            await scene(stage)
            assert not running.done(), running.exception()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 2 * DEADLINE_SECONDS))
    return stage


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again after a hundredth of the time."""
    monkeypatch.setattr(attempts, "SPACING_SECONDS", 0.002)
    monkeypatch.setattr(attempts, "REFUSAL_SECONDS", 0.01)
    monkeypatch.setattr(controller, "COMING_BACK_SECONDS", 0.05)
    monkeypatch.setattr(controller, "delay_seconds", lambda failures, chance: 0.001)


def create(name: str, subject: Reference = OWNER) -> Create:
    return Create(
        resource=PODS,
        namespace="default",
        body={"metadata": {"name": name}},
        subject=subject,
        notice=Notice("Made", "made"),
        failure_reason="NotMade",
    )


def patch(name: str) -> Patch:
    metadata = Metadata(name, "default", f"uid-{name}", "5")
    return Patch(resource=PODS, metadata=metadata, body={"metadata": {"labels": {"a": "b"}}}, subject=OWNER)


def delete(name: str, **fields: Any) -> Delete:
    metadata = Metadata(name, "default", f"uid-{name}", "5")
    return Delete(resource=PODS, metadata=metadata, subject=OWNER, **fields)


def test_nothing_is_planned_before_all_is_known() -> None:
    async def scene(stage: Scene) -> None:
        await asyncio.sleep(0.01)
        assert stage.plans == 0
        unsynced.show("1")
        await stage.until(lambda: stage.plans)

    stage = Scene()
    unsynced = PaperMirror(stage.client)
    unsynced._synced.clear()

    async def main() -> None:
        stage.controller.mirrors = [stage.mirror, unsynced]
        running = asyncio.create_task(stage.controller.run())
        await scene(stage)
        running.cancel()

    asyncio.run(main())


def test_a_plan_is_carried_out_in_order_and_told() -> None:
    async def scene(stage: Scene) -> None:
        bind = Post(
            resource=PODS,
            metadata=Metadata("c", "default", "uid-c", "5"),
            subresource="binding",
            body={"target": {}},
            subject=OWNER,
        )
        await stage.replan(create("a"), patch("b"), bind, delete("d", grace_seconds=0))
        assert await stage.asked(4) == [
            ("create", "a"),
            ("patch", "b"),
            ("create binding", "c"),
            ("delete", "d"),
        ]
        assert stage.client.bodies[1] == {
            "metadata": {"labels": {"a": "b"}, "uid": "uid-b", "resourceVersion": "5"}
        }
        assert stage.client.bodies[3] == {"uid": "uid-d", "grace": 0}
        assert stage.events.said == [("web", "Made")]

    play(scene)


def test_what_was_written_is_waited_for_before_there_is_another_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "COMING_BACK_SECONDS", DEADLINE_SECONDS)
    versions = {"metadata": {"resourceVersion": "7"}}

    async def scene(stage: Scene) -> None:
        stage.client.answer = lambda verb, name: versions
        await stage.replan(create("a"))
        await stage.asked(1)
        plans = stage.plans
        stage.plan = Plan()
        for version in ("5", "6"):
            stage.mirror.show(version)
            await asyncio.sleep(0.01)
            assert stage.plans == plans
        stage.mirror.show("7", pod("a"))
        await stage.until(lambda: stage.plans > plans)

    play(scene)


def test_a_deletion_is_waited_for_until_the_object_is_seen_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "COMING_BACK_SECONDS", DEADLINE_SECONDS)

    async def scene(stage: Scene) -> None:
        there = pod("a", metadata={"resourceVersion": "5"})
        stage.mirror.show("5", there)
        await stage.replan(delete("a"))
        await stage.asked(1)
        plans = stage.plans
        stage.plan = Plan()
        stage.mirror.show("6", there)
        await asyncio.sleep(0.01)
        assert stage.plans == plans
        stage.mirror.show("7", pod("a", metadata={"resourceVersion": "7"}, is_terminating=True))
        await stage.until(lambda: stage.plans > plans)

    play(scene)


def test_what_is_refused_is_told_and_tried_again_and_holds_up_nothing_else() -> None:
    async def scene(stage: Scene) -> None:
        other = Reference("apps/v1", "Deployment", "default", "other", "uid-other")
        stage.client.answers = [REFUSED]
        await stage.replan(create("a"), create("b"), create("c", other))
        asked = await stage.asked(4)
        # Of one subject the rest would be refused too.
        assert asked[:2] == [("create", "a"), ("create", "c")]
        assert ("create", "a") in asked[2:]
        assert stage.events.said[:2] == [("web", "NotMade"), ("other", "Made")]

    play(scene)


@pytest.mark.parametrize("meanwhile", [CONFLICT, NOT_FOUND], ids=["changed", "gone"])
def test_what_somebody_else_did_meanwhile_is_no_failure(meanwhile: ApiError) -> None:
    async def scene(stage: Scene) -> None:
        stage.client.answers = [meanwhile, meanwhile]
        await stage.replan(create("a"))
        await stage.asked(3)
        assert ("web", "NotMade") not in stage.events.said

    play(scene)


def test_a_server_that_does_not_answer_is_asked_again() -> None:
    async def scene(stage: Scene) -> None:
        stage.client.answers = [NO_ANSWER, NO_ANSWER]
        await stage.replan(patch("a"), patch("b"))
        await stage.until(lambda: {("patch", "a"), ("patch", "b")} <= set(stage.client.asked[2:]))
        assert ("web", "NotMade") not in stage.events.said

    play(scene)


def test_what_is_not_planned_any_more_is_forgotten() -> None:
    async def scene(stage: Scene) -> None:
        stage.client.answers = [REFUSED] * 6
        await stage.replan(patch("a"))
        await stage.asked(6)
        await stage.replan()
        await stage.replan(patch("a"))
        await stage.asked(7)

    play(scene)


def test_only_so_much_is_written_in_one_go_and_the_rest_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "MAX_WRITES", 2)

    async def scene(stage: Scene) -> None:
        await stage.replan(*(patch(name) for name in "abc"))
        asked = await stage.asked(3)
        assert asked == [("patch", "a"), ("patch", "b"), ("patch", "c")]

    play(scene)


def test_what_is_only_said_is_said_once_as_long_as_it_is_so() -> None:
    async def scene(stage: Scene) -> None:
        say = Say(subject=OWNER, notice=Notice("Full", "the pool is empty"))
        for writes, said in (((say,), 1), ((say,), 1), ((), 1), ((say,), 2)):
            await stage.replan(*writes)
            assert stage.events.said == [("web", "Full")] * said
        assert not stage.client.asked

    play(scene)


@pytest.mark.parametrize(
    ("answer", "is_deleted"),
    [
        (NOT_FOUND, True),
        ({"metadata": {"uid": "uid-web"}}, False),
        ({"metadata": {"uid": "another"}}, True),
    ],
)
def test_garbage_is_deleted_only_if_its_owner_is_really_gone(answer: Any, is_deleted: bool) -> None:
    async def scene(stage: Scene) -> None:
        stage.client.answers = [answer]
        await stage.replan(delete("a", unless_there=(DEPLOYMENTS, OWNER)), patch("b"))
        expected = [("get", "web"), *([("delete", "a")] if is_deleted else []), ("patch", "b")]
        assert await stage.asked(len(expected)) == expected

    play(scene)


def test_time_alone_leads_to_another_plan() -> None:
    async def scene(stage: Scene) -> None:
        await stage.until(lambda: stage.plans >= 3)

    play(scene, again_in_seconds=0.001)


def test_references_are_what_events_and_owners_name() -> None:
    metadata: Metadata = pod("a").metadata
    assert reference(PODS, metadata) == Reference("v1", "Pod", "default", "a", "uid-a")
