"""Workers whose agent is gone, found by whoever comes next."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import uvloop

from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.dataplane.messages import Start, WorkerLimits
from userspace_proxy.dataplane.orphans import end_orphans
from userspace_proxy.dataplane.worker_link import WorkerLink

START = partial(Start, limits=WorkerLimits(), seed=1, orphan_seconds=30, build="1", pool_size=1)


@contextmanager
def stuck_orphan(control_sockets: ControlSockets) -> Iterator[int]:
    """A worker that does nothing any more; its pid."""

    async def orphan() -> int:
        link = await WorkerLink.start(asyncio.get_running_loop(), control_sockets)
        await link.request(START)
        os.kill(link.pid, signal.SIGSTOP)
        link.leave()
        return link.pid

    pid = uvloop.run(orphan())
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def control_sockets(tmp_path: Path) -> Iterator[ControlSockets]:
    control_sockets = ControlSockets(tmp_path / "state")
    control_sockets.prepare()
    yield control_sockets
    control_sockets.remove()


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def test_a_worker_that_does_not_end_is_killed(control_sockets: ControlSockets, tmp_path: Path) -> None:
    with stuck_orphan(control_sockets) as pid:
        assert end_orphans(ControlSockets(tmp_path / "state")) == 1
        assert has_ended(pid)
    assert not list(control_sockets.folder.iterdir())


def test_a_worker_that_cannot_be_killed_is_not_counted(
    control_sockets: ControlSockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in another container, whose pids mean nothing here."""
    with stuck_orphan(control_sockets) as pid, monkeypatch.context() as patch:
        patch.setattr("userspace_proxy.dataplane.orphans.peer_of", lambda _: (0, os.geteuid()))
        assert end_orphans(ControlSockets(tmp_path / "state")) == 0
        assert not has_ended(pid)
        assert list(control_sockets.folder.iterdir())
    assert end_orphans(ControlSockets(tmp_path / "state")) == 0
