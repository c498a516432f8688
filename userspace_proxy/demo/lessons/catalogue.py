"""Which lessons there are: the texts that come with the package, by their numbers."""

from __future__ import annotations

from importlib import resources

from userspace_proxy.demo.lessons.lesson import Lesson, LessonError, read_lesson
from userspace_proxy.errors import UsageError


def lessons() -> dict[int, Lesson]:
    """All of them. Raises `LessonError`, which names the text."""
    found = {}
    for text in sorted(resources.files(__package__).joinpath("texts").iterdir(), key=lambda text: text.name):
        number = text.name.partition("-")[0]
        if number.isdigit():
            try:
                found[int(number)] = read_lesson(text.read_text(encoding="utf-8"))
            except LessonError as error:
                raise LessonError(f"{text.name}: {error}") from error
    return found


def lesson_of(number: int) -> Lesson:
    """The one with that number. Raises `UsageError` if there is none."""
    all_lessons = lessons()
    if number not in all_lessons:
        raise UsageError(f"there is no lesson {number}: they go from 1 to {max(all_lessons)}")
    return all_lessons[number]
