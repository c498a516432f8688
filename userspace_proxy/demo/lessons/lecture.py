"""Giving a lesson: texts are shown, commands run, and what comes of them is looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol, assert_never

from userspace_proxy.demo.lessons.lesson import Answer, Command, Lesson, Text, why_not_as_told
from userspace_proxy.demo.lessons.stage import Outcome

_PATIENCE_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.3


class Runs(Protocol):
    """What runs a command in a place."""

    def run(self, place: str, command: str) -> Outcome: ...


class Board(Protocol):
    """What shows a lesson to somebody."""

    def title(self, title: str) -> None: ...
    def text(self, markdown: str) -> None: ...
    def answer(self, markdown: str) -> None: ...
    def command(self, place: str, command: str) -> None: ...
    def outcome(self, outcome: Outcome, problem: str | None) -> None: ...


def give_lesson(
    lesson: Lesson, stage: Runs, board: Board, *, now: Callable[[], float] = time.monotonic
) -> list[str]:
    """Go through a lesson; returns what did not come out as the text has it.

    What it has made is taken away in the end, however it ends; and before, in case somebody was interrupted.
    """
    stage.run("", lesson.clean_up)
    try:
        return _go_through(lesson, stage, board, now)
    finally:
        stage.run("", lesson.clean_up)


def _go_through(lesson: Lesson, stage: Runs, board: Board, now: Callable[[], float]) -> list[str]:
    problems = []
    board.title(lesson.title)
    for part in lesson.parts:
        match part:
            case Text(markdown):
                board.text(markdown)
            case Answer(markdown):
                board.answer(markdown)
            case Command():
                board.command(part.place, part.command)
                outcome, problem = _run(part, stage, now)
                board.outcome(outcome, problem)
                if problem is not None:
                    problems.append(f"{part.command}: {problem}")
            case _:
                assert_never(part)
    return problems


def _run(command: Command, stage: Runs, now: Callable[[], float]) -> tuple[Outcome, str | None]:
    deadline = now() + _PATIENCE_SECONDS
    while True:
        outcome = stage.run(command.place, command.command)
        problem = why_not_as_told(command, outcome.status, outcome.output)
        if problem is None or not command.waits or now() >= deadline:
            return outcome, problem
        time.sleep(_LOOK_SECONDS)
