"""The tables of docs/configuration.md, made of the table of options, so that they cannot lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from userspace_proxy.configuration.accepted_options import PAIRS
from userspace_proxy.configuration.options import OPTIONS, Option, Takes

BEGIN: Final = "<!-- made by scripts/write_configuration_reference.py: {} -->"
END: Final = "<!-- end -->"


def tables() -> dict[str, str]:
    """Each table in Markdown, by the name that stands at its beginning in the page."""
    options = OPTIONS.values()
    return {
        "kube-proxy's": _table(
            ("Flag", "Field", "Default", "What it does", "In kube-proxy"),
            (
                (*_said(option), option.help, option.in_kube_proxy or "the same")
                for option in options
                if not option.is_ours
            ),
        ),
        "ours": _table(
            ("Flag", "Field", "Default", "What it does"),
            ((*_said(option), option.help) for option in options if option.is_ours),
        ),
        "reloaded": "".join(
            f"- `{option.field}`\n" for option in options if option.field and option.takes is Takes.AT_ONCE
        ),
        "accepted": _table(
            ("Flag", "Field", "What it is"),
            (
                (f"`{flag}`" if flag else "", f"`{field}`" if field else "", why.value)
                for flag, field, why in PAIRS
            ),
        ),
    }


def fill_in(page: str) -> str:
    """The page with its tables as they are now."""
    for name, table in tables().items():
        before, begin, rest = page.partition(BEGIN.format(name))
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise ValueError(f"the page has no place for the table {name!r}")
        page = f"{before}{begin}\n\n{table}\n{end}{after}"
    return page


def _said(option: Option) -> tuple[str, str, str]:
    return (
        f"`{option.long_flag}`",
        f"`{option.field}`" if option.field else "",
        option.shown_default or (f"`{option.default}`" if option.default else "none"),
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def lines() -> Iterator[str]:
        yield _row(head)
        yield "|" + "---|" * len(head)
        yield from map(_row, rows)

    return "".join(f"{line}\n" for line in lines())


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
