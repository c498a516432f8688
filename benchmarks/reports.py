"""The tables of a run. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.samples import Samples
from benchmarks.studies import STUDIES, Step, Study
from benchmarks.tables import NOTHING, cell, markdown, number
from benchmarks.targets import LIMITS, TARGETS
from benchmarks.works import Metric, Work


def row_title(work: Work, metric: Metric, *, is_first: bool) -> str:
    """What a row is about; the rows of a work after the first say only how they differ."""
    return f"{work.title}: {column_title(metric)}" if is_first else f"… {column_title(metric)}"


def column_title(metric: Metric) -> str:
    """What the figure is, and its unit."""
    return ", ".join(text for text in (metric.title, metric.unit) if text)


def figures_table(samples: Samples, works: Sequence[Work], peers: Sequence[tuple[str, str]]) -> str:
    """A row for each metric, a column for each peer, which are pairs of name and title."""
    rows = []
    for work in works:
        shown = [metric for metric in work.metrics if metric.key in samples.figures.get(work.name, {})]
        for metric in shown:
            cells = [cell(samples.spread(work.name, metric.key, name)) for name, _ in peers]
            rows.append([row_title(work, metric, is_first=metric is shown[0]), *cells])
    return markdown(["", *(title for _, title in peers)], rows)


def summary_table(samples: Samples, works: Sequence[Work], peers: Sequence[tuple[str, str]]) -> str:
    """The medians alone of what a reader asks for first: how much, or for one client how soon, and CPU."""
    rows = []
    for work in works:
        first = "p50" if work.name == "ping-pong" else "rate"
        shown = [metric for metric in work.metrics if metric.key in (first, "cpu")]
        for metric in shown:
            spreads = [samples.spread(work.name, metric.key, name) for name, _ in peers]
            cells = [NOTHING if spread is None else number(spread.median) for spread in spreads]
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


def targets_table(samples: Samples, works: Sequence[Work]) -> str:
    """Which targets are met, those about peers that took part; "" if there are none."""
    rows = []
    for work in works:
        for target in (target for target in TARGETS if target.work == work.name):
            ratio = target.ratio(samples)
            if ratio is not None:
                [metric] = [metric for metric in work.metrics if metric.key == target.metric]
                title = row_title(work, metric, is_first=True)
                rows.append([title, target.text, cell(ratio), "yes" if target.is_met(ratio) else "no"])
    return markdown(["ours", "target", "ratio", "met"], rows) if rows else ""


def study_table(study: Study, steps: Sequence[Step]) -> str:
    """A row for each step, a column for each metric."""
    header = [study.x, *(column_title(metric) for metric in study.metrics)]
    several = len({step.series for step in steps}) > 1
    rows = [
        [
            number(step.x),
            *(
                number(step.figures[metric.key]) if metric.key in step.figures else NOTHING
                for metric in study.metrics
            ),
        ]
        for step in steps
    ]
    if several:
        header.insert(0, "")
        for row, step in zip(rows, steps, strict=True):
            row.insert(0, step.series)
    return markdown(header, rows)


def limits_table(studies: Mapping[str, Sequence[Step]]) -> str:
    """Which limits are kept; "" if no study was made that has one."""
    rows = []
    for limit in LIMITS:
        judged = limit.judge(studies.get(limit.study, ()))
        if judged is not None:
            study = STUDIES[limit.study]
            titles = {metric.key: column_title(metric) for metric in study.metrics}
            bound = f"≤ {limit.bound:g}"
            if limit.of:
                bound += f" of {'the first' if limit.of == limit.metric else titles[limit.of]}"
            rows.append(
                [
                    f"{study.title}: {titles[limit.metric]}",
                    bound,
                    number(judged),
                    "yes" if judged <= limit.bound else "no",
                ]
            )
    return markdown(["", "limit", "came to", "kept"], rows) if rows else ""
