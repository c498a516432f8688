"""`userspace-proxy demo lesson`, on the machine's side."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from userspace_proxy.demo.commands import status_of_cluster
from userspace_proxy.demo.lessons.catalogue import lesson_of, lessons
from userspace_proxy.demo.lessons.lecture import give_lesson
from userspace_proxy.demo.lessons.stage import Stage
from userspace_proxy.demo.lessons.terminal import Terminal
from userspace_proxy.errors import StartupError


def list_lessons() -> None:
    """Print which there are."""
    for number, lesson in lessons().items():
        print(f"{number:3}  {lesson.title}")


def give(number: int, *, pauses: bool) -> None:
    """Give one on the running cluster; ends with 1 if something was not as it is told."""
    lesson = lesson_of(number)
    status = status_of_cluster()
    if shutil.which("kubectl") is None:
        raise StartupError("a lesson is told with `kubectl`, which is not on PATH: install it")
    terminal = Terminal(pauses=pauses and sys.stdin.isatty() and sys.stdout.isatty())
    try:
        problems = give_lesson(lesson, Stage(Path(status.kubeconfig)), terminal)
    except KeyboardInterrupt:
        sys.exit(130)
    if problems:
        sys.exit(1)
