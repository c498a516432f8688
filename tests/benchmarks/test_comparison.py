"""When one of two commits counts as worse."""

from __future__ import annotations

import pytest

from benchmarks.comparison import worsened
from benchmarks.samples import Samples
from benchmarks.works import WORKS

HTTP = WORKS["http"]
METRICS = {metric.key: metric for metric in HTTP.metrics}


def worse(metric: str, old: list[float], new: list[float], threshold: float = 1.05) -> bool:
    samples = Samples()
    for name, figures in (("old", old), ("new", new)):
        for number, figure in enumerate(figures):
            samples.add(HTTP.name, name, number, {metric: figure})
    return worsened(samples, HTTP, METRICS[metric], threshold)


@pytest.mark.parametrize(
    ("metric", "new"), [("cpu", [11.0, 11.2, 10.9, 11.0, 12.0]), ("rate", [9.0, 9.1, 8.8, 9.0, 8.0])]
)
def test_a_commit_is_worse_when_every_round_says_so(metric: str, new: list[float]) -> None:
    assert worse(metric, [10.0] * 5, new)
    assert not worse(metric, new, [10.0] * 5)


def test_what_is_within_the_threshold_is_not_worse() -> None:
    assert not worse("cpu", [10.0] * 5, [10.4] * 5)
    assert worse("cpu", [10.0] * 5, [10.4] * 5, threshold=1.03)


def test_a_noisy_median_alone_is_not_worse() -> None:
    assert not worse("cpu", [10.0] * 5, [9.0, 9.5, 11.0, 12.0, 13.0])


def test_nothing_measured_is_not_worse() -> None:
    assert not worse("cpu", [], [])
