"""A report as a picture, in SVG: bars of CPU time for each work, and when and where it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from userspace_proxy.demo.costs.figures import Figures, Report, Role, Work

_WIDTH: Final = 760
_LEFT: Final = 120
_BAR_WIDTH: Final = 500
_ROW: Final = 30
_COLOURS: Final = {Role.CLIENT: "#9aa0a6", Role.PROXY: "#1f77b4", Role.POD: "#ff9f40"}


def picture_of(report: Report) -> str:
    """A whole SVG document, readable on a light and on a dark page."""
    shapes, height = [], 30
    for work in Work:
        figures = report.of(work)
        shapes.append(_text(20, height, f"CPU time of a request: {work.value}", "font-weight='bold'"))
        longest = max((one.total_cpu_seconds for one in figures), default=0.0)
        for one in figures:
            height += _ROW
            shapes.extend(_row(one, height, longest))
        height += 2 * _ROW
    for place, (role, colour) in enumerate(_COLOURS.items()):
        shapes.append(_bar(20 + 90 * place, height, 12, colour))
        shapes.append(_text(38 + 90 * place, height, role.value))
    height += _ROW
    shapes.append(_text(20, height, f"{report.date}, {report.machine}", "font-size='11'"))
    inside = "\n".join(shapes)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height + 20}' "
        f"font-family='sans-serif' font-size='14'>\n"
        f"<rect width='100%' height='100%' fill='#ffffff'/>\n{inside}\n</svg>\n"
    )


def _row(figures: Figures, y: int, longest: float) -> Iterator[str]:
    yield _text(20, y, figures.way)
    x = float(_LEFT)
    for role, colour in _COLOURS.items():
        width = _BAR_WIDTH * figures.cpu_seconds[role] / longest if longest else 0.0
        yield _bar(x, y, width, colour)
        x += width
    yield _text(x + 8, y, f"{figures.total_cpu_seconds * 1e6:.0f} µs")


def _bar(x: float, y: int, width: float, colour: str) -> str:
    return f"<rect x='{x:.1f}' y='{y - 13}' width='{width:.1f}' height='16' fill='{colour}'/>"


def _text(x: float, y: int, text: str, attributes: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y}' fill='#202124' {attributes}>{escape(text)}</text>"
