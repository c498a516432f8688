"""What the dashboard and the alerts ask for exists."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.promtool import promtool
from userspace_proxy.observability.metric_table import METRICS, Metric, MetricKind

FOLDER = Path(__file__).parents[1] / "examples" / "monitoring"
ALERTS = FOLDER / "alerts.yaml"
_NAME = re.compile(r"\b(?:kubeproxy|userspace_proxy|process)_[a-z_]+")
_SELECTOR = re.compile(r"\b((?:kubeproxy|userspace_proxy|process)_[a-z_]+)\{([^}]*)\}")


def dashboard() -> Any:
    return json.loads((FOLDER / "dashboard.json").read_text())


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard()["templating"]["list"]:
        yield from [variable["definition"]] if "definition" in variable else []
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def series() -> dict[str, Metric]:
    """Every name that a series can have."""
    names = {}
    for metric in METRICS:
        is_histogram = metric.kind is MetricKind.HISTOGRAM
        for ending in ("_bucket", "_count", "_sum") if is_histogram else ("",):
            names[metric.name + ending] = metric
    return names


def test_every_metric_that_is_named_exists() -> None:
    named = {name for expression in expressions() for name in _NAME.findall(expression)}
    assert len(named) > 20
    assert named - series().keys() == set()


def test_every_label_by_which_a_metric_is_chosen_is_one_of_its() -> None:
    known = series()
    for expression in expressions():
        for name, selector in _SELECTOR.findall(expression):
            labels = set(re.findall(r"(\w+)\s*=", selector)) - {"instance"}
            assert labels <= set(known[name].labels), expression


def test_what_counts_up_is_asked_for_as_a_rate() -> None:
    for expression in expressions():
        for name in _NAME.findall(expression):
            metric = series()[name]
            is_counted = metric.kind is not MetricKind.GAUGE and "label_values" not in expression
            assert not is_counted or re.search(rf"(rate|increase)\(\s*{name}\b", expression), expression


def test_panels_and_alerts_say_what_they_are() -> None:
    panels = dashboard()["panels"]
    assert len({panel["title"] for panel in panels}) == len({panel["id"] for panel in panels}) == len(panels)
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"].keys() == {"summary", "description"}
            assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_prometheus_takes_the_rules() -> None:
    checked = subprocess.run([promtool(), "check", "rules", ALERTS], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
