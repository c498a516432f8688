"""Writes the table of docs/metrics.md anew, after the table of metrics has changed."""

from __future__ import annotations

from pathlib import Path

from userspace_proxy.observability.metric_reference import fill_in

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

if __name__ == "__main__":
    PAGE.write_text(fill_in(PAGE.read_text()))
