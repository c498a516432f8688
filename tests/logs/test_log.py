"""What a process logs, and where it goes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from userspace_proxy.configuration.options import LOGGING_FORMATS
from userspace_proxy.logs.formats import FORMATTERS

LOGS = """
import logging, sys
from userspace_proxy.logs.log import configure_logging
configure_logging({verbosity}, {log_format!r}).start()
"""


def logged_by(code: str, verbosity: int = 0, log_format: str = "text") -> list[str]:
    """The lines that a process logs that runs `code`."""
    program = LOGS.format(verbosity=verbosity, log_format=log_format) + code
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("verbosity", "shown"), [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3), (9, 3), (10, 4), (50, 4)]
)
def test_more_is_logged_with_more_verbosity(verbosity: int, shown: int) -> None:
    code = """
from userspace_proxy.logs.formats import at_verbosity
for level in (logging.WARNING, at_verbosity(2), at_verbosity(4), logging.DEBUG):
    logging.getLogger("test").log(level, "said")
"""
    assert len(logged_by(code, verbosity)) == shown


def test_lines_are_objects_if_so_wished() -> None:
    [line] = logged_by("logging.info('Started: node=%s', 'n')", log_format="json")
    assert json.loads(line) | {"ts": ""} == {"ts": "", "level": "info", "v": 0, "msg": "Started", "node": "n"}


def test_every_format_that_can_be_asked_for_is_there() -> None:
    assert set(FORMATTERS) == set(LOGGING_FORMATS)


def test_configuring_twice_logs_once() -> None:
    assert len(logged_by("configure_logging().start(); logging.info('a change')")) == 1


def test_a_wrong_template_ends_nobody() -> None:
    lines = logged_by("logging.info('%d', 'no number'); logging.info('next')")
    assert [line.partition(" ")[2] for line in lines] == [
        "INFO    next",
        "WARNING Log lines were lost: lines=1",
    ]


def test_without_a_standard_error_nothing_is_written_anywhere() -> None:
    program = LOGS.format(verbosity=0, log_format="text") + "logging.info('said')"
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, program],
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_process_ends_though_nobody_reads() -> None:
    code = "for number in range(5000): logging.info('%s', 'x' * 100)"
    program = LOGS.format(verbosity=0, log_format="text") + code
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        assert process.wait(30) == 0
        assert process.stderr is not None
        process.stderr.close()
