from __future__ import annotations

from pathlib import Path

import click

from userspace_proxy.cli.run import run
from userspace_proxy.configuration.accepted_options import BOOLEAN_FLAGS, PAIRS
from userspace_proxy.configuration.options import OPTIONS, Kind
from userspace_proxy.configuration.reference import fill_in

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_has_the_tables_of_today() -> None:
    page = PAGE.read_text()
    assert page == fill_in(page), "run scripts/write_configuration_reference.py"


def test_each_flag_of_run_is_in_the_page() -> None:
    page = PAGE.read_text()
    flags = {option.opts[-1] for option in run.params if isinstance(option, click.Option)}
    denials = {f"--no-{option.long_flag[2:]}" for option in OPTIONS.values() if option.kind is Kind.BOOLEAN}
    assert denials < flags
    assert [flag for flag in flags - denials if f"`{flag}`" not in page and f"`{flag} " not in page] == []


def test_flags_that_may_stand_alone_are_flags() -> None:
    assert {flag for flag, _, _ in PAIRS} >= BOOLEAN_FLAGS
