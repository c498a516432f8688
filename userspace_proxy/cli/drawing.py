"""Blocks on a terminal, with rich: it knows how wide that is and which colours it has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TextIO

from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.table import Table as Drawn
from rich.text import Text
from rich.theme import Theme

from userspace_proxy.cli.rendering import Block, Fields, Sentences, Table


class _States(RegexHighlighter):
    """Colours the words that say how something does."""

    base_style = "state."
    highlights = [  # noqa: RUF012
        r"(?P<good>\b(?:ready|serving|healthy|used|yes|served|delivered)\b)",
        r"(?P<bad>\b(?:unhealthy|refused|dropped|ejected|failed|failing)\b)",
        r"(?P<bad>\bnot (?:ready|serving|healthy|used|eligible|served)\b)",
        r"(?P<doubt>\b(?:terminating|draining|pending|unused)\b)",
    ]


_THEME: Final = Theme({"state.good": "green", "state.bad": "red", "state.doubt": "yellow"})


def draw(blocks: Iterable[Block], out: TextIO, width: int | None = None) -> None:
    """Write them to `out`, `width` columns wide, or as wide as the terminal."""
    console = Console(file=out, width=width, theme=_THEME, highlighter=_States(), emoji=False, markup=False)
    for number, block in enumerate(blocks):
        if number:
            console.print()
        if block.title:
            console.print(Text(block.title, style="bold"))
        match block:
            case Fields(entries):
                console.print(_fields(entries))
            case Table():
                console.print(_table(block))
            case Sentences(lines):
                for line in lines:
                    console.print(line)


def _fields(entries: Iterable[tuple[str, str]]) -> Drawn:
    grid = Drawn.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in entries:
        if text:
            grid.add_row(name, _States()(text))
    return grid


def _table(table: Table) -> Drawn:
    drawn = Drawn(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for title in table.columns:
        drawn.add_column(
            title.removeprefix(">"), justify="right" if title.startswith(">") else "left", overflow="fold"
        )
    for row in table.rows:
        drawn.add_row(*map(_States(), row))
    return drawn
