"""Giving a lesson, with nothing that really runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from userspace_proxy.demo.lessons.lecture import give_lesson
from userspace_proxy.demo.lessons.lesson import Answer, Command, Lesson, Text
from userspace_proxy.demo.lessons.stage import Outcome


class Script:
    """Commands have these outcomes, one after the other; the cleaning up succeeds."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self.ran: list[str] = []
        self._outcomes = iter(outcomes)

    def run(self, place: str, command: str) -> Outcome:
        self.ran.append(f"{place} $ {command}")
        return Outcome(0, "") if command == "clean" else next(self._outcomes)


class Notes:
    """Remembers what it was told to show."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def title(self, title: str) -> None:
        self.seen.append(title)

    def text(self, markdown: str) -> None:
        self.seen.append(markdown)

    def answer(self, markdown: str) -> None:
        self.seen.append(markdown)

    def command(self, place: str, command: str) -> None:
        self.seen.append((place, command))

    def outcome(self, outcome: Outcome, problem: str | None) -> None:
        self.seen.append((outcome.output, problem))


def test_what_it_makes_is_taken_away_before_and_after() -> None:
    script, notes = Script([Outcome(0, "yes")]), Notes()
    lesson = Lesson("T", (Text("t"), Command("pod", "ask", ("yes",)), Answer("a")), "clean")
    assert give_lesson(lesson, script, notes) == []
    assert script.ran == [" $ clean", "pod $ ask", " $ clean"]
    assert notes.seen == ["T", "t", ("pod", "ask"), ("yes", None), "a"]


def test_so_it_is_when_somebody_interrupts() -> None:
    def outcomes() -> Iterator[Outcome]:
        raise KeyboardInterrupt
        yield

    script = Script(outcomes())
    with pytest.raises(KeyboardInterrupt):
        give_lesson(Lesson("T", (Command("", "x"),), "clean"), script, Notes())
    assert script.ran == [" $ clean", " $ x", " $ clean"]


def test_what_it_waits_for_comes_sooner_or_later() -> None:
    script = Script([Outcome(1, ""), Outcome(0, "no"), Outcome(0, "yes")])
    assert give_lesson(Lesson("T", (Command("", "x", ("yes",), waits=True),), "clean"), script, Notes()) == []


def test_or_is_missed_in_the_end_and_the_lesson_goes_on() -> None:
    script, times = Script([Outcome(0, "no"), Outcome(0, "no"), Outcome(0, "")]), iter([0.0, 29.0, 30.0])
    lesson = Lesson("T", (Command("", "x", ("yes",), waits=True), Command("", "y", ("z",))), "clean")
    assert give_lesson(lesson, script, Notes(), now=lambda: next(times, 99.0)) == [
        "x: nothing that it printed matches yes",
        "y: nothing that it printed matches z",
    ]
