"""How answers look: in columns, on a terminal, for programs."""

from __future__ import annotations

import io
import json
import re

import pytest
import yaml

from userspace_proxy.cli.drawing import draw
from userspace_proxy.cli.figures import bytes_text, duration_text
from userspace_proxy.cli.rendering import (
    Block,
    Fields,
    Output,
    Sentences,
    Table,
    long,
    number,
    plain,
    show,
    show_one,
)
from userspace_proxy.core.answers.services import ServingWorker

WEB = Table(
    ["NAME", number("ACTIVE"), "USED", long("WHY")],
    [
        ["default/web", "12", "no", "not ready, and this is a sentence that is longer than the room for it"],
        ["x", "1", "yes", ""],
    ],
)


def drawn(*blocks: Block, width: int) -> list[str]:
    out = io.StringIO()
    draw(blocks, out, width)
    return out.getvalue().splitlines()


def test_plain_text_cuts_nothing() -> None:
    fields = Fields([("Version", "1.0"), ("Empty", ""), ("Pid", "4711")])
    assert list(plain([fields, WEB, Sentences(["One."], title="Problems")])) == [
        "Version:  1.0",
        "Pid:      4711",
        "",
        "NAME         ACTIVE  USED  WHY",
        "default/web      12  no    not ready, and this is a sentence that is longer than the room for it",
        "x                 1  yes",
        "",
        "Problems:",
        "One.",
    ]


def test_a_long_column_is_wrapped_on_a_terminal() -> None:
    assert drawn(WEB, width=60) == [
        "NAME         ACTIVE  USED  WHY",
        "default/web      12  no    not ready, and this is a sentence",
        "                           that is longer than the room for",
        "                           it",
        "x                 1  yes",
    ]


def test_where_it_has_no_room_it_stands_below() -> None:
    assert drawn(WEB, width=40) == [
        "NAME         ACTIVE  USED",
        "default/web      12  no",
        "    not ready, and this is a sentence",
        "    that is longer than the room for it",
        "x                 1  yes",
    ]


def test_fields_and_sentences_are_wrapped_and_nothing_is_longer_than_the_terminal() -> None:
    text = "many words " * 12
    lines = drawn(Fields([("Name", text)], title="All"), Sentences([text]), width=40)
    assert lines[0] == "All"
    assert lines[1].startswith("Name  many words") and lines[2].startswith("      ")
    assert all(len(line) <= 40 for line in lines)


def test_colours_say_how_something_does(monkeypatch: pytest.MonkeyPatch) -> None:
    states = Table(["A"], [["not ready"], ["ready"]])
    assert drawn(states, width=80) == ["A", "not ready", "ready"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert drawn(states, width=80)[1:] == ["\x1b[31mnot ready\x1b[0m", "\x1b[32mready\x1b[0m"]


def test_programs_get_json_and_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    worker = ServingWorker(number=0, pid=4711)
    show([worker], Output.JSON, lambda items, wide: [])
    assert json.loads(capsys.readouterr().out) == [{"number": 0, "pid": 4711}]
    show_one(worker, Output.YAML, lambda item, wide: [])
    assert yaml.safe_load(capsys.readouterr().out) == {"number": 0, "pid": 4711}


def test_people_get_blocks_narrow_or_wide(capsys: pytest.CaptureFixture[str]) -> None:
    show([1, 2], Output.TABLE, lambda items, wide: [Sentences([f"{items} {wide}"])])
    show_one(3, Output.WIDE, lambda item, wide: [Sentences([f"{item} {wide}"])])
    assert capsys.readouterr().out == "[1, 2] False\n3 True\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 20, "20 MiB"), (5 << 40, "5.0 TiB")],
)
def test_bytes_have_few_digits(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (12, "12s"),
        (312, "5m12s"),
        (300, "5m"),
        (11045, "3h4m"),
        (200000, "2d7h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
    assert re.fullmatch(r"(\d+(\.\d)?[smhd]){1,2}", text)
