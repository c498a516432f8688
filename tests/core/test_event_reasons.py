from __future__ import annotations

import re
from pathlib import Path

from userspace_proxy.core.event_reasons import REASONS

PAGE = Path(__file__).parents[2] / "docs" / "events.md"


def test_the_page_says_of_each_what_the_code_does() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{reason.name}` | {reason.kind.value} | {reason.type.value} | {reason.help} |"
        for reason in REASONS
    ]


def test_reasons_are_as_the_api_wants_them() -> None:
    names = [reason.name for reason in REASONS]
    assert len(set(names)) == len(names)
    for reason in REASONS:
        for word in (reason.name, reason.action):
            assert re.fullmatch(r"([A-Z][a-z0-9]+)+", word)
            assert len(word) <= 128
        assert reason.help.endswith(".")
