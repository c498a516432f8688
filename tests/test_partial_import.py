"""Modules of a library whose packages would import all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from userspace_proxy.partial_import import bare_packages


def test_modules_come_without_what_their_packages_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "big_library" / "inner"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("raise AssertionError('the whole of it')")
    (package / "wanted.py").write_text("answer = 42")
    monkeypatch.syspath_prepend(tmp_path)
    with bare_packages("big_library", "big_library.inner"):
        from big_library.inner.wanted import answer  # type: ignore[import-not-found]
    assert answer == 42
    assert not [name for name in sys.modules if name.startswith("big_library")]
    with pytest.raises(AssertionError, match="the whole of it"):
        import big_library  # type: ignore[import-not-found]  # noqa: F401


@pytest.mark.parametrize("names", [("not_there",), ("json", "json.decoder"), ("email", "email.not_there")])
def test_what_is_no_package_is_said_and_nothing_stays(names: tuple[str, ...]) -> None:
    script = (
        f"import sys; from userspace_proxy.partial_import import bare_packages; names = {names}\n"
        "for name in [name for name in sys.modules if name.partition('.')[0] == names[0]]:\n"
        "    del sys.modules[name]\n"
        "try:\n"
        "    with bare_packages(*names): print('came in')\n"
        "except ModuleNotFoundError as error: print(error)\n"
        "print([name for name in names if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == f"No package named {names[-1]!r}\n[]\n"


def test_a_library_that_is_there_stays_as_it_is() -> None:
    import json

    with bare_packages("json"):
        assert sys.modules["json"] is json
    assert sys.modules["json"] is json
