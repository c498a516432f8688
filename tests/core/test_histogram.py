from __future__ import annotations

import pytest

from userspace_proxy.core.histogram import Histogram, cumulative, quantile


def test_a_value_at_a_bound_lies_within_it() -> None:
    histogram = Histogram((0.1, 1, 10))
    for value in (0, 0.1, 0.5, 1, 11, 12):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 0, 2]
    assert histogram.sum == 24.6
    assert list(cumulative(histogram.bounds, histogram.counts)) == [
        ("0.1", 2),
        ("1", 4),
        ("10", 4),
        ("+Inf", 6),
    ]


@pytest.mark.parametrize(
    ("fraction", "counts", "value"),
    [
        (0.5, [0, 0, 0], None),
        (0.5, [10, 0, 0], 0.5),
        (0.5, [0, 10, 0], 2.0),
        (0.99, [0, 100, 0], 1 + 0.99 * 2),
        (0.5, [5, 5, 0], 1.0),
        (1.0, [5, 5, 0], 3.0),
        (0.0, [0, 5, 0], 0.0),
        (0.99, [1, 1, 98], 3.0),
    ],
)
def test_a_quantile_lies_within_its_bucket(fraction: float, counts: list[int], value: float | None) -> None:
    assert quantile(fraction, (1.0, 3.0), counts) == (None if value is None else pytest.approx(value))
