"""Whether what ours came to is what it is to come to."""

from __future__ import annotations

import pytest

from benchmarks.samples import Samples, Spread
from benchmarks.studies import STUDIES, Step
from benchmarks.targets import LIMITS, TARGETS, Limit, Target
from benchmarks.works import WORKS


def rounds(**peers: list[float]) -> Samples:
    """The rates of a work."""
    collected = Samples()
    for peer, figures in peers.items():
        for number, figure in enumerate(figures):
            collected.add("http", peer, number, {"rate": figure})
    return collected


def test_the_best_peer_of_each_round_counts() -> None:
    samples = rounds(ours=[10.0, 10.0, 10.0], nginx=[5.0, 20.0, 10.0], haproxy=[10.0, 5.0, 10.0])
    at_least = Target("http", "rate", ("nginx", "haproxy"), True, 1.0)
    at_most = Target("http", "rate", ("nginx", "haproxy"), False, 1.0)
    assert at_least.ratio(samples) == Spread(1.0, 0.5, 1.0)
    assert at_most.ratio(samples) == Spread(2.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("is_at_least", "median", "is_met"),
    [(True, 1.1, True), (True, 1.0, True), (True, 0.9, False), (False, 1.1, False), (False, 0.9, True)],
)
def test_the_median_decides(is_at_least: bool, median: float, is_met: bool) -> None:
    target = Target("http", "rate", ("nginx",), is_at_least, 1.0)
    assert target.is_met(Spread(median, 0.0, 9.0)) is is_met


def test_a_target_about_a_peer_that_took_no_part_is_not_judged() -> None:
    assert Target("http", "rate", ("kube-proxy",), True, 1.0).ratio(rounds(ours=[1.0])) is None


STEPS = [Step("ours", 1, {"memory": 10.0, "again": 4.0}), Step("ours", 5, {"memory": 12.0, "again": 6.0})]


@pytest.mark.parametrize(("of", "expected"), [("", 12.0), ("memory", 1.2), ("again", 2.0)])
def test_a_limit_is_about_the_last_step_or_how_it_differs(of: str, expected: float) -> None:
    assert Limit("soak", "memory", 1.0, of).judge(STEPS) == pytest.approx(expected)


def test_a_limit_of_what_was_not_measured_is_not_judged() -> None:
    assert Limit("soak", "memory", 1.0).judge([]) is None
    assert Limit("soak", "memory", 1.0).judge([Step("nginx", 1, {"memory": 1.0})]) is None


def test_targets_and_limits_are_about_figures_that_are_measured() -> None:
    for target in TARGETS:
        assert target.metric in {metric.key for metric in WORKS[target.work].metrics}
    for limit in LIMITS:
        assert {limit.metric, limit.of or limit.metric} <= {m.key for m in STUDIES[limit.study].metrics}
