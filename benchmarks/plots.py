"""Figures as pictures, in SVG: bars with their spread for each work, lines for what grows."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from benchmarks.peers import PEERS
from benchmarks.samples import Samples
from benchmarks.studies import STUDIES, Step
from benchmarks.tables import number
from benchmarks.works import WORKS
from userspace_proxy.errors import StartupError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS: Final = 4
_PANEL_INCHES: Final = (3.4, 2.6)
_COLOURS: Final = {
    "ours": "#1f77b4",
    "kernel": "#9aa0a6",
    "nginx": "#2ca02c",
    "nginx-default": "#98df8a",
    "haproxy": "#9467bd",
    "asyncio": "#ff9f40",
    "kube-proxy": "#d62728",
}
_DRAWN_STUDIES: Final = {
    "services": ("cpu", "change"),
    "endpoints": ("cpu",),
    "clients": ("cpu",),
    "workers": ("cpu",),
}


def require_matplotlib() -> None:
    """Raises StartupError, with what to install, where there is none."""
    try:
        import matplotlib
    except ImportError as error:
        raise StartupError("plots need matplotlib; install it with: pip install -e '.[bench]'") from error
    matplotlib.use("svg")


def draw(samples: Samples, peers: Sequence[str], studies: Mapping[str, Sequence[Step]]) -> dict[str, str]:
    """SVG by what it shows: `rates` and `cpu` of all works, and `growth` of costs."""
    pictures = {}
    for stem, metric in (("rates", "rate"), ("cpu", "cpu")):
        panels = [name for name in WORKS if samples.figures.get(name, {}).get(metric)]
        if panels:
            figure, axes = _panels(len(panels))
            for axis, work in zip(axes, panels, strict=True):
                _bars(axis, samples, work, metric, peers)
            pictures[stem] = _svg(figure)
    lines = [
        (name, metric) for name, metrics in _DRAWN_STUDIES.items() if studies.get(name) for metric in metrics
    ]
    if lines:
        figure, axes = _panels(len(lines))
        for axis, (name, metric) in zip(axes, lines, strict=True):
            _lines(axis, studies[name], name, metric)
        pictures["growth"] = _svg(figure)
    return pictures


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib import pyplot

    columns = min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    width, height = _PANEL_INCHES
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
    )
    axes: list[Axes] = list(grid.flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _bars(axis: Axes, samples: Samples, work: str, metric: str, peers: Sequence[str]) -> None:
    """A bar up to the median of each peer that has figures, a whisker from the lowest to the highest."""
    spreads = {peer: spread for peer in peers if (spread := samples.spread(work, metric, peer)) is not None}
    medians = [spread.median for spread in spreads.values()]
    whiskers = [
        [spread.median - spread.low for spread in spreads.values()],
        [spread.high - spread.median for spread in spreads.values()],
    ]
    colours = [_COLOURS.get(peer, "#555555") for peer in spreads]
    axis.bar(list(spreads), medians, yerr=whiskers, color=colours, capsize=3)
    [unit] = [shown.unit for shown in WORKS[work].metrics if shown.key == metric]
    _label(axis, WORKS[work].title, unit)
    axis.tick_params(axis="x", labelsize=7)


def _lines(axis: Axes, steps: Sequence[Step], study: str, metric: str) -> None:
    for series in dict.fromkeys(step.series for step in steps):
        points = [step for step in steps if step.series == series and metric in step.figures]
        if points:
            xs, ys = [point.x for point in points], [point.figures[metric] for point in points]
            label = PEERS[series].title if series in PEERS else series
            axis.plot(xs, ys, marker="o", label=label, color=_COLOURS.get(series))
    xs = sorted({step.x for step in steps})
    axis.set_xscale("log")
    axis.set_xticks(xs, [number(x) for x in xs], fontsize=7)
    axis.minorticks_off()
    highest = max((step.figures[metric] for step in steps if metric in step.figures), default=1.0)
    axis.set_ylim(0, highest * 1.2)
    axis.set_xlabel(STUDIES[study].x, fontsize=8)
    [shown] = [shown for shown in STUDIES[study].metrics if shown.key == metric]
    _label(axis, STUDIES[study].title, f"{shown.title}, {shown.unit}")
    if len({step.series for step in steps}) > 1:
        axis.legend(fontsize=6)


def _label(axis: Axes, title: str, unit: str) -> None:
    axis.set_title(title, fontsize=8, wrap=True)
    axis.set_ylabel(unit, fontsize=8)
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure) -> str:
    from matplotlib import pyplot, rc_context

    written = io.StringIO()
    with rc_context({"svg.hashsalt": "benchmarks", "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return written.getvalue()
