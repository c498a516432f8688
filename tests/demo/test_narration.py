"""What a reader of the demo sees, and what counts as a failure."""

from __future__ import annotations

import io
import os

import pytest

from userspace_proxy.demo.narration import Narration, reading_seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_claim_that_holds_is_ticked() -> None:
    out = io.StringIO()
    narration = Narration(out)
    narration.claim("no request fails", expected=300, seen=300)
    assert out.getvalue() == "  ✓ no request fails\n"
    assert (narration.claims, narration.failures) == (1, [])


def test_a_claim_that_fails_says_what_was_expected_and_seen() -> None:
    out = io.StringIO()
    narration = Narration(out)
    narration.claim("no request fails", expected=300, seen=299)
    assert out.getvalue() == "  ✗ no request fails\n      expected: 300\n      seen:     299\n"
    assert (narration.claims, narration.failures) == (1, ["no request fails"])


def test_a_command_is_shown_with_its_place_and_output() -> None:
    out = io.StringIO()
    Narration(out).command("client", "curl http://10.96.0.10/", "web-1\nweb-2\n")
    assert out.getvalue() == "  client $ curl http://10.96.0.10/\n    web-1\n    web-2\n"


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, file = Terminal(), io.StringIO()
    for out in (terminal, file):
        Narration(out).chapter("Begin")
    assert "\033[1mBegin\033[0m" in terminal.getvalue()
    assert file.getvalue() == "\nBegin\n"


def test_no_colour_where_somebody_asked_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    terminal = Terminal()
    Narration(terminal).chapter("Begin")
    assert terminal.getvalue() == "\nBegin\n"


def test_a_reader_has_time_for_a_chapter_and_presses_enter_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as keyboard, os.fdopen(writing, "w") as finger:
        monkeypatch.setattr("sys.stdin", keyboard)
        finger.write("\n")
        finger.flush()
        out = io.StringIO()
        narration = Narration(out, paced=True)
        narration.chapter("One")
        assert "Enter" not in out.getvalue()
        narration.text("a line")
        narration.chapter("Two")
    assert "(Enter goes on)" in out.getvalue()
    assert out.getvalue().endswith("\nTwo\n")


@pytest.mark.parametrize(("lines", "seconds"), [(0, 0.0), (10, 8.0), (1000, 15.0)])
def test_reading_takes_its_time(lines: int, seconds: float) -> None:
    assert reading_seconds(lines) == seconds
