"""Another build of the package, of the same version: a copy whose agent and workers speak other messages."""

from __future__ import annotations

import shutil
from pathlib import Path

import userspace_proxy


def other_version(folder: Path) -> Path:
    """Make one in `folder`; where it runs by `python -m userspace_proxy`, it is the one that is imported."""
    package = folder / "userspace_proxy"
    shutil.copytree(
        Path(userspace_proxy.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    _replace(package / "dataplane/messages.py", 'tag="configure"', 'tag="told-otherwise"')
    _replace(package / "dataplane/messages.py", 'tag="start"', 'tag="begun-otherwise"')
    return folder


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
