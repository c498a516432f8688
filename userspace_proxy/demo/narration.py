"""Telling what happens, and checking every claim on the way."""

from __future__ import annotations

import os
import select
import sys
from typing import Final, TextIO

_BOLD: Final = "1"
_DIM: Final = "2"
_RED: Final = "31"
_GREEN: Final = "32"
_CYAN: Final = "36"
_SECONDS_A_LINE: Final = 0.8
_MOST_SECONDS: Final = 15.0


class Narration:
    """Writes chapters, commands with their output, and claims to `out`; colours only for a terminal.

    `claims` counts what was claimed, `failures` keeps the claims that did not hold. With `paced` it waits,
    between chapters, for as long as it takes to read one, or until somebody presses Enter.
    """

    def __init__(self, out: TextIO, *, paced: bool = False) -> None:
        self._out = out
        self._paced = paced
        self._lines = 0
        self._colours = out.isatty() and "NO_COLOR" not in os.environ
        self.claims = 0
        self.failures: list[str] = []

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        if self._paced and self._lines:
            self._wait(reading_seconds(self._lines))
        self._lines = 0
        self._say("")
        self._say(self._in(_BOLD, title))

    def text(self, *lines: str) -> None:
        """Say something in between."""
        for line in lines:
            self._say(f"  {line}")

    def command(self, where: str, command: str, output: str = "") -> None:
        """Show a command, where it ran, and what it printed."""
        self._say(f"  {self._in(_CYAN, f'{where} $'.lstrip())} {command}")
        for line in output.splitlines():
            self._say(f"    {self._in(_DIM, line)}")

    def claim(self, claim: str, *, expected: object, seen: object) -> None:
        """Claim what is true when `seen` equals `expected`; say both where it is not."""
        self.claim_that(claim, expected == seen, expected=expected, seen=seen)

    def claim_that(self, claim: str, holds: bool, *, expected: object, seen: object) -> None:
        """Claim what is true when `holds`; `expected` says in words what would have been."""
        self.claims += 1
        if holds:
            self._say(f"  {self._in(_GREEN, '✓')} {claim}")
            return
        self.failures.append(claim)
        self._say(f"  {self._in(_RED, '✗')} {claim}")
        self._say(f"      expected: {expected}")
        self._say(f"      seen:     {seen}")

    def _wait(self, seconds: float) -> None:
        print(f"\n  {self._in(_DIM, '(Enter goes on)')}", end="", file=self._out, flush=True)
        if select.select([sys.stdin], [], [], seconds)[0]:
            sys.stdin.readline()
            print("\033[A", end="", file=self._out)  # the terminal has shown the Enter
        print("\r\033[2K\033[A", end="", file=self._out, flush=True)

    def _say(self, line: str) -> None:
        self._lines += 1
        print(line, file=self._out, flush=True)

    def _in(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colours else text


def reading_seconds(lines: int) -> float:
    """How long somebody reads so many lines of a terminal."""
    return min(_MOST_SECONDS, lines * _SECONDS_A_LINE)
