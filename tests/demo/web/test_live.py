"""Following the cluster for those who look."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from userspace_proxy.demo.api_client import ApiClient
from userspace_proxy.demo.web import live
from userspace_proxy.demo.web.agent_answers import AgentAnswers
from userspace_proxy.demo.web.audience import Viewer
from userspace_proxy.demo.web.load import Load

DEADLINE_SECONDS = 30.0


def test_what_cannot_be_drawn_does_not_end_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_AGAIN_SECONDS", 0)

    async def look() -> bytes:
        is_tried_again = asyncio.Event()
        attempts = 0

        async def follow(_self: live.Live) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                raise KeyError("podIPs")
            is_tried_again.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(live.Live, "_follow", follow)
        page = live.Live(cast(ApiClient, None), cast(AgentAnswers, None), Load(lambda: None))
        viewer = Viewer(lambda: None)
        page.welcome(viewer)
        running = asyncio.create_task(page.run())
        async with asyncio.timeout(DEADLINE_SECONDS):
            await is_tried_again.wait()
            said = await viewer.next()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return said

    assert b"cannot follow the cluster" in asyncio.run(look())
