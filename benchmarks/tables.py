"""Figures as people read them: numbers, cells, tables in Markdown. No I/O."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

from benchmarks.samples import Samples, Spread
from benchmarks.works import Metric, Work

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


def row_title(work: Work, metric: Metric, *, is_first: bool) -> str:
    """What a row is about; the rows of a work after the first say only how they differ."""
    what = ", ".join(text for text in (metric.title, metric.unit) if text)
    return f"{work.title}: {what}" if is_first else f"… {what}"


def figures_table(samples: Samples, works: Sequence[Work], peers: Sequence[tuple[str, str]]) -> str:
    """A row for each metric, a column for each peer, which are pairs of name and title."""
    rows = []
    for work in works:
        shown = [metric for metric in work.metrics if metric.key in samples.figures.get(work.name, {})]
        for metric in shown:
            cells = [cell(samples.spread(work.name, metric.key, name)) for name, _ in peers]
            rows.append([row_title(work, metric, is_first=metric is shown[0]), *cells])
    return markdown(["", *(title for _, title in peers)], rows)


def ratios_table(
    samples: Samples, works: Sequence[Work], peer: str, others: Sequence[tuple[str, str]]
) -> str:
    """The same with what `peer` comes to divided by what each other does, within rounds."""
    rows = []
    for work in works:
        shown = [metric for metric in work.metrics if metric.key in samples.figures.get(work.name, {})]
        for metric in shown:
            cells = [cell(samples.ratio(work.name, metric.key, peer, name)) for name, _ in others]
            if set(cells) != {NOTHING}:
                rows.append([row_title(work, metric, is_first=metric is shown[0]), *cells])
    return markdown(["", *(f"÷ {title}" for _, title in others)], rows)
