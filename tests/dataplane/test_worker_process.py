"""A worker process, in a loop of the test's own: what its agent tells it."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import uvloop

from userspace_proxy.dataplane.messages import Keep, Start, WorkerLimits
from userspace_proxy.dataplane.worker_link import WorkerLink
from userspace_proxy.dataplane.worker_process import WorkerProcess

START = partial(Start, limits=WorkerLimits(), seed=1, orphan_seconds=30, build="1", pool_size=1)


def test_what_is_kept_for_the_next_agent_is_no_room_for_connections(tmp_path: Path) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            control, kept = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
            control.bind(str(tmp_path / "control"))
            control.listen()
            ours, theirs = socket.socketpair()
            process = WorkerProcess(loop, theirs, control, started_by=os.getuid(), pid_namespace=1)
            stack.callback(process.close)
            link = WorkerLink(loop, ours, pid=0, control_file=tmp_path / "control")
            await link.request(START)
            assert process._worker is not None
            room = process._worker._room
            before = room.capacity
            for names in (("a", "b", "c"), ()):
                keep = partial(Keep, names=names, new=names)
                await link.request(keep, [kept.fileno() for _ in names])
                assert room.capacity == before - len(names)
            link.leave()

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        uvloop.run(scenario())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
