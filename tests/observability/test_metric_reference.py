from __future__ import annotations

import re
from pathlib import Path

from userspace_proxy.observability.metric_reference import fill_in
from userspace_proxy.observability.metric_table import METRICS, MetricKind

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_has_the_table_of_today() -> None:
    page = PAGE.read_text()
    assert page == fill_in(page), "run scripts/write_metrics_reference.py"


def test_names_are_as_prometheus_wants_them() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"(kubeproxy|userspace_proxy|process)_[a-z_]+", metric.name)
        if metric.name != "kubeproxy_sync_proxy_rules_iptables_total":  # a gauge, as in kube-proxy
            assert metric.name.endswith("_total") is (metric.kind is MetricKind.COUNTER)
        assert metric.help.endswith(".") or "--" in metric.help
