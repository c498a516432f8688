"""Two builds are told apart, though they may be of one version."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from userspace_proxy.dataplane.build_identity import build_identity


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "core").mkdir()
    (tmp_path / "messages.py").write_text("a = 1\n")
    (tmp_path / "core/other.py").write_text("b = 2\n")
    return tmp_path


def test_one_build_is_itself_wherever_it_is(package: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy")
    (copy / "core").mkdir()
    for name in ("core/other.py", "messages.py"):
        (copy / name).write_bytes((package / name).read_bytes())
    (copy / "messages.pyc").write_bytes(b"compiled")
    assert build_identity(copy) == build_identity(package)
    assert build_identity() == build_identity() != build_identity(package)


@pytest.mark.parametrize(
    "change",
    [
        lambda package: (package / "messages.py").write_text("a = 3\n"),
        lambda package: (package / "messages.py").rename(package / "core/messages.py"),
        lambda package: (package / "core/another.py").touch(),
        lambda package: (package / "core/other.py").unlink(),
    ],
)
def test_a_change_in_any_file_makes_another_build(package: Path, change: Callable[[Path], object]) -> None:
    before = build_identity(package)
    change(package)
    assert build_identity(package) != before


def test_another_python_makes_another_build(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build_identity(package)
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    assert build_identity(package) != before
