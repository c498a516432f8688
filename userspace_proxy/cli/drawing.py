"""Blocks on a terminal, with rich's colours.

A table is as wide as what is in it, like kubectl's. Only a last column that is `long` gives way: it is
wrapped in what room there is, and where that is next to nothing it has lines of its own below.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final, TextIO

from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.text import Text
from rich.theme import Theme

from userspace_proxy.cli.rendering import GAP, Block, Fields, Sentences, Table, columns_of, widths_of

_LEAST_ROOM: Final = 24
_INDENT: Final = 4


class _States(RegexHighlighter):
    """Colours what begins with how something does."""

    base_style = "state."
    highlights = [  # noqa: RUF012
        r"^(?P<good>ready|healthy|well|yes|served|delivered)\b",
        r"^(?P<bad>no|not ready|not healthy|refused|dropped|failing|ejected)\b",
        r"^(?P<doubt>terminating|draining|taken out|pending|unknown)\b",
    ]


_STATES: Final = _States()
_THEME: Final = Theme({"state.good": "green", "state.bad": "red", "state.doubt": "yellow"})


def draw(blocks: Iterable[Block], out: TextIO, width: int | None = None) -> None:
    """Write them to `out`, for `width` columns, or as many as the terminal has."""
    console = Console(file=out, width=width, theme=_THEME, highlight=False, emoji=False, markup=False)
    for number, block in enumerate(blocks):
        if number:
            console.print()
        if block.title:
            console.print(Text(block.title, style="bold"))
        match block:
            case Fields(entries):
                lines = _fields(entries, console.width)
            case Table():
                lines = _table(block, console.width)
            case Sentences(sentences):
                lines = (Text(line) for line in sentences for line in textwrap.wrap(line, console.width))
        for line in lines:
            console.print(line, soft_wrap=True)


def _fields(entries: Iterable[tuple[str, str]], width: int) -> Iterator[Text]:
    shown = [(name, text) for name, text in entries if text]
    indent = max((len(name) for name, _ in shown), default=0) + GAP
    for name, text in shown:
        first, *others = textwrap.wrap(text, max(width - indent, _LEAST_ROOM))
        yield Text.assemble((f"{name:{indent}}", "cyan"), _STATES(first))
        yield from (Text(" " * indent + line) for line in others)


def _table(table: Table, width: int) -> Iterator[Text]:
    columns, widths = columns_of(table), widths_of(table)
    room = width - sum(widths[:-1]) - GAP * (len(widths) - 1)
    gives_way = columns[-1].is_long and widths[-1] > room
    is_below = gives_way and room < _LEAST_ROOM
    shown = len(columns) - 1 if is_below else len(columns)
    indent = _INDENT if is_below else width - room
    yield _row([column.title for column in columns], table, shown, "bold")
    for row in table.rows:
        if not gives_way:
            yield _row(row, table, shown)
            continue
        wrapped = textwrap.wrap(row[-1], width - indent, break_on_hyphens=False)
        if not is_below:
            row = [*row[:-1], wrapped.pop(0) if wrapped else ""]
        yield _row(row, table, shown)
        yield from (Text(" " * indent + line, "dim" if is_below else "") for line in wrapped)


def _row(cells: Iterable[str], table: Table, shown: int, style: str = "") -> Text:
    """The first `shown` cells of a row, below each other with those of other rows."""
    line = Text(style=style)
    for cell, column, width in list(zip(cells, columns_of(table), widths_of(table), strict=True))[:shown]:
        text = _STATES(cell) if not style else Text(cell)
        space = Text(" " * (width - len(cell)))
        line.append_text(space + text if column.is_number else text + space).append(" " * GAP)
    line.rstrip()
    return line
