"""A lesson, read from its Markdown.

A fence marked `console` has commands, each behind the place where it runs, and what they printed when the
text was written:

    ```console
    client $ curl -s http://web
    web-7qvvqdh2p2-p4v9b
    ```
    <!-- prints: ^web- -->

Without a place (`$ kubectl get pods`) it runs on the machine itself. Comments behind a fence say what is to
come of its last command, and are not seen in the documentation:

    <!-- prints: REGEX -->    the regular expression is found in what it prints
    <!-- waits for: REGEX --> the same, sooner or later: it is run again until then
    <!-- fails -->            it does not end with 0, as all others do

A comment `<!-- clean up: COMMAND -->` has what takes away all that the lesson makes. A `<details>` element is
an answer, which is shown when somebody asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from userspace_proxy.errors import UserspaceProxyError

_TITLE: Final = re.compile(r"# (?P<title>.+)\n")
_CLEAN_UP: Final = re.compile(r"<!-- clean up: (?P<command>.+?) -->\n", re.DOTALL)
_FENCE: Final = re.compile(r"^```console\n(?P<lines>.*?)^```\n(?P<comments>(?:<!-- .*? -->\n)*)", re.M | re.S)
_ANSWER: Final = re.compile(
    r"^<details>\s*<summary>(?P<summary>.*?)</summary>\n(?P<text>.*?)^</details>\n", re.M | re.S
)
_PROMPT: Final = re.compile(r"(?:(?P<place>[a-z0-9/-]+) )?\$ (?P<command>.+)")
_COMMENT: Final = re.compile(r"<!-- (?P<kind>prints|waits for|fails)(?:: (?P<pattern>.*?))? -->\n")


class LessonError(UserspaceProxyError):
    """A text is no lesson."""


@dataclass(frozen=True, slots=True)
class Text:
    """Markdown to read."""

    markdown: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Markdown to read when one has thought about the question before it."""

    markdown: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command and where it runs: a pod, a node, `outside`; "" is the machine itself.

    Each of `prints` is found in what it prints, at once or, if it `waits`, sooner or later.
    """

    place: str
    command: str
    prints: tuple[str, ...] = ()
    waits: bool = False
    fails: bool = False


Part: TypeAlias = Text | Answer | Command


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is shown, part by part, and the command (of the machine) that takes away what it has made."""

    title: str
    parts: tuple[Part, ...]
    clean_up: str


def read_lesson(markdown: str) -> Lesson:
    """Read a text. Raises `LessonError`, which says what is wrong with it."""
    title = _TITLE.match(markdown)
    if title is None:
        raise LessonError("it does not begin with its title, `# …`")
    clean_up = _CLEAN_UP.search(markdown)
    if clean_up is None:
        raise LessonError("it does not say how to clean up: `<!-- clean up: … -->`")
    body = markdown[title.end() : clean_up.start()] + markdown[clean_up.end() :]
    return Lesson(title["title"], tuple(_parts(body)), clean_up["command"])


def _parts(body: str) -> Iterator[Part]:
    position = 0
    found = [*_FENCE.finditer(body), *_ANSWER.finditer(body)]
    for match in sorted(found, key=lambda match: match.start()):
        yield from _text(body[position : match.start()])
        if match.re is _FENCE:
            yield from _commands(match["lines"], match["comments"])
        else:
            yield Answer(match["text"].strip())
        position = match.end()
    yield from _text(body[position:])


def _text(markdown: str) -> Iterator[Text]:
    if markdown.strip():
        yield Text(markdown.strip())


def _commands(lines: str, comments: str) -> Iterator[Command]:
    prompts = [match for line in lines.splitlines() if (match := _PROMPT.fullmatch(line))]
    if not prompts:
        raise LessonError(f"a block has no command, `PLACE $ …`, but {lines!r}")
    for prompt in prompts[:-1]:
        yield Command(prompt["place"] or "", prompt["command"])
    yield _expecting(Command(prompts[-1]["place"] or "", prompts[-1]["command"]), comments)


def _expecting(command: Command, comments: str) -> Command:
    for line in comments.splitlines(keepends=True):
        comment = _COMMENT.fullmatch(line)
        if comment is None or (comment["pattern"] is None) != (comment["kind"] == "fails"):
            raise LessonError(f"nobody knows what this comment means: {line.strip()}")
        if comment["kind"] == "fails":
            command = replace(command, fails=True)
        else:
            prints = (*command.prints, _compiled(comment["pattern"]))
            command = replace(command, prints=prints, waits=command.waits or comment["kind"] == "waits for")
    return command


def _compiled(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise LessonError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


def why_not_as_told(command: Command, status: int, output: str) -> str | None:
    """What of an outcome is not as the text has it; None if all of it is."""
    if command.fails and status == 0:
        return "it was to fail, and did not"
    if not command.fails and status != 0:
        return f"it ended with {status}"
    for pattern in command.prints:
        if re.search(pattern, output, re.M) is None:
            return f"nothing that it printed matches {pattern}"
    return None
