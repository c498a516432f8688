"""Figures as people read them: numbers, cells, tables in Markdown. No I/O."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

from benchmarks.samples import Spread

NOTHING: Final = "-"


def number(figure: float) -> str:
    """Three digits that count, thousands as k."""
    size = abs(figure)
    if size >= 100_000:
        return f"{figure / 1000:.0f}k"
    if size >= 10_000:
        return f"{figure / 1000:.1f}k"
    if size >= 1_000:
        return f"{figure:,.0f}"
    if size >= 100 or figure == int(figure):
        return f"{figure:.0f}"
    return f"{figure:.1f}" if size >= 10 else f"{figure:.2f}"


def cell(spread: Spread | None) -> str:
    """The median, and from where to where it went."""
    if spread is None:
        return NOTHING
    if spread.low == spread.high:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)}-{number(spread.high)})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its columns even in a terminal too."""
    widths = [max(3, *(_width(row[column]) for row in (header, *rows))) for column in range(len(header))]
    lines = ["| " + " | ".join(_pad(text, width) for text, width in zip(row, widths, strict=True)) + " |"
             for row in (header, *rows)]  # fmt: skip
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _width(text: str) -> int:
    return sum(not unicodedata.combining(letter) for letter in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
