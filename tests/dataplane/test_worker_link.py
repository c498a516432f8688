"""One worker process, from the agent's side."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest
import uvloop

from tests.support.kernel_state import descriptors
from userspace_proxy.dataplane import worker_link
from userspace_proxy.dataplane.channel import encode_frame
from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.dataplane.messages import Counters, ReadCounters
from userspace_proxy.dataplane.succession import HandBack, HandedBack
from userspace_proxy.dataplane.worker_link import WorkerLink
from userspace_proxy.errors import WorkerError


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
        control_sockets.remove()
        return link.pid

    pid = uvloop.run(scenario())
    assert not Path(f"/proc/{pid}").exists()


def test_what_comes_with_an_answer_that_nobody_waits_for_any_more_is_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        received, sent = os.pipe()
        with theirs:
            link = WorkerLink(asyncio.get_running_loop(), ours, pid=0, control_file=tmp_path / "none")
            question = asyncio.create_task(link.fetch(partial(HandBack, start=0)))
            await asyncio.sleep(0)
            link._receive(msgspec.msgpack.encode(HandedBack(1, (), (), None)), [received])
            question.cancel()
            with pytest.raises(asyncio.CancelledError):
                await question
            link.leave()
        with pytest.raises(BrokenPipeError):
            os.write(sent, b"?")
        os.close(sent)

    uvloop.run(scenario())


def test_a_worker_for_which_there_are_no_descriptors_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario() -> None:
        control_sockets = ControlSockets(tmp_path / "state")
        control_sockets.prepare()
        before = descriptors(os.getpid())
        monkeypatch.setattr(socket, "socketpair", none_left)
        with pytest.raises(WorkerError, match="Too many open files"):
            await WorkerLink.start(asyncio.get_running_loop(), control_sockets)
        assert descriptors(os.getpid()) == before
        control_sockets.remove()
        assert not control_sockets.folder.exists()

    uvloop.run(scenario())


def stand_still() -> None:
    """The whole loop, for longer than a worker may take."""
    time.sleep(0.5)


@pytest.mark.parametrize("answers", [True, False])
def test_a_worker_that_answers_while_the_agent_stands_still_is_not_to_blame(
    answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_link, "_ANSWER_SECONDS", 0.2)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            link = WorkerLink(loop, ours, pid=0, control_file=tmp_path / "none")
            question = asyncio.create_task(link.request(ReadCounters))
            await asyncio.sleep(0)
            if answers:
                theirs.sendall(encode_frame(msgspec.msgpack.encode(Counters(1, {}, None))))
            stand_still()
            if answers:
                assert await question == Counters(1, {}, None)
            else:
                with pytest.raises(WorkerError, match="did not answer"):
                    await question
            link.leave()

    uvloop.run(scenario())
