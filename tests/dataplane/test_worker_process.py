"""A worker process, in a loop of the test's own: what its agent tells it."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import uvloop

from userspace_proxy.dataplane.messages import Keep, SetVerbosity, Start, WorkerLimits
from userspace_proxy.dataplane.succession import Hello
from userspace_proxy.dataplane.worker_link import WorkerLink
from userspace_proxy.dataplane.worker_log import WorkerLog
from userspace_proxy.dataplane.worker_process import WorkerProcess
from userspace_proxy.logs.formats import at_verbosity
from userspace_proxy.logs.log import Log

START = partial(Start, limits=WorkerLimits(), seed=1, orphan_seconds=30, build="1", pool_size=1)


@asynccontextmanager
async def linked(
    folder: Path, log: WorkerLog | None = None
) -> AsyncIterator[tuple[WorkerProcess, WorkerLink]]:
    """A worker that was started, and its agent's link to it."""
    loop = asyncio.get_running_loop()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limit)  # a worker lowers it
        control = stack.enter_context(socket.socket(socket.AF_UNIX))
        control.bind(str(folder / "control"))
        control.listen()
        ours, theirs = socket.socketpair()
        process = WorkerProcess(loop, theirs, control, started_by=os.getuid(), pid_namespace=1, log=log)
        stack.callback(process.close)
        link = WorkerLink(loop, ours, pid=0, control_file=folder / "control")
        stack.callback(link.leave)
        await link.request(START)
        yield process, link


def test_what_is_kept_for_the_next_agent_is_no_room_for_connections(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as (process, link):
            with socket.socket() as kept:
                assert process._worker is not None
                room = process._worker._room
                before = room.capacity
                for names in (("a", "b", "c"), ()):
                    keep = partial(Keep, names=names, new=names)
                    await link.request(keep, [kept.fileno() for _ in names])
                    assert room.capacity == before - len(names)

    uvloop.run(scenario())


def test_an_agent_says_how_much_is_logged(tmp_path: Path) -> None:
    root, shown = logging.getLogger(), []
    level = root.level

    async def scenario() -> None:
        async with linked(tmp_path, WorkerLog(Log())) as (_, link):
            for verbosity in (4, 2):
                await link.request(partial(SetVerbosity, verbosity=verbosity))
                shown.append([each for each in range(6) if root.isEnabledFor(at_verbosity(each))])

    try:
        uvloop.run(scenario())
    finally:
        root.setLevel(level)
    assert shown == [[0, 1, 2, 3, 4], [0, 1, 2]]


def test_an_agent_is_told_that_descriptors_ran_out_once_in_a_while(tmp_path: Path) -> None:
    told: list[str] = []

    async def scenario() -> None:
        async with linked(tmp_path) as (process, link):
            link.ran_short = lambda: told.append("short")
            assert process._worker is not None
            for _ in range(3):
                process._worker._connects.descriptors_ran_out()
            await link.request(partial(SetVerbosity, verbosity=0))  # comes after it
            assert told == ["short"]

    uvloop.run(scenario())


def test_an_agent_of_who_knows_which_build_is_told_nothing_before_its_start(tmp_path: Path) -> None:
    told: list[str] = []

    async def scenario() -> None:
        async with linked(tmp_path) as (process, _):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(tmp_path / "control"))
            link = WorkerLink(asyncio.get_running_loop(), sock, pid=0, control_file=tmp_path / "control")
            link.ran_short = lambda: told.append("short")
            try:
                await link.request(Hello)
                process._ran_short()
                await link.request(Hello)  # comes after it
                assert told == []
                await link.request(START)
                process._ran_short()
                await link.request(Hello)
                assert told == ["short"]
            finally:
                link.leave()

    uvloop.run(scenario())
