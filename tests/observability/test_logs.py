from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.observability.logs import OneLineFormatter, configure_logging


def line_of(message: str, *arguments: object, level: int = logging.INFO) -> str:
    record = logging.LogRecord("test", level, __file__, 1, message, arguments, None)
    return OneLineFormatter().format(record)


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


def test_a_traceback_keeps_its_lines_and_the_message_before_it_is_one() -> None:
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        record = logging.LogRecord(
            "test", logging.ERROR, __file__, 1, "Failed: %s", ("a\nb",), sys.exc_info()
        )
    first, *traceback = OneLineFormatter().format(record).splitlines()
    assert first.endswith(r"Failed: a\nb")
    assert traceback[0].startswith("Traceback") and traceback[-1] == "RuntimeError: broken"


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, which gets back what it had. pytest's own handlers are out of reach meanwhile."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(("verbosity", "is_shown"), [(0, False), (3, False), (4, True), (9, True)])
def test_connections_are_logged_from_level_4_on(
    verbosity: int, is_shown: bool, root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(verbosity)
    logging.getLogger("test").debug("a connection")
    logging.getLogger("test").info("a\nchange")
    output = capsys.readouterr()
    assert ("a connection" in output.err) is is_shown
    assert r"a\nchange" in output.err
    assert output.out == ""


def test_configuring_twice_logs_once(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(0)
    configure_logging(0)
    logging.getLogger("test").info("a change")
    assert capsys.readouterr().err.count("a change") == 1
