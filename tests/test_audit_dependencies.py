"""What `tox -e audit` says and ends with, by what pip-audit answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "audit_dependencies.py"
GOOD = {"name": "good", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "unknown", "version": "3", "skip_reason": "not found on PyPI"}


def answer(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("printed", "status", "said"),
    [
        (answer(GOOD, UNKNOWN), 0, "looked at 1 packages of 2"),
        (answer(GOOD, BAD), 1, "bad 2: PYSEC-1, mended in 2.1"),
        (answer(UNKNOWN), 0, "could not look: the index knows nothing of 1 packages"),
        ("", 0, "could not look: pip-audit ended with 0\n"),
        ("[]", 0, "could not look: pip-audit ended with 0\n"),
    ],
)
def test_vulnerabilities_fail_and_being_offline_does_not(
    tmp_path: Path, printed: str, status: int, said: str
) -> None:
    (tmp_path / "pip_audit.py").write_text(f"print({printed!r})")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, said in ended.stdout) == (status, True)


def test_without_an_index_the_reason_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "pip_audit.py").write_text("raise ConnectionError('pypi.org cannot be resolved')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    said = "could not look: ConnectionError: pypi.org cannot be resolved\n"
    assert (ended.returncode, ended.stdout) == (0, said)
