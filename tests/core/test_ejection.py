"""What ejects an endpoint, for how long, and what brings it back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.ejection import (
    FAILURES_TO_EJECT,
    FIRST_SECONDS,
    LONGEST_SECONDS,
    Ejections,
    most_left_out,
)
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.service_port import Port

ONE, TWO = (Endpoint(f"10.1.0.{number}", Port(80)) for number in (1, 2))


def ejected(*, chance: float = 0.0) -> Ejections:
    """ONE has failed often enough, at 0."""
    made = Ejections()
    outcomes = [made.failed(ONE, 0, chance) for _ in range(FAILURES_TO_EJECT)]
    assert outcomes == [False] * (FAILURES_TO_EJECT - 1) + [True]
    return made


def test_failures_one_after_the_other_eject() -> None:
    assert list(ejected().ejected) == [ONE]


def test_a_success_begins_the_count_again() -> None:
    made = Ejections()
    for _ in range(5):
        for _ in range(FAILURES_TO_EJECT - 1):
            assert not made.failed(ONE, 0, 0)
        assert not made.succeeded(ONE)
    assert not made.suspects


def test_endpoints_are_counted_apart() -> None:
    made = Ejections()
    for _ in range(FAILURES_TO_EJECT - 1):
        assert not made.failed(ONE, 0, 0)
        assert not made.failed(TWO, 0, 0)


def test_one_connection_probes_when_the_time_is_over_and_the_next_does_not() -> None:
    made = ejected()
    assert not made.probe(ONE, FIRST_SECONDS - 0.01)
    assert made.probe(ONE, FIRST_SECONDS)
    assert not made.probe(ONE, FIRST_SECONDS + 0.01)


def test_a_probe_that_succeeds_makes_it_an_endpoint_like_any_other() -> None:
    made = ejected()
    assert made.probe(ONE, FIRST_SECONDS)
    assert made.succeeded(ONE)
    assert not made.suspects
    assert list(made.ejected) == []


def test_probes_that_fail_double_the_time_up_to_the_longest() -> None:
    made = ejected()
    now, waits = 0.0, []
    for _ in range(8):
        waits.append(made.seconds_of(ONE))
        assert not made.probe(ONE, now + waits[-1] - 0.01)
        now += waits[-1]
        assert made.probe(ONE, now)
        assert made.failed(ONE, now, 0)
    assert waits[0] == FIRST_SECONDS
    assert all(later == min(2 * earlier, LONGEST_SECONDS) for earlier, later in pairwise(waits))
    assert waits[-1] == LONGEST_SECONDS


def test_failures_while_it_is_ejected_say_nothing_new() -> None:
    made = ejected()
    assert not any(made.failed(ONE, 0.5, 0) for _ in range(100))
    assert made.probe(ONE, FIRST_SECONDS)


def test_after_a_probe_that_says_nothing_there_is_another() -> None:
    made = ejected()
    assert made.probe(ONE, FIRST_SECONDS)
    assert not made.probe(ONE, 2 * FIRST_SECONDS - 0.01)
    assert made.probe(ONE, 2 * FIRST_SECONDS)


@given(st.floats(0, 1))
def test_chance_brings_the_probe_forward_by_a_quarter_at_most(chance: float) -> None:
    made = ejected(chance=chance)
    assert not made.probe(ONE, 0.75 * FIRST_SECONDS - 0.01)
    assert made.probe(ONE, FIRST_SECONDS)


def test_who_comes_back_starts_clean() -> None:
    made = ejected()
    made.failed(TWO, 0, 0)
    made.forget_all_but([TWO])
    assert list(made.suspects) == [TWO]
    assert list(made.ejected) == []
    assert not made.failed(ONE, 0, 0)


@pytest.mark.parametrize(
    ("usable", "left_out"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (10, 5), (101, 51)]
)
def test_half_are_left_out_at_most_and_never_the_last(usable: int, left_out: int) -> None:
    assert most_left_out(usable) == left_out
