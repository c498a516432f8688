"""The folder of a demo cluster: whose it is, who holds it, what stays in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from userspace_proxy.demo import state_directory
from userspace_proxy.errors import StartupError


def test_one_at_a_time_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "cluster"
    held = state_directory.lock(path)
    assert held is not None
    assert path.stat().st_mode & 0o777 == 0o700
    assert state_directory.lock(path) is None
    os.close(held)
    again = state_directory.lock(path)
    assert again is not None
    os.close(again)


def test_a_folder_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    with pytest.raises(StartupError, match="is open to others"):
        state_directory.lock(path)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path / "file", tmp_path / "link", tmp_path / "none" / "cluster"):
        with pytest.raises(StartupError, match=str(path)):
            state_directory.lock(path)


def test_all_but_the_objects_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "node-1.log").write_text("")
    for name in ("state.db", "state.db-wal", "cluster.json", "kubeconfig", "control.sock"):
        (tmp_path / name).write_text("")
    state_directory.clear(tmp_path, keep=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.json", "state.db", "state.db-wal"]
    state_directory.clear(tmp_path, keep=False)
    assert list(tmp_path.iterdir()) == []


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(state_directory.VARIABLE, str(tmp_path))
    assert state_directory.default_path() == tmp_path
    monkeypatch.delenv(state_directory.VARIABLE)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_directory.default_path() == Path("/run/userspace-proxy-demo")
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert state_directory.default_path() == tmp_path / "userspace-proxy-demo"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    assert state_directory.default_path() == Path("/tmp/userspace-proxy-demo-1001")
