from __future__ import annotations

from userspace_proxy.core.poll_patience import LEAST_SECONDS, MOST_SECONDS, PollPatience

SHORT, LONG = MOST_SECONDS / 2, MOST_SECONDS * 2


def after(*sleeps: float) -> list[float]:
    """What patience is after each of these sleeps."""
    patience = PollPatience()
    now, seen = 100.0, []
    for seconds in sleeps:
        patience.sleeps(now)
        patience.woke(now + seconds)
        seen.append(patience.seconds)
        now += 1
    return seen


def test_nobody_looks_at_first() -> None:
    patience = PollPatience()
    assert patience.seconds == 0
    patience.woke(0.0)
    assert patience.seconds == 0


def test_long_sleeps_never_begin_it() -> None:
    assert after(LONG, LONG, LONG) == [0, 0, 0]


def test_short_sleeps_double_it_up_to_a_limit() -> None:
    assert after(SHORT, SHORT) == [LEAST_SECONDS, 2 * LEAST_SECONDS]
    assert after(*[SHORT] * 10)[-1] == MOST_SECONDS


def test_long_sleeps_end_it_soon() -> None:
    seen = after(*[SHORT] * 10, *[LONG] * 5)
    assert seen[10:] == sorted(seen[10:], reverse=True)
    assert seen[-1] == 0
