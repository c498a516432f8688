"""Our commands, as the docs show them, are ones that there are: verbs, flags, targets, files."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path

import click
import pytest

from userspace_proxy.cli import commands
from userspace_proxy.cli.kube_proxy import kube_proxy

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "examples").rglob("*.md"),
]


_OURS = re.compile(
    r"^\s*\$ (?:sudo )?(?:\S+=\S+ )*(?:\S*/)?((?:userspace-proxy|kube-proxy|make) .+)", re.MULTILINE
)


def shown() -> list[tuple[str, str]]:
    """Each command of ours, and the page that shows it."""
    return [
        (str(page.relative_to(ROOT)), command)
        for page in PAGES
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
        for command in _OURS.findall(block.replace("\\\n", " "))
    ]


def words_of(command: str) -> list[str]:
    """As a shell reads it, without where its output goes."""
    words = shlex.shlex(command, posix=True, punctuation_chars="|>&;")
    words.whitespace_split = True
    return list(takewhile(lambda word: word[0] not in "|>&;", words))


@pytest.mark.parametrize(("page", "command"), shown())
def test_what_is_shown_can_be_typed(page: str, command: str) -> None:
    program, *arguments = words_of(command)
    match program:
        case "userspace-proxy":
            verb, *arguments = arguments
            parsed = commands.commands[verb]
            parsed.make_context(verb, arguments, parent=click.Context(commands))
        case "kube-proxy":
            kube_proxy.make_context("kube-proxy", arguments)
        case _:
            assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text()
    for word in arguments:
        if word.startswith("examples/"):
            assert (ROOT / word).exists()


def test_there_is_something_to_type() -> None:
    assert len({page for page, _ in shown()}) > 4
