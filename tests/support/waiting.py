"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> float:
    """Ask again and again until `condition()` holds; returns how many seconds that took.

    Fails the test if it does not hold within `seconds`.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"it did not happen within {seconds:g} s"
        time.sleep(0.005)
    return time.monotonic() - began
