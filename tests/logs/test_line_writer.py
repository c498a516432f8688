"""Nobody who logs waits for who reads."""

from __future__ import annotations

import fcntl
import os
import pty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from userspace_proxy.logs.line_writer import LineWriter

PIPE_BYTES = 4096
LINE = b"x" * 99 + b"\n"


def lost_line(lines: int) -> bytes:
    return b"lost %d\n" % lines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds little: reader and writer. What a thread writes to it ends with the test."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield reader, writer
    with suppress(OSError):
        os.close(reader)  # whoever waits for it, waits no more
    os.close(writer)


def read_until(reader: int, text: bytes) -> bytes:
    """What is read until a line with `text` has come whole."""
    read = b""
    while text not in read or not read.endswith(b"\n"):
        read += os.read(reader, 65536)
    return read


def test_lines_wait_for_the_start_and_keep_their_order(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    writer = LineWriter(descriptor, lost_line)
    writer.write(b"first\n")
    writer.write(b"second\n")
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    writer.start()
    writer.write(b"third\n")
    writer.close()
    assert os.read(reader, 65536) == b"first\nsecond\nthird\n"


def test_a_reader_that_stopped_costs_lines_and_no_time_and_is_told_how_many(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    os.write(descriptor, bytes(PIPE_BYTES))  # full
    writer = LineWriter(descriptor, lost_line, max_waiting=10)
    writer.start()
    for _ in range(1000):
        writer.write(LINE)
    writer.close(0.01)
    assert writer.lost >= 1000 - 2 * 10
    read = read_until(reader, b"lost ")
    written = read.count(LINE)
    assert read.endswith(b"lost %d\n" % (1000 - written))
    wait_until(lambda: writer.lost == 0)
    writer.write(b"again\n")
    assert read_until(reader, b"again\n") == b"again\n"


def test_a_reader_that_left_costs_lines_alone(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    os.close(reader)
    writer = LineWriter(descriptor, lost_line)
    writer.start()
    writer.write(LINE)
    writer.close()
    assert writer.lost == 1


def test_a_terminal_that_is_gone_costs_lines_alone() -> None:
    terminal, descriptor = pty.openpty()
    writer = LineWriter(descriptor, lost_line)
    os.close(terminal)
    writer.start()
    writer.write(LINE)
    writer.close()
    assert writer.lost == 1
    os.close(descriptor)


def test_what_somebody_made_non_blocking_is_waited_for(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    os.set_blocking(descriptor, False)
    writer = LineWriter(descriptor, lost_line)
    writer.start()
    for _ in range(100):
        writer.write(LINE)
    writer.write(b"end\n")
    assert read_until(reader, b"end\n") == LINE * 100 + b"end\n"


def test_a_file_is_written_at_once(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        writer = LineWriter(file.fileno(), lost_line)
        writer.start()
        writer.write(LINE)
        assert (tmp_path / "log").read_bytes() == LINE


def test_a_full_disk_costs_lines_and_says_so_later() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        writer = LineWriter(full.fileno(), lost_line)
        writer.start()
        writer.write(LINE)
        writer.close()
        assert writer.lost == 1
