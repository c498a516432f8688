"""Medians, spreads, and ratios within rounds."""

from __future__ import annotations

from benchmarks.samples import Samples, Spread


def samples(**peers: list[float | None]) -> Samples:
    """One work with one metric."""
    collected = Samples()
    for peer, figures in peers.items():
        for number, figure in enumerate(figures):
            if figure is not None:
                collected.add("work", peer, number, {"rate": figure})
    return collected


def test_a_spread_is_the_median_between_the_ends() -> None:
    assert Spread.of([3.0, 1.0, 8.0]) == Spread(median=3.0, low=1.0, high=8.0)


def test_nothing_has_no_spread() -> None:
    assert Spread.of([]) is None
    assert samples().spread("work", "rate", "ours") is None


def test_a_round_that_came_to_nothing_leaves_the_others_where_they_are() -> None:
    collected = samples(ours=[1.0, None, 3.0])
    assert collected.of("work", "rate", "ours") == [1.0, None, 3.0]
    assert collected.spread("work", "rate", "ours") == Spread(2.0, 1.0, 3.0)


def test_ratios_are_taken_within_rounds() -> None:
    # The machine was half as fast in the second round: ours was twice as fast in both all the same.
    collected = samples(ours=[20.0, 10.0], other=[10.0, 5.0])
    assert collected.ratio("work", "rate", "ours", "other") == Spread(2.0, 2.0, 2.0)


def test_a_round_counts_for_a_ratio_if_both_have_a_figure_that_can_divide() -> None:
    collected = samples(ours=[4.0, 10.0, None, 7.0], other=[2.0, None, 5.0, 0.0])
    assert collected.ratio("work", "rate", "ours", "other") == Spread(2.0, 2.0, 2.0)
