"""What a process prints is there to be read: bounded, and as `kubectl logs` asks for it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support.waiting import DEADLINE_SECONDS
from userspace_proxy.demo.kubelet.container_logs import MOST_LINE_BYTES, ContainerLog, LogOptions


def run(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scene, 2 * DEADLINE_SECONDS))


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.iterdir()]


async def all_of(log: ContainerLog, options: LogOptions | None = None) -> bytes:
    return b"".join([piece async for piece in log.lines(options or LogOptions())])


async def after(log: ContainerLog, *said: bytes) -> None:
    """The process of `log` has said so much, and ended."""
    writer = log.open()
    for text in said:
        os.write(writer, text)
    os.close(writer)
    await closed(log)


async def closed(log: ContainerLog) -> None:
    while log.is_open:
        await asyncio.sleep(0.001)


def test_lines_come_as_they_were_said(tmp_path: Path) -> None:
    async def scene() -> None:
        log = ContainerLog(tmp_path / "web" / "0.log")
        await after(log, b"one\ntw", b"o\n\nthree")
        assert await all_of(log) == b"one\ntwo\n\nthree\n"

    run(scene())


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (LogOptions(tail_lines=2), b"two\nthree\n"),
        (LogOptions(tail_lines=0), b""),
        (LogOptions(tail_lines=9), b"one\ntwo\nthree\n"),
        (LogOptions(limit_bytes=5), b"one\nt"),
        (LogOptions(since=datetime.now(UTC) - timedelta(hours=1)), b"one\ntwo\nthree\n"),
        (LogOptions(since=datetime.now(UTC) + timedelta(hours=1)), b""),
        (LogOptions(tail_lines=1, follow=True), b"three\n"),
    ],
)
def test_what_is_asked_for_is_shown(tmp_path: Path, options: LogOptions, shown: bytes) -> None:
    async def scene() -> None:
        log = ContainerLog(tmp_path / "0.log")
        await after(log, b"one\ntwo\nthree\n")
        assert await all_of(log, options) == shown

    run(scene())


def test_timestamps_stand_before_lines(tmp_path: Path) -> None:
    async def scene() -> None:
        log = ContainerLog(tmp_path / "0.log")
        await after(log, b"one\n")
        shown = await all_of(log, LogOptions(timestamps=True))
        assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z one\n", shown)

    run(scene())


def test_following_shows_what_comes_until_the_end(tmp_path: Path) -> None:
    async def scene() -> None:
        log = ContainerLog(tmp_path / "0.log")
        writer = log.open()
        os.write(writer, b"one\n")
        lines = log.lines(LogOptions(follow=True))
        assert await anext(lines) == b"one\n"
        os.write(writer, b"two\n")
        assert await anext(lines) == b"two\n"
        os.close(writer)
        assert [piece async for piece in lines] == []

    run(scene())


def test_last_words_reach_who_follows(tmp_path: Path) -> None:
    async def scene() -> None:
        log = ContainerLog(tmp_path / "0.log")
        writer = log.open()
        followed = asyncio.create_task(all_of(log, LogOptions(follow=True)))
        await asyncio.sleep(0)  # it looks, and there is nothing yet
        os.write(writer, b"last words")
        os.close(writer)
        log.close()
        assert await followed == b"last words\n"

    run(scene())


def test_files_are_bounded_and_the_latest_lines_kept(tmp_path: Path) -> None:
    async def scene() -> None:
        log = ContainerLog(tmp_path / "0.log", most_file_bytes=1000)
        writer = log.open()
        followed = asyncio.create_task(all_of(log, LogOptions(follow=True)))
        for number in range(200):
            os.write(writer, b"line %d\n" % number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        os.close(writer)
        await closed(log)
        assert sum(sizes(tmp_path)) <= 2000
        kept = (await all_of(log)).splitlines()
        assert kept[-1] == b"line 199"
        assert kept == [b"line %d" % number for number in range(200 - len(kept), 200)]
        assert await all_of(log, LogOptions(tail_lines=len(kept) - 1)) == b"\n".join(kept[1:]) + b"\n"
        assert (await followed).endswith(b"line 199\n")

    run(scene())


def test_line_without_an_end_is_broken_not_kept_in_memory(tmp_path: Path) -> None:
    async def scene() -> None:
        log = ContainerLog(tmp_path / "0.log")
        await after(log, b"x" * MOST_LINE_BYTES, b"x" * MOST_LINE_BYTES, b"\n")
        assert (await all_of(log)).replace(b"\n", b"") == b"x" * 2 * MOST_LINE_BYTES

    run(scene())


def test_log_that_is_removed_is_gone_also_for_who_follows_it(tmp_path: Path) -> None:
    async def scene() -> None:
        log = ContainerLog(tmp_path / "0.log")
        writer = log.open()
        os.write(writer, b"one\n")
        lines: AsyncIterator[bytes] = log.lines(LogOptions(follow=True))
        assert await anext(lines) == b"one\n"
        log.remove()
        log.close()
        os.close(writer)
        assert [piece async for piece in lines] == []
        assert sizes(tmp_path) == []

    run(scene())
