from __future__ import annotations

import pytest

from userspace_proxy.core.request_rate import RequestRate


def test_a_burst_goes_at_once_and_then_so_many_a_second() -> None:
    rate = RequestRate(5.0, 3, now=100.0)
    assert [rate.take(100.0) for _ in range(5)] == pytest.approx([0, 0, 0, 0.2, 0.4])


def test_rest_fills_up_to_the_burst() -> None:
    rate = RequestRate(5.0, 2, now=0.0)
    assert [rate.take(0.0) for _ in range(3)] == pytest.approx([0, 0, 0.2])
    assert [rate.take(1000.0) for _ in range(3)] == pytest.approx([0, 0, 0.2])


def test_below_zero_is_no_limit() -> None:
    rate = RequestRate(-1.0, 1, now=0.0)
    assert [rate.take(0.0) for _ in range(100)] == [0.0] * 100
