"""docs/admin-protocol.md has what each method takes, and every code of an error."""

from __future__ import annotations

import re
from pathlib import Path

from userspace_proxy.admin.protocol import MAX_REQUEST_BYTES, VERSION, ErrorCode, NoParameters
from userspace_proxy.core.answers.connections import ConnectionsQuestion
from userspace_proxy.core.answers.ejections import EjectParameters, UnejectParameters
from userspace_proxy.core.answers.endpoints import EndpointsQuestion
from userspace_proxy.core.answers.rules import RulesQuestion
from userspace_proxy.core.answers.services import NamesQuestion, ServicesQuestion
from userspace_proxy.core.answers.top import TopQuestion
from userspace_proxy.core.answers.trace import TraceQuestion
from userspace_proxy.core.answers.verbosity import VerbosityQuestion

PAGE = (Path(__file__).parent.parent / "docs" / "admin-protocol.md").read_text()
METHODS = {
    "status": NoParameters,
    "services": ServicesQuestion,
    "endpoints": EndpointsQuestion,
    "rules": RulesQuestion,
    "trace": TraceQuestion,
    "connections": ConnectionsQuestion,
    "top": TopQuestion,
    "eject": EjectParameters,
    "uneject": UnejectParameters,
    "log-level": VerbosityQuestion,
    "names": NamesQuestion,
}


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    table = PAGE.partition(heading)[2].partition("|---|")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]


def test_each_method_takes_what_the_page_says() -> None:
    said = {row[0].strip("`"): set(re.findall("`([^`]+)`", row[1])) for row in rows("## Methods")}
    assert said == {name: {*taken.__struct_encode_fields__} for name, taken in METHODS.items()}


def test_every_code_is_on_the_page() -> None:
    said = {code for row in rows("its client hangs up.") for code in re.findall("`([^`]+)`", row[0])}
    assert said == {code.value for code in ErrorCode}


def test_bounds_and_version_are_those_of_the_page() -> None:
    assert f"of {MAX_REQUEST_BYTES:,} bytes at most" in PAGE
    assert f"knows; {VERSION}, the only one" in PAGE
