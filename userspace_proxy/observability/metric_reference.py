"""The table of docs/metrics.md, made of the table of metrics, so that it cannot lie."""

from __future__ import annotations

from typing import Final

from userspace_proxy.observability.metric_table import METRICS

BEGIN: Final = "<!-- made by scripts/write_metrics_reference.py -->"
END: Final = "<!-- end -->"


def reference() -> str:
    """Every metric in Markdown."""
    lines = ["| Metric | Type | Labels | What it says |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.help} |")
    return "\n".join(lines)


def fill_in(page: str) -> str:
    """The page with the table as it is now."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("the page has no place for the table")
    return f"{before}{begin}\n\n{reference()}\n\n{end}{after}"
