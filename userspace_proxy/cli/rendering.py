"""Answers for people and for programs, alike for every noun.

A noun makes blocks of what it was told: fields, tables, sentences. On a terminal they are drawn to its width,
and with colours; elsewhere they are plain text in columns, which cut nothing. Programs get JSON or YAML.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TextIO, TypeAlias, TypeVar

import click
import msgspec

_T = TypeVar("_T")
GAP: Final = 2
"""How many columns of space there are between those of a table."""


class Output(Enum):
    """The forms of `-o`."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Fields:
    """Names and what they are, under each other. An empty one is left out."""

    entries: Sequence[tuple[str, str]]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """The last one may be `long`: it gives way where a terminal is too narrow for all."""

    title: str
    is_number: bool = False
    is_long: bool = False


def number(title: str) -> Column:
    """A column of figures, which stand to the right."""
    return Column(title, is_number=True)


def long(title: str) -> Column:
    """A last column, of lists or sentences."""
    return Column(title, is_long=True)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below the titles of their columns; a plain text is the title of a column of words."""

    columns: Sequence[Column | str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Sentences:
    lines: Sequence[str]
    title: str = ""


Block: TypeAlias = Fields | Table | Sentences


def show(
    items: Iterable[_T], output: Output, blocks: Callable[[Sequence[_T], bool], Iterable[Block]]
) -> None:
    """Print a list; `blocks` makes it fit for people, the second argument says whether wide."""
    found = list(items)
    match output:
        case Output.JSON | Output.YAML:
            click.echo(encoded(found, output))
        case Output.TABLE | Output.WIDE:
            write(blocks(found, output is Output.WIDE))


def show_one(item: _T, output: Output, blocks: Callable[[_T, bool], Iterable[Block]]) -> None:
    """Print one object, likewise."""
    match output:
        case Output.JSON | Output.YAML:
            click.echo(encoded(item, output))
        case Output.TABLE | Output.WIDE:
            write(blocks(item, output is Output.WIDE))


def write(blocks: Iterable[Block], to: TextIO | None = None) -> None:
    """Draw them where that is a terminal, else write them plainly."""
    out = to or sys.stdout
    if out.isatty():
        from userspace_proxy.cli.drawing import draw

        draw(blocks, out)
    else:
        out.write("".join(f"{line}\n" for line in plain(blocks)))
        out.flush()


def plain(blocks: Iterable[Block]) -> Iterator[str]:
    """The lines of plain text."""
    for number, block in enumerate(blocks):
        if number:
            yield ""
        if block.title:
            yield f"{block.title}:"
        match block:
            case Fields(entries):
                shown = [(name, text) for name, text in entries if text]
                width = max((len(name) for name, _ in shown), default=0) + 1
                yield from (f"{name + ':':{width}}  {text}".rstrip() for name, text in shown)
            case Table():
                yield from _aligned(block)
            case Sentences(lines):
                yield from lines


def _aligned(table: Table) -> Iterator[str]:
    columns = columns_of(table)
    widths = widths_of(table)
    for row in ([column.title for column in columns], *table.rows):
        cells = (
            f"{cell:>{width}}" if column.is_number else f"{cell:{width}}"
            for column, cell, width in zip(columns, row, widths, strict=True)
        )
        yield (" " * GAP).join(cells).rstrip()


def widths_of(table: Table) -> list[int]:
    """How wide each column is if nothing is cut."""
    titles = [column.title for column in columns_of(table)]
    return [max(map(len, cells)) for cells in zip(titles, *table.rows, strict=True)]


def columns_of(table: Table) -> list[Column]:
    """Its columns, all as such."""
    return [Column(column) if isinstance(column, str) else column for column in table.columns]


def encoded(value: object, output: Output) -> str:
    """As programs read it."""
    if output is Output.YAML:
        import yaml

        return yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False, allow_unicode=True).rstrip("\n")
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
