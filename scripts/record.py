"""Record `make demo` and the first lesson, as terminals show them: python scripts/record.py

Takes a minute, and what `make demo` takes. Each recording, in docs/recordings, is one SVG of all that was
printed: text that can be searched, copied and zoomed, and nothing in it is fetched from elsewhere.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from userspace_proxy.demo.cluster_plan import plan_of
from userspace_proxy.demo.commands import DEFAULT_NODES
from userspace_proxy.demo.temporary_cluster import temporary_cluster

FOLDER: Final = Path(__file__).parents[1] / "docs" / "recordings"
COLUMNS: Final = 110
ROWS: Final = 40

# What rich draws, without the fonts that its own template would fetch. Braces are doubled for `format`.
TEMPLATE: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px;
    line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class CommandFailedError(Exception):
    """What was to be recorded ended with another status than 0."""


def main() -> int:
    """Record both."""
    python = (sys.executable, "-m")
    FOLDER.mkdir(exist_ok=True)
    try:
        printed = printed_by([*python, "userspace_proxy.demo"])
        (FOLDER / "demo.svg").write_text(svg("make demo", printed))
        with temporary_cluster(plan_of(DEFAULT_NODES), print):
            printed = printed_by([*python, "userspace_proxy", "demo", "lesson", "1"])
        (FOLDER / "lesson-1.svg").write_text(svg("userspace-proxy demo lesson 1", printed))
    except CommandFailedError as error:
        print(f"record: {error}", file=sys.stderr)
        return 1
    return 0


def printed_by(command: Sequence[str]) -> str:
    """What a command prints on a terminal at which nobody sits. Raises `CommandFailedError`."""
    ours, terminal = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
        environment.pop("NO_COLOR", None)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, env=environment
        )
        os.close(terminal)
        printed = bytearray()
        with suppress(OSError):  # EIO: nobody has the terminal open any more
            while piece := screen.read(65536):
                printed += piece
        text = printed.decode(errors="replace").replace("\r\n", "\n")
        if process.wait() != 0:
            raise CommandFailedError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    return text


def svg(command: str, printed: str) -> str:
    """A picture of a terminal on which `command` has printed that, escape sequences for colours included."""
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        highlight=False,
        force_terminal=True,
        color_system="256",
    )
    console.print(Text.assemble(("$ ", "cyan"), (command, "bold")))
    console.print(Text.from_ansi(printed.rstrip("\n")))
    drawn = console.export_svg(title=command, code_format=TEMPLATE, unique_id="recording")
    return "".join(f"{line.rstrip()}\n" for line in drawn.splitlines())


if __name__ == "__main__":
    sys.exit(main())
