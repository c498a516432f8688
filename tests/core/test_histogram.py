from __future__ import annotations

from userspace_proxy.core.histogram import Histogram, cumulative


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
