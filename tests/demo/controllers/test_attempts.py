"""When what was written, or refused, is tried again."""

from __future__ import annotations

from typing import Any

import pytest

from userspace_proxy.demo.controllers.attempts import LONGEST_SECONDS, Attempts, Outcome
from userspace_proxy.demo.controllers.objects import PODS, Metadata
from userspace_proxy.demo.controllers.writes import Create, Delete, Patch, Request, key_of
from userspace_proxy.demo.notices import Reference

OWNER = Reference("apps/v1", "Deployment", "default", "web", "uid-web")


def patch(**labels: str) -> Patch:
    return Patch(
        resource=PODS, metadata=Metadata("a", "default", "uid-a"), body={"metadata": labels}, subject=OWNER
    )


def create(name: str) -> Create:
    return Create(resource=PODS, namespace="default", body={"metadata": {"name": name}}, subject=OWNER)


def waits(*steps: tuple[Request, Outcome]) -> list[float]:
    """How long each write is held after it was tried, one after the other as soon as may be."""
    attempts, now = Attempts(), 0.0
    found = []
    for write, outcome in steps:
        assert key_of(write) not in attempts.held(now)
        attempts.note(write, outcome, now)
        wait = attempts.seconds_until_next(now)
        assert wait is not None
        assert key_of(write) in attempts.held(now + wait * 0.99)
        found.append(round(wait, 3))
        now += wait
    return found


SAME, DELETE = patch(), Delete(resource=PODS, metadata=Metadata("a", "default", "uid-a"), subject=OWNER)
DONE, CHANGED, REFUSED = Outcome.DONE, Outcome.CHANGED_MEANWHILE, Outcome.REFUSED


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(SAME, DONE)] * 4, [0.05, 0.1, 0.2, 0.4]),
        ([(DELETE, DONE)] * 3, [0.05, 0.1, 0.2]),
        ([(patch(label=str(number)), DONE) for number in range(4)], [0.05] * 4),
        ([(create(f"pod-{number}"), DONE) for number in range(4)], [0.05] * 4),
        ([(create(f"pod-{number}"), REFUSED) for number in range(4)], [1, 2, 4, 8]),
        ([(SAME, CHANGED)] * 3, [0.05, 0.1, 0.2]),
        ([(SAME, REFUSED)] * 8, [1, 2, 4, 8, 16, 30, 30, 30]),
        ([(SAME, REFUSED), (SAME, REFUSED), (patch(label="new"), DONE), (SAME, REFUSED)], [1, 2, 0.05, 2]),
    ],
)
def test_how_long_a_write_waits(steps: Any, expected: list[float]) -> None:
    assert waits(*steps) == expected


def test_it_does_not_wait_for_ever() -> None:
    assert waits(*[(SAME, REFUSED)] * 100)[-1] == LONGEST_SECONDS


def test_what_is_not_planned_any_more_is_forgotten() -> None:
    attempts = Attempts()
    attempts.note(SAME, REFUSED, 0)
    attempts.note(create("a"), REFUSED, 0)
    attempts.forget_all_but({key_of(create("b"))})
    assert attempts.held(0) == {key_of(create("c"))}
    attempts.forget_all_but(set())
    assert attempts.held(0) == set()
    assert attempts.seconds_until_next(0) is None
