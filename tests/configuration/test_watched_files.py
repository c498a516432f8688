from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from userspace_proxy.configuration.watched_files import WatchedFiles


class Looks:
    """Something to happen before each look; after the last of them the watching has ended."""

    def __init__(self, *happenings: Callable[[], object]) -> None:
        self._happenings = list(happenings)

    def __call__(self, ended: threading.Event, seconds: float) -> bool:
        if not self._happenings:
            return True
        self._happenings.pop(0)()
        return False


def nothing() -> None:
    pass


def changes(paths: list[Path], *happenings: Callable[[], object]) -> list[set[Path]]:
    """What is said to have changed while these things happen, one before each look."""
    watched = WatchedFiles(paths, Looks(*happenings))
    found = []
    while changed := watched.next_change(threading.Event()):
        found.append(changed)
    return found


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("before")
    return paths


def test_nothing_has_changed(files: list[Path]) -> None:
    assert changes(files, nothing, nothing) == []


def test_a_file_that_was_written_is_named_once_it_rests(files: list[Path]) -> None:
    once, twice = partial(files[0].write_text, "1"), partial(files[0].write_text, "12")
    assert changes(files, once, twice, nothing) == [{files[0]}]
    assert changes(files, once, twice) == []


def test_a_file_that_is_replaced_goes_and_comes_back_has_changed_each_time(files: list[Path]) -> None:
    other = files[0].with_name("other")
    other.write_text("after")
    replace, write = partial(other.rename, files[0]), partial(files[1].write_text, "again")
    assert changes(files, replace, nothing, files[1].unlink, nothing, write, nothing) == [
        {files[0]},
        {files[1]},
        {files[1]},
    ]


def test_the_swap_of_a_config_map_is_seen_through_its_links(tmp_path: Path) -> None:
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "config.conf").write_text("the same length")
    (tmp_path / "..data").symlink_to("1")
    path = tmp_path / "config.conf"
    path.symlink_to("..data/config.conf")

    def swap() -> None:
        (tmp_path / "..data_tmp").symlink_to("2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    assert changes([path], nothing, swap, nothing, nothing) == [{path}]


def test_what_changes_while_nobody_looks_is_not_missed(files: list[Path]) -> None:
    watched = WatchedFiles(files, Looks(nothing, nothing))
    files[0].write_text("after")
    assert watched.next_change(threading.Event()) == {files[0]}


def test_it_ends_when_it_is_told(files: list[Path]) -> None:
    ended = threading.Event()
    ended.set()
    for paths in (files, []):
        assert WatchedFiles(paths).next_change(ended) == set()
