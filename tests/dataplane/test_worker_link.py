"""One worker process, from the agent's side."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
import uvloop

from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.dataplane.worker_link import WorkerLink


def test_a_process_is_gone_even_when_nobody_waits_for_its_end(tmp_path: Path) -> None:
    async def scenario() -> int:
        control_sockets = ControlSockets(tmp_path / "state")
        control_sockets.prepare()
        link = await WorkerLink.start(asyncio.get_running_loop(), control_sockets)
        os.kill(link.pid, signal.SIGSTOP)  # so it cannot end by itself
        ending = asyncio.create_task(link.end())
        await asyncio.sleep(0)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        return link.pid

    pid = uvloop.run(scenario())
    assert not Path(f"/proc/{pid}").exists()
