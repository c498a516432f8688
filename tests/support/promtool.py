from __future__ import annotations

import shutil
from pathlib import Path

import pytest

_SET_UP = Path(__file__).parents[2] / ".venv" / "bin" / "promtool"
"""Where scripts/setup.sh puts it."""


def promtool() -> str:
    """The program's path; without one the test is skipped."""
    found = shutil.which("promtool") or shutil.which(_SET_UP)
    if found is None:
        pytest.skip("there is no promtool: Debian's and Ubuntu's package `prometheus` has it")
    return found
