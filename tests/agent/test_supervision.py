"""Jobs that live and die together."""

from __future__ import annotations

import asyncio

import pytest

from userspace_proxy.agent.supervision import JobFailedError, run_together
from userspace_proxy.errors import StartupError


async def fails(error: Exception) -> None:
    await asyncio.sleep(0)
    raise error


def test_when_one_ends_the_others_are_cancelled_and_awaited() -> None:
    ended = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("waits")

    asyncio.run(run_together({"stop": asyncio.sleep(0), "waits": waits()}))
    assert ended == ["waits"]


def test_an_error_of_ours_is_raised_as_it_is() -> None:
    with pytest.raises(StartupError, match="no room"):
        asyncio.run(run_together({"serving": fails(StartupError("no room")), "other": asyncio.sleep(60)}))


def test_an_unexpected_one_ends_all_with_the_name_of_its_job(caplog: pytest.LogCaptureFixture) -> None:
    jobs = {"health checks": fails(ValueError("a bug")), "other": asyncio.sleep(60)}
    with pytest.raises(
        JobFailedError, match=r"'health checks' ended by a failure of ours \(ValueError: a bug\)"
    ):
        asyncio.run(run_together(jobs))
    [record] = caplog.records
    assert record.exc_info is not None
    assert "job=health checks" in record.message
