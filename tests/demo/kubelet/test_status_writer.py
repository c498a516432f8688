"""When a pod's status is written, and when it need not be."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.demo.kubelet.objects import ADDRESSES, START, Player, pod_json
from tests.support.scripted_api_client import NO_ANSWER, ScriptedApiClient
from tests.support.waiting import DEADLINE_SECONDS
from userspace_proxy.demo.kubelet.pod_spec import read_pod
from userspace_proxy.demo.kubelet.status_writer import StatusWriter


class Scene:
    """A pod that runs and is ready, and what is written of it."""

    def __init__(self) -> None:
        self.player = Player(pod_json())
        self.client = ScriptedApiClient()
        self.writer = StatusWriter(self.player.life, self.client, ADDRESSES, lambda: START + 100)

    def told(self, status: Any) -> None:
        """The API server tells of the pod with this status."""
        self.player.carry_out(self.player.life.changed(read_pod({**pod_json(), "status": status}), START))

    async def look(self) -> None:
        """Have it look whether there is something to write, and wait until it has."""
        running = asyncio.create_task(self.writer.run())
        self.writer.may_have_changed()
        for _ in range(20):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def ready_of(status: Any) -> tuple[str, str]:
    (condition,) = [each for each in status["conditions"] if each["type"] == "Ready"]
    return condition["status"], condition["lastTransitionTime"]


def test_what_was_written_is_not_written_again() -> None:
    async def scene() -> None:
        stage = Scene()
        await stage.look()
        stage.told(stage.client.bodies[0]["status"])
        await stage.look()
        assert stage.client.asked == [("patch status", "web")]

    asyncio.run(asyncio.wait_for(scene(), DEADLINE_SECONDS))


def test_who_takes_a_ready_pod_for_lost_is_corrected() -> None:
    async def scene() -> None:
        stage = Scene()
        await stage.look()
        written = stage.client.bodies[0]["status"]
        lost = [
            {**each, "status": "False", "lastTransitionTime": "2027-01-15T08:01:00Z"}
            for each in written["conditions"]
        ]
        stage.told({**written, "conditions": lost})
        await stage.look()
        assert len(stage.client.asked) == 2
        # It says so since now, or nobody could tell that it is said anew.
        assert ready_of(stage.client.bodies[1]["status"]) == ("True", "2027-01-15T08:01:40Z")

    asyncio.run(asyncio.wait_for(scene(), DEADLINE_SECONDS))


def test_a_server_that_does_not_answer_is_asked_again() -> None:
    async def scene() -> None:
        stage = Scene()
        stage.client.answers = [NO_ANSWER]
        running = asyncio.create_task(stage.writer.run())
        stage.writer.may_have_changed()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(stage.client.asked) < 2:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert stage.client.bodies[0] == stage.client.bodies[1]

    asyncio.run(asyncio.wait_for(scene(), 2 * DEADLINE_SECONDS))
