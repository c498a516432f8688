"""A report as text: a table and bars for each work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from userspace_proxy.demo.costs.figures import Figures, Report, Role, Work

_BAR_WIDTH: Final = 56
_SHADES: Final = {Role.CLIENT: "░", Role.PROXY: "█", Role.POD: "▒"}
_HEADINGS: Final = ("", "requests/s", "median", "99 %", "CPU a request", "client", "proxy", "pod", "noise")


def table_of(report: Report) -> str:
    """Lines without colours, as wide as 100 columns at most if the ways' names are short."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    for work in Work:
        figures = report.of(work)
        yield f"{work.value[0].upper()}{work.value[1:]}"
        yield ""
        yield from _aligned([_HEADINGS, *(_row(one) for one in figures)])
        yield ""
        yield from _bars(figures)
        yield ""
    key = "  ".join(f"{shade} {role.value}" for role, shade in _SHADES.items())
    yield f"The bars are CPU time: {key}"
    yield f"{report.date}, {report.machine}"


def _row(figures: Figures) -> tuple[str, ...]:
    latencies = (figures.median_seconds, figures.p99_seconds)
    costs = (figures.total_cpu_seconds, *figures.cpu_seconds.values())
    return (
        figures.way,
        f"{figures.per_second:,.0f}",
        *(f"{seconds * 1e3:.2f} ms" for seconds in latencies),
        *(f"{seconds * 1e6:.0f} µs" for seconds in costs),
        f"{figures.noise:.0%}",
    )


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join((first.ljust(widths[0]), *cells)).rstrip()


def _bars(figures: list[Figures]) -> Iterator[str]:
    longest = max((one.total_cpu_seconds for one in figures), default=0.0)
    width = max((len(one.way) for one in figures), default=0)
    for one in figures:
        bar, seconds = "", 0.0
        for role, shade in _SHADES.items():  # each ends where the sum does, so that no bar is rounded thrice
            seconds += one.cpu_seconds[role]
            bar += shade * (round(_BAR_WIDTH * seconds / longest if longest else 0) - len(bar))
        yield f"{one.way.ljust(width)}  {bar}"
