"""An import gives way to others, and nothing after it does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from userspace_proxy.agent.gentle_import import import_gently

MODULE = """
import os

NICE = os.getpriority(os.PRIO_PROCESS, 0)
"""


def test_a_module_is_imported_gently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gently_imported.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    import_gently("gently_imported")
    assert min(before + 5, 19) == sys.modules.pop("gently_imported").NICE
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_a_module_that_is_not_there_is_missed_as_always() -> None:
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        import_gently("not_there")
