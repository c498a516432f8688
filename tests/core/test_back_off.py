from __future__ import annotations

import pytest

from userspace_proxy.core.back_off import delay_seconds, doubled_seconds


@pytest.mark.parametrize(
    ("failures", "chance", "seconds"),
    [
        (1, 0.0, 0.8),
        (1, 0.5, 1.2),
        (2, 0.0, 1.6),
        (5, 0.0, 12.8),
        (6, 0.0, 15.0),
        (6, 0.5, 22.5),
        (10**9, 0.0, 15.0),
    ],
)
def test_the_wait_doubles_and_is_bounded(failures: int, chance: float, seconds: float) -> None:
    assert delay_seconds(failures, chance) == pytest.approx(seconds)


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.2), (2, 0.4), (4, 1.5), (10**9, 1.5)])
def test_however_often_something_fails_there_is_a_next_try(failures: int, seconds: float) -> None:
    assert doubled_seconds(0.2, failures, 1.5) == pytest.approx(seconds)
