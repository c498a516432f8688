"""What a cluster is asked over its control socket, and what it answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from threading import Thread

import msgspec
import pytest

from userspace_proxy.demo import control
from userspace_proxy.demo.control import AskPlace, EndCluster, Ending, Place, RunningCluster
from userspace_proxy.demo.state_directory import CONTROL_SOCKET
from userspace_proxy.errors import StartupError


async def answer(question: control.Question) -> msgspec.Struct:
    if isinstance(question, AskPlace):
        return Place(question.name, {"net": 7})
    raise StartupError("not now")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RunningCluster]:
    ends: Queue[Callable[[], object]] = Queue()

    async def serve() -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        server = await control.serve(tmp_path / CONTROL_SOCKET, answer)
        ends.put(lambda: loop.call_soon_threadsafe(ended.set))
        await ended.wait()
        server.close()

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    end = ends.get(timeout=60)
    try:
        cluster = RunningCluster.find(tmp_path)
        assert cluster is not None
        with cluster:
            cluster.ask(AskPlace("here"), Place)  # from now on the other side's end of it is closed, too
            yield cluster
    finally:
        end()
        thread.join()


def test_who_answers_is_known_by_the_kernel(cluster: RunningCluster) -> None:
    assert (cluster.pid, cluster.init) == (os.getpid(), os.getppid())


def test_one_question_after_the_other(cluster: RunningCluster) -> None:
    for name in ("node-1", "default/web"):
        assert cluster.ask(AskPlace(name), Place) == Place(name, {"net": 7})


def test_a_refusal_is_an_error_here(cluster: RunningCluster) -> None:
    with pytest.raises(StartupError, match=r"^not now$"):
        cluster.ask(EndCluster(keep=False), Ending)


def test_nonsense_is_refused_and_the_conversation_goes_on(cluster: RunningCluster) -> None:
    cluster.connection.sendall(b'{"type": "AskWeather"}\n')
    with cluster.connection.makefile("rb") as lines:
        assert b"does not understand" in lines.readline()
    assert cluster.ask(AskPlace("outside"), Place).name == "outside"


def test_nobody_is_there(tmp_path: Path) -> None:
    assert RunningCluster.find(tmp_path) is None
    (tmp_path / CONTROL_SOCKET).touch()
    assert RunningCluster.find(tmp_path) is None
