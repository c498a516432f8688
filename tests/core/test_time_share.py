"""Seldom work is done at once; what never ends takes its share of the time."""

from __future__ import annotations

import pytest

from userspace_proxy.core.time_share import TimeShare


def test_the_first_pieces_follow_each_other_at_once() -> None:
    share = TimeShare(0.1, burst=3)
    now = 100.0
    for _ in range(3):
        assert share.begins_at <= now
        now += 2.0
        share.spend(now, 2.0)
    assert share.begins_at > now


def test_work_that_never_ends_takes_its_share_of_the_time() -> None:
    share = TimeShare(0.1, burst=3)
    now = 0.0
    for _ in range(100):
        now = max(now, share.begins_at) + 2.0
        share.spend(now, 2.0)
    assert now == pytest.approx((100 - 3) * 20.0, rel=0.05)


def test_after_a_pause_there_is_another_burst() -> None:
    share = TimeShare(0.1, burst=3)
    for _ in range(10):
        share.spend(50.0, 1.0)
    assert share.begins_at == 60.0
    now = 50.0 + 30.0
    for _ in range(3):
        assert share.begins_at <= now
        share.spend(now, 1.0)
    assert share.begins_at > now


def test_work_that_was_dear_once_does_not_hold_up_what_is_cheap() -> None:
    share = TimeShare(0.1, burst=3)
    share.spend(0.0, 100.0)
    assert share.begins_at == 0.0
    share.spend(0.0, 1.0)
    assert share.begins_at == 10.0
