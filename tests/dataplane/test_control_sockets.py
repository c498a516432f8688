"""Where workers are found, with several agents there at one moment."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.errors import StartupError


def prepared(directory: Path) -> ControlSockets:
    control_sockets = ControlSockets(directory / "state")
    control_sockets.prepare()
    return control_sockets


def found(control_sockets: ControlSockets) -> list[Path]:
    paths = []
    for sock, path in control_sockets.connect():
        sock.close()
        paths.append(path)
    return paths


def test_who_listens_is_found_and_what_a_worker_left_is_removed(tmp_path: Path) -> None:
    first = prepared(tmp_path)
    (serving, there), (ended, _), (unknown, _) = first.bind(), first.bind(), first.bind()
    serving.listen()
    for sock in (ended, unknown):
        sock.close()
    first.remove()
    with serving:
        second = prepared(tmp_path)
        assert found(second) == [there]
        assert list(second.folder.iterdir()) == [there]
        second.remove()
        assert second.folder.exists()
    third = prepared(tmp_path)
    assert found(third) == []
    third.remove()
    assert not third.folder.parent.exists()


def test_what_workers_leave_later_is_removed_without_a_word_to_the_others(tmp_path: Path) -> None:
    earlier, present = prepared(tmp_path), prepared(tmp_path)
    (serving, there), (starting, new), (ended, _) = earlier.bind(), earlier.bind(), earlier.bind()
    own, own_path = present.bind()
    serving.listen()
    ended.close()
    with serving, starting, own:
        present.remove_left()
        assert len(list(present.folder.iterdir())) == 4  # the other agent may be starting a worker
        earlier.remove()
        present.remove_left()
        assert {*present.folder.iterdir()} == {there, new, own_path}
        serving.setblocking(False)
        with pytest.raises(BlockingIOError):
            serving.accept()
    present.remove()
    present.remove_left()  # nothing is there


def test_a_worker_that_is_just_starting_keeps_its_file(tmp_path: Path) -> None:
    """Another agent starts beside this one, and has bound a socket on which nobody listens yet."""
    present, next_one = prepared(tmp_path), prepared(tmp_path)
    sock, path = next_one.bind()
    with sock:
        assert found(present) == []
        assert path.exists()
        sock.listen()
        assert found(present) == [path]
    present.remove()
    next_one.remove()


def test_an_agent_that_ends_leaves_the_folder_to_the_one_that_starts(tmp_path: Path) -> None:
    present, next_one = prepared(tmp_path), prepared(tmp_path)
    present.remove()
    sock, path = next_one.bind()
    with sock:
        assert path.exists()
    path.unlink()
    next_one.remove()
    assert not next_one.folder.exists()


def test_a_folder_that_is_removed_in_between_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_sockets = ControlSockets(tmp_path / "state")
    opened, removals = os.open, iter([True, False])

    def open_late(path: Path, flags: int) -> int:
        if next(removals):
            path.rmdir()
        return opened(path, flags)

    monkeypatch.setattr(os, "open", open_late)
    control_sockets.prepare()
    assert control_sockets.folder.exists()
    control_sockets.remove()


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StartupError, match="belongs to user"):
        ControlSockets(tmp_path / "state").prepare()


def test_without_a_file_there_is_a_worker_all_the_same(tmp_path: Path) -> None:
    control_sockets = ControlSockets(tmp_path / "there is no such folder")
    sock, path = control_sockets.bind()
    with closing(sock):
        assert not path.exists()
        sock.listen()


def test_only_files_that_are_there_are_remembered(tmp_path: Path) -> None:
    control_sockets = prepared(tmp_path)
    for _ in range(5):
        sock, path = control_sockets.bind()
        sock.close()
        path.unlink()
    assert len(control_sockets._bound) == 1
    control_sockets.remove()
