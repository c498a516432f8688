"""Numbers and tables as people read them."""

from __future__ import annotations

import pytest

from benchmarks.samples import Spread
from benchmarks.tables import cell, markdown, number


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        (0.0, "0"),
        (0.123, "0.12"),
        (2.0, "2"),
        (9.876, "9.88"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1234.5, "1,234"),
        (12_345.0, "12.3k"),
        (234_567.0, "235k"),
        (-12.34, "-12.3"),
    ],
)
def test_a_number_has_three_digits_that_count(figure: float, shown: str) -> None:
    assert number(figure) == shown


def test_a_cell_has_the_median_and_its_spread() -> None:
    assert cell(Spread(2.5, 1.25, 30.0)) == "2.50 (1.25-30)"


def test_a_cell_without_spread_has_one_number() -> None:
    assert cell(Spread(2.5, 2.5, 2.5)) == "2.50"


def test_a_cell_without_figures_says_so() -> None:
    assert cell(None) == "-"


def test_columns_are_even_in_a_terminal_too() -> None:
    assert markdown(["", "µs"], [["a work", "1"], ["b", "12,345"]]) == (
        "|        | µs     |\n|--------|--------|\n| a work | 1      |\n| b      | 12,345 |"
    )
