"""What changes while somebody looks: on a terminal each frame takes the place of the one before, and `q` ends
it; elsewhere each is printed after the other, as JSON a line each.
"""

from __future__ import annotations

import io
import os
import select
import shutil
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from queue import SimpleQueue
from typing import Final, TextIO, TypeVar

import click
import msgspec

from userspace_proxy.cli.rendering import Block, Output, encoded, write

_T = TypeVar("_T")
Blocks = Callable[[_T, bool], Iterable[Block]]

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""To the terminal's other screen, without a cursor; xterm's control sequences."""
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"
_QUIT: Final = (b"q", b"Q", b"\x04", b"")


def show_frames(frames: Iterator[_T], output: Output, blocks: Blocks[_T], count: int | None = None) -> None:
    """Show frames as they come, `count` of them (None: for ever); ends quietly when it is interrupted."""
    shown = islice(frames, count)
    is_wide = output is Output.WIDE
    with suppress(KeyboardInterrupt):
        if output in (Output.JSON, Output.YAML):
            for frame in shown:
                click.echo(_document(frame, output))
        elif sys.stdout.isatty() and sys.stdin.isatty():
            _on_screen(shown, lambda frame: blocks(frame, is_wide))
        else:
            for number, frame in enumerate(shown):
                if number:
                    click.echo()
                write(blocks(frame, is_wide))


def _document(frame: object, output: Output) -> str:
    if output is Output.YAML:
        return f"---\n{encoded(frame, output)}"
    return msgspec.json.encode(frame).decode()


def _on_screen(frames: Iterator[_T], blocks: Callable[[_T], Iterable[Block]]) -> None:
    with _keys_at_once(sys.stdin), _other_screen(sys.stdout):
        for frame in _until_quit(frames, sys.stdin.fileno()):
            sys.stdout.write(_HOME + _drawn(blocks(frame), *shutil.get_terminal_size()) + _REST_OF_SCREEN)
            sys.stdout.flush()


class _Page(io.StringIO):
    """What is drawn on is shown on a terminal later."""

    def isatty(self) -> bool:
        return True


def _drawn(blocks: Iterable[Block], width: int, height: int) -> str:
    """As many lines as there is room for, each without what stood there before."""
    from userspace_proxy.cli.drawing import draw

    page = _Page()
    draw(blocks, page, width)
    lines = page.getvalue().splitlines()
    if len(lines) > height:
        lines = [*lines[: height - 1], f"… {len(lines) - height + 1} lines more"]
    return f"{_REST_OF_LINE}\r\n".join(lines) + _REST_OF_LINE


@contextmanager
def _other_screen(out: TextIO) -> Iterator[None]:
    out.write(_ENTER)
    try:
        yield
    finally:
        out.write(_LEAVE)
        out.flush()


@contextmanager
def _keys_at_once(keyboard: TextIO) -> Iterator[None]:
    """Have keys come when they are pressed, and not be shown."""
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _until_quit(frames: Iterator[_T], keyboard: int) -> Iterator[_T]:
    """The frames as they come, until a key says that it is enough.

    They are waited for in a thread, which is left to the end of the process.
    """
    arrived: SimpleQueue[tuple[_T | None, BaseException | None]] = SimpleQueue()
    with ExitStack() as stack:
        wakes, wake = os.pipe()
        stack.callback(os.close, wakes)

        def wait() -> None:
            with suppress(OSError), os.fdopen(wake, "wb", buffering=0) as signal:
                try:
                    for frame in frames:
                        arrived.put((frame, None))
                        signal.write(b".")
                except Exception as error:
                    arrived.put((None, error))
                    signal.write(b".")

        threading.Thread(target=wait, daemon=True).start()
        while True:
            ready, _, _ = select.select([keyboard, wakes], [], [])
            if keyboard in ready and os.read(keyboard, 1) in _QUIT:
                return
            if wakes in ready:
                if not os.read(wakes, 1):
                    return
                frame, error = arrived.get()
                if error is not None:
                    raise error
                yield frame  # type: ignore[misc]
