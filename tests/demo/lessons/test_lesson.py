"""Lessons as they are read."""

from __future__ import annotations

import pytest

from userspace_proxy.demo.lessons.catalogue import lessons
from userspace_proxy.demo.lessons.lesson import (
    Answer,
    Command,
    Lesson,
    LessonError,
    Text,
    read_lesson,
    why_not_as_told,
)

TEXT = """# A title
<!-- clean up: kubectl delete
    service x -->

Some *text*.

```console
client $ curl -s http://web
web-1
$ kubectl get pods
NAME
```
<!-- prints: ^web-\\d -->
<!-- waits for: Running -->

```console
node-1 $ false
```
<!-- fails -->

**Why?**

<details><summary>Answer</summary>

Because.

</details>
"""


def test_a_text_is_read_part_by_part() -> None:
    assert read_lesson(TEXT) == Lesson(
        "A title",
        (
            Text("Some *text*."),
            Command("client", "curl -s http://web"),
            Command("", "kubectl get pods", (r"^web-\d", "Running"), waits=True),
            Command("node-1", "false", fails=True),
            Text("**Why?**"),
            Answer("Because."),
        ),
        "kubectl delete\n    service x",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no title\n", "does not begin with its title"),
        ("# Title\n\ntext\n", "how to clean up"),
        ("# T\n<!-- clean up: true -->\n```console\nno prompt\n```\n", "has no command"),
        ("# T\n<!-- clean up: true -->\n```console\n$ x\n```\n<!-- hopes: y -->\n", "nobody knows"),
        ("# T\n<!-- clean up: true -->\n```console\n$ x\n```\n<!-- prints -->\n", "nobody knows"),
        ("# T\n<!-- clean up: true -->\n```console\n$ x\n```\n<!-- fails: y -->\n", "nobody knows"),
        ("# T\n<!-- clean up: true -->\n```console\n$ x\n```\n<!-- prints: ( -->\n", "no regular expression"),
    ],
)
def test_what_is_no_lesson_is_said(text: str, reason: str) -> None:
    with pytest.raises(LessonError, match=reason):
        read_lesson(text)


@pytest.mark.parametrize(
    ("command", "status", "output", "problem"),
    [
        (Command("", "x"), 0, "", None),
        (Command("", "x"), 1, "", "it ended with 1"),
        (Command("", "x", fails=True), 1, "", None),
        (Command("", "x", fails=True), 0, "", "it was to fail, and did not"),
        (Command("", "x", ("^b",)), 0, "a\nb\n", None),
        (Command("", "x", ("a", "^c")), 0, "a\nb\n", "nothing that it printed matches ^c"),
    ],
)
def test_an_outcome_is_looked_at(command: Command, status: int, output: str, problem: str | None) -> None:
    assert why_not_as_told(command, status, output) == problem


def test_every_text_of_the_package_is_a_lesson() -> None:
    found = lessons()
    assert list(found) == list(range(1, len(found) + 1))
