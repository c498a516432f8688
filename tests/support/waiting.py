"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

TRIES = 10
DEADLINE_SECONDS = 30.0
"""More than anything takes on a busy machine: only what is broken is waited for so long."""


def wait_until(condition: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> float:
    """Ask again and again until `condition()` holds; returns how many seconds that took.

    Fails the test if it does not hold within `seconds`.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"it did not happen within {seconds:g} s"
        time.sleep(0.005)
    return time.monotonic() - began


def may_take_less_than(seconds: float, attempt: Callable[[], float]) -> bool:
    """Whether one of some attempts, which say how long they took, does: a busy machine spoils a few."""
    return any(attempt() < seconds for _ in range(TRIES))
