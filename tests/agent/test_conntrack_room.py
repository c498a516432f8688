"""A full conntrack table is said, and not too often."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.support.recorded_events import RecordedEvents
from userspace_proxy.agent.conntrack_room import is_nearly_full, watch_conntrack_room


@pytest.mark.parametrize(
    ("entries", "most", "expected"), [(94, 100, False), (95, 100, True), (101, 100, True), (5, 0, False)]
)
def test_nearly_full(entries: int, most: int, expected: bool) -> None:
    assert is_nearly_full(entries, most) is expected


@pytest.mark.parametrize(("entries", "lines"), [("99\n", 1), ("10\n", 0), (None, 0)])
def test_it_is_said_once_in_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, entries: str | None, lines: int
) -> None:
    caplog.set_level(logging.WARNING)
    if entries is not None:
        (tmp_path / "nf_conntrack_count").write_text(entries)
        (tmp_path / "nf_conntrack_max").write_text("100\n")

    events = RecordedEvents()

    async def look_often() -> None:
        watching = asyncio.create_task(watch_conntrack_room(tmp_path, look_seconds=0, record_event=events))
        for _ in range(20):
            await asyncio.sleep(0)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    asyncio.run(look_often())
    assert len(caplog.records) == lines
    assert events.said == ["ConntrackNearlyFull"] * lines
