"""Recordings of the demo: the script makes pictures that are whole, and the README shows what it has made."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "record.py"
RECORDINGS = ("demo.svg", "lesson-1.svg")


@pytest.fixture(scope="module")
def record() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(svg: str) -> str:
    """What the picture says. Raises if it is not well-formed."""
    return "".join(ElementTree.fromstring(svg).itertext()).replace("\N{NO-BREAK SPACE}", " ")


def test_what_a_command_prints_on_a_terminal_becomes_a_picture(record: ModuleType) -> None:
    script = "import sys; print('\\033[32m✓\\033[0m', sys.stdout.isatty(), '<&>', sys.stdin.isatty())"
    printed = record.printed_by([sys.executable, "-c", script])
    assert printed == "\033[32m✓\033[0m True <&> False\n"
    picture = record.svg("make demo", printed)
    assert "$ make demo" in words(picture)
    assert "✓ True <&> False" in words(picture)


def test_what_fails_is_not_recorded(record: ModuleType) -> None:
    with pytest.raises(record.CommandFailedError, match="ended with 3"):
        record.printed_by([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_is_whole_fetches_nothing_and_is_shown(name: str) -> None:
    svg = (ROOT / "docs" / "recordings" / name).read_text()
    assert "$ " in words(svg)
    assert svg.count("http") == svg.count("http://www.w3.org/") + words(svg).count("http")
    assert f'<img src="docs/recordings/{name}"' in (ROOT / "README.md").read_text()
