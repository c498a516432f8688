"""A lesson on a terminal, at the reader's pace; and as plain text where there is none."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.text import Text

from userspace_proxy.demo.lessons.stage import Outcome

_MAX_WIDTH: Final = 100
_WIDTH_WITHOUT_TERMINAL: Final = 100


class Terminal:
    """Shows on standard output. With `pauses` it waits for Enter: before a command runs, before an answer."""

    def __init__(self, *, pauses: bool) -> None:
        own = Console(highlight=False)
        width = min(own.width, _MAX_WIDTH) if own.is_terminal else _WIDTH_WITHOUT_TERMINAL
        self._console = Console(highlight=False, width=width, emoji=False)
        self._pauses = pauses

    def title(self, title: str) -> None:
        """The lesson begins."""
        self._console.print()
        self._console.rule(Text(title, style="bold"), align="left")

    def text(self, markdown: str) -> None:
        """Something to read."""
        self._console.print()
        self._console.print(Markdown(markdown))

    def answer(self, markdown: str) -> None:
        """An answer, once somebody has thought about it."""
        self._pause("Enter shows the answer")
        self._console.print(Padding(Markdown(markdown), (0, 0, 0, 2)))

    def command(self, place: str, command: str) -> None:
        """A command, before it runs."""
        self._console.print()
        prompt = f"{place} $ " if place else "$ "
        self._console.print(Text.assemble((prompt, "cyan"), (command, "bold")), soft_wrap=True)
        self._pause("Enter runs it")

    def outcome(self, outcome: Outcome, problem: str | None) -> None:
        """What it printed, and what is wrong with that."""
        self._console.print(Text(outcome.output.rstrip("\n"), style="dim"), soft_wrap=True)
        if problem is not None:
            self._console.print(Text(f"✗ not as it should be: {problem}", style="red"))

    def _pause(self, what: str) -> None:
        if self._pauses:
            self._console.print(Text(f"  ({what})", style="italic bright_black"), end="")
            sys.stdin.readline()
            self._console.file.write("\033[A\033[2K")  # the hint has done its duty
