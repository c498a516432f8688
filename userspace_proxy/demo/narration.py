"""Telling what happens, and checking every claim on the way."""

from __future__ import annotations

import os
from typing import Final, TextIO

_BOLD: Final = "1"
_DIM: Final = "2"
_RED: Final = "31"
_GREEN: Final = "32"
_CYAN: Final = "36"


class Narration:
    """Writes chapters, commands with their output, and claims to `out`; colours only for a terminal.

    `claims` counts what was claimed, `failures` keeps the claims that did not hold.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colours = out.isatty() and "NO_COLOR" not in os.environ
        self.claims = 0
        self.failures: list[str] = []

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        self._say("")
        self._say(self._in(_BOLD, title))

    def text(self, *lines: str) -> None:
        """Say something in between."""
        for line in lines:
            self._say(f"  {line}")

    def command(self, where: str, command: str, output: str = "") -> None:
        """Show a command, where it ran, and what it printed."""
        self._say(f"  {self._in(_CYAN, f'{where} $')} {command}")
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

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)

    def _in(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colours else text
