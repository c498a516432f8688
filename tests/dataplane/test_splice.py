from __future__ import annotations

import errno
import fcntl
import os
import socket

import pytest

from tests.support.loopback import open_descriptors
from userspace_proxy.dataplane.splice import PipePool


def test_no_more_pipes_are_lent_than_allowed_and_few_are_kept() -> None:
    before = open_descriptors()
    pool = PipePool(max_lent=3, max_idle=1)
    pipes = [pool.take() for _ in range(4)]
    assert pipes[3] is None
    for pipe in pipes[:3]:
        assert pipe is not None
        pool.give_back(pipe)
    assert open_descriptors() == before + 2
    assert pool.take() in pipes
    pool.close()
    assert pool.lent == 1


def test_a_pipe_carries_bytes_between_sockets_and_keeps_count() -> None:
    pool = PipePool(max_idle=0)
    source, feeder = socket.socketpair()
    sink, reader = socket.socketpair()
    with source, feeder, sink, reader:
        source.setblocking(False)
        pipe = pool.take()
        assert pipe is not None
        feeder.sendall(b"some bytes")
        assert pipe.fill(source.fileno()) == pipe.level == 10
        assert pipe.drain(sink.fileno()) == 10
        assert pipe.level == 0
        assert reader.recv(100) == b"some bytes"
        with pytest.raises(BlockingIOError):
            pipe.fill(source.fileno())
        feeder.close()
        assert pipe.fill(source.fileno()) == 0
        pool.give_back(pipe)


def test_a_pipe_that_still_holds_bytes_is_not_lent_again() -> None:
    pool = PipePool()
    source, feeder = socket.socketpair()
    with source, feeder:
        pipe = pool.take()
        assert pipe is not None
        feeder.sendall(b"left behind")
        pipe.fill(source.fileno())
        pool.give_back(pipe)
        another = pool.take()
        assert another is not None
        assert another.level == 0
        pool.give_back(another)
        pool.close()


def test_without_descriptors_there_is_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe2", refuse)
    assert PipePool().take() is None


@pytest.mark.parametrize(("size", "is_lent"), [(1 << 16, True), (8192, False)])
def test_beyond_the_allowance_a_pipe_is_taken_as_it_is_if_that_is_enough(
    size: int, is_lent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unprivileged_fcntl(_fd: int, command: int, _argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return size

    before = open_descriptors()
    pool = PipePool(max_idle=0)
    monkeypatch.setattr(fcntl, "fcntl", unprivileged_fcntl)
    pipe = pool.take()
    assert (pipe is not None) is is_lent
    if pipe is not None:
        pool.give_back(pipe)
    assert open_descriptors() == before
