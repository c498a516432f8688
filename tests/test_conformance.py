"""docs/conformance.md has an answer for every case, and the tests that it names exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "conformance.md").read_text()
REASONS = set(re.findall(r"^- (\*\*[^*]+\.\*\*)", PAGE, re.MULTILINE))
SECTIONS = {
    title: re.findall(r"^\| (?!Case \|)(.+?) \| ?(.*?) ?\|$", text, re.MULTILINE)
    for title, text in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
ANSWERS = [
    pytest.param(answer, id=f"{title}: {case}") for title, rows in SECTIONS.items() for case, answer in rows
]


def named_tests(answer: str) -> list[str]:
    return re.findall(r"`(tests/[^`]+::[^`]+)`", answer)


@cache
def functions_in(path: str) -> frozenset[str]:
    """The tests that a file defines; none if there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text())
    return frozenset(
        item.name for item in tree.body if isinstance(item, ast.FunctionDef) and item.name.startswith("test_")
    )


def test_the_page_has_cases_and_reasons() -> None:
    assert sum(map(len, SECTIONS.values())) > 150
    assert all(SECTIONS.values())
    assert len(REASONS) == 7


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_case_has_a_test_or_a_reason(answer: str) -> None:
    reason = re.match(r"\*\*[^*]+\*\*", answer)
    assert reason is None or reason[0] in REASONS
    assert reason or named_tests(answer)


@pytest.mark.parametrize("name", sorted(set(named_tests(PAGE))))
def test_a_test_that_is_named_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert function in functions_in(path)


def test_no_case_stands_twice_in_a_section() -> None:
    for rows in SECTIONS.values():
        cases = [case for case, _ in rows]
        assert len(cases) == len(set(cases))


def test_every_reason_is_given_somewhere() -> None:
    answers = [answer for rows in SECTIONS.values() for _, answer in rows]
    assert {reason for reason in REASONS if any(answer.startswith(reason) for answer in answers)} == REASONS
