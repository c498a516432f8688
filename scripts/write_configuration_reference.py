"""Writes the tables of docs/configuration.md anew, after the table of options has changed."""

from __future__ import annotations

from pathlib import Path

from userspace_proxy.configuration.reference import fill_in

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

if __name__ == "__main__":
    PAGE.write_text(fill_in(PAGE.read_text()))
