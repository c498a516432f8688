from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.peer_silence import Keepalive, is_gone, keepalive_within


def test_two_minutes_are_one_of_patience_and_one_of_questions() -> None:
    assert keepalive_within(120) == Keepalive(60, 15, 4)


@given(st.floats(2, 86400))
def test_an_idle_connection_ends_at_its_time_to_the_step(timeout: float) -> None:
    keepalive = keepalive_within(timeout)
    ends = keepalive.idle_seconds + keepalive.interval_seconds * keepalive.count
    assert timeout <= ends < timeout + max(1, timeout / 8)


@pytest.mark.parametrize(
    ("retransmits", "probes", "silent", "gone"),
    [
        (9, 0, 119, False),  # it was heard a moment ago
        (9, 0, 120, True),
        (0, 3, 120, True),
        (0, 0, 7200, False),  # nobody has asked it anything
        (2, 2, 7200, False),  # it was asked just now
    ],
)
def test_who_was_asked_and_is_silent_is_gone(
    retransmits: int, probes: int, silent: float, gone: bool
) -> None:
    assert is_gone(retransmits, probes, silent, 120) is gone
