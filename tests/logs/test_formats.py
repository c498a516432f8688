from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.logs.formats import JsonFormatter, TextFormatter, at_verbosity


def line_of(message: str, *arguments: object, level: int = logging.INFO) -> str:
    record = logging.LogRecord("test", level, __file__, 1, message, arguments, None)
    return TextFormatter().format(record)


def json_of(message: str, *arguments: object, level: int = logging.INFO) -> dict[str, Any]:
    record = logging.LogRecord("test", level, __file__, 1, message, arguments, None)
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1 and line.isascii()
    decoded: dict[str, Any] = json.loads(line)
    return decoded


def test_a_line_has_its_time_with_the_zone_its_level_and_its_message() -> None:
    line = line_of("Skipped: %s", "web", level=logging.WARNING)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING Skipped: web", line)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("web\n2026-01-01 INFO forged", r"web\n2026-01-01 INFO forged"),
        ("a\rb\tc", r"a\rb\tc"),
        ("\x1b[31mred\x7f", r"\x1b[31mred\x7f"),
        ("a\x85b\x9bc", r"a\x85b\x9bc"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("a\u202eb\u2066c\u200bd", r"a\u202eb\u2066c\u200bd"),
        ("half \ud83d of one", r"half \ud83d of one"),
        ("\U000e0041 tag", r"\U000e0041 tag"),
        ("snowman ☃", "snowman ☃"),
        ("n" * 253, "n" * 253),
    ],
)
def test_nobodys_name_breaks_or_forges_a_line(name: str, shown: str) -> None:
    assert line_of("Skipped: %s", name).endswith(f"Skipped: {shown}")


@given(st.text())
def test_whatever_is_in_a_name_a_line_is_one_line(name: str) -> None:
    line = line_of("Skipped: %s!", name)
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    line.encode()


def test_a_line_has_an_end() -> None:
    assert len(line_of("Skipped: %s", "\n" * 1_000_000)) < 20_000
    assert len(json.dumps(json_of("Skipped: name=%s, %s", "\n" * 1_000_000, "x" * 1_000_000))) < 40_000


def test_a_traceback_keeps_its_lines_and_the_message_before_it_is_one() -> None:
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        record = logging.LogRecord(
            "test", logging.ERROR, __file__, 1, "Failed: %s", ("a\nb",), sys.exc_info()
        )
    first, *traceback = TextFormatter().format(record).splitlines()
    assert first.endswith(r"Failed: a\nb")
    assert traceback[0].startswith("Traceback") and traceback[-1] == "RuntimeError: broken"


def test_what_is_verbose_is_info_all_the_same() -> None:
    assert " INFO    changed" in line_of("changed", level=at_verbosity(4))
    assert json_of("changed", level=at_verbosity(4)) | {"ts": ""} == {
        "ts": "",
        "level": "info",
        "v": 4,
        "msg": "changed",
    }


@pytest.mark.parametrize(
    ("message", "arguments", "shown"),
    [
        ("Started", (), {"msg": "Started"}),
        ("Started: node=%s workers=%d", ("n", 2), {"msg": "Started", "node": "n", "workers": 2}),
        ("Skipped: %s", ("web",), {"msg": "Skipped: web"}),
        (
            "Connections are refused, %s: client=%s connections=%d; %s",
            ("too many", "10.0.0.1", 7, "raise it"),
            {"msg": "Connections are refused, too many; raise it", "client": "10.0.0.1", "connections": 7},
        ),
        ("Waiting: in_seconds=%.1f at 100%%", (0.25,), {"msg": "Waiting: at 100%", "in_seconds": 0.25}),
        ("Failed: msg=%s level=%s", ("forged", "forged"), {"msg": "Failed"}),
        ("Skipped: %s", ("client=10.0.0.1 v=3\n",), {"msg": "Skipped: client=10.0.0.1 v=3\n"}),
    ],
)
def test_json_has_a_key_for_each_of_the_messages_own(
    message: str, arguments: tuple[object, ...], shown: dict[str, Any]
) -> None:
    line = json_of(message, *arguments, level=logging.WARNING)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line.pop("level") == "warning"
    assert line == shown


@given(st.text(), st.text())
def test_nobodys_name_adds_a_key(name: str, other: str) -> None:
    assert json_of("Skipped: name=%s, %s", name, other).keys() == {"ts", "level", "v", "msg", "name"}


def test_json_has_a_traceback_as_one_value() -> None:
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        record = logging.LogRecord("test", logging.ERROR, __file__, 1, "Failed", (), sys.exc_info())
    assert json.loads(JsonFormatter().format(record))["trace"].endswith("RuntimeError: broken")
