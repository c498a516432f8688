from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.recording_sink import RecordingSink, running
from userspace_proxy.core.objects import Kind, Listed
from userspace_proxy.errors import SourceError
from userspace_proxy.sources import manifests
from userspace_proxy.sources.manifests import ManifestsSource


def service(name: str, cluster_ip: str = "10.96.0.1") -> str:
    spec = f"{{clusterIP: {cluster_ip}}}"
    return f"---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {spec}}}\n"


def play(directory: Path, scene: Callable[[RecordingSink], Awaitable[None]]) -> RecordingSink:
    """Run a source over `directory` while `scene` changes things and waits for what follows."""

    async def run() -> RecordingSink:
        async with running(ManifestsSource(directory)) as sink:
            await sink.until(lambda: sink.listings(Kind.NODE))
            await scene(sink)
        return sink

    return asyncio.run(run())


async def nothing(_: RecordingSink) -> None:
    pass


def test_the_start_lists_every_kind_even_of_an_empty_directory(tmp_path: Path) -> None:
    sink = play(tmp_path, nothing)
    assert sink.observed == [tuple(Listed(kind, ()) for kind in Kind)]
    assert sink.reports == 0


def test_files_that_are_edited_added_and_removed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a"))
    (tmp_path / "b.yml").write_text(service("b"))
    (tmp_path / "c.json").write_text('{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "c"}}')
    for ignored in (".hidden.yaml", "notes.txt", "a.yaml~"):
        (tmp_path / ignored).write_text(service("ignored"))
    (tmp_path / "directory.yaml").mkdir()
    (tmp_path / "nowhere.yaml").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe.yaml")

    async def scene(sink: RecordingSink) -> None:
        assert sink.names() == ["default/a", "default/b", "default/c"]
        started = asyncio.get_running_loop().time()
        (tmp_path / "a.yaml").write_text(service("a") + service("a2"))
        await sink.until(lambda: "default/a2" in sink.names())
        assert asyncio.get_running_loop().time() - started < 1
        (tmp_path / "new.yaml").write_text(service("new"))
        await sink.until(lambda: "default/new" in sink.names())
        (tmp_path / "b.yml").unlink()
        await sink.until(lambda: "default/b" not in sink.names())
        (tmp_path / "new.yaml").rename(tmp_path / "new.txt")
        await sink.until(lambda: sink.names() == ["default/a", "default/a2", "default/c"])

    play(tmp_path, scene)


def test_nothing_is_told_while_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a"))
    looks = 0

    def count(ended: threading.Event, seconds: float) -> bool:
        nonlocal looks
        looks += 1
        if looks == 3:
            os.utime(tmp_path / "a.yaml")
        return ended.is_set()

    async def run() -> None:
        async with running(ManifestsSource(tmp_path, wait=count)) as sink:
            async with asyncio.timeout(10):
                while looks < 10:
                    await asyncio.sleep(0.001)
            assert len(sink.observed) == 1

    asyncio.run(run())


def test_a_file_in_change_is_read_when_it_rests(tmp_path: Path) -> None:
    """Half of a YAML file is often a good one; what it lacks must not vanish meanwhile."""
    file = tmp_path / "a.yaml"
    file.write_text(service("a") + service("b"))
    looks = 0

    def write_slowly(ended: threading.Event, seconds: float) -> bool:
        nonlocal looks
        looks += 1
        if looks <= 5:
            file.write_text(service("a") + "#" * looks)
        elif looks == 6:
            file.write_text(service("a") + service("b") + service("c"))
        return ended.wait(0.001)

    async def run() -> None:
        async with running(ManifestsSource(tmp_path, wait=write_slowly)) as sink:
            await sink.until(lambda: "default/c" in sink.names())
            assert len(sink.observed) == 2

    asyncio.run(run())


def test_an_object_that_moves_to_another_file_is_there_all_the_time(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(service("moving"))

    async def scene(sink: RecordingSink) -> None:
        (tmp_path / "new.yaml").write_text(service("moving"))
        (tmp_path / "old.yaml").unlink()
        (tmp_path / "other.yaml").write_text(service("other"))
        await sink.until(lambda: "default/other" in sink.names())
        (tmp_path / "new.yaml").rename(tmp_path / "newer.yaml")
        (tmp_path / "other.yaml").unlink()
        await sink.until(lambda: "default/other" not in sink.names())

    sink = play(tmp_path, scene)
    seen = [
        {item.metadata.name for item in event.objects}
        for events in sink.observed
        for event in events
        if isinstance(event, Listed) and event.kind is Kind.SERVICE
    ]
    assert all("moving" in names for names in seen)


def test_a_file_that_breaks_counts_as_it_last_was(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(service("a"))

    async def scene(sink: RecordingSink) -> None:
        file.write_text(service("a") + "a: [")
        await sink.until(lambda: sink.problems)
        assert sink.problem_texts() == ["is no YAML: line 3: did not find expected <document start>"]
        assert sink.names() == ["default/a"]
        file.write_text(service("mended"))
        await sink.until(lambda: not sink.problems)
        assert sink.names() == ["default/mended"]

    play(tmp_path, scene)


def test_a_file_that_never_was_good_is_named_and_the_others_work(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yaml").write_text(service("b"))
    sink = play(tmp_path, nothing)
    assert sink.names() == ["default/b"]
    assert list(sink.problems) == [str(tmp_path / "a.yaml")]


def test_a_link_that_leads_nowhere_counts_as_it_last_did(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text(service("a"))
    (tmp_path / "a.yaml").symlink_to(target)
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")

    async def scene(sink: RecordingSink) -> None:
        await sink.until(lambda: list(sink.problems) == [str(tmp_path / "loop.yaml")])
        target.unlink()
        await sink.until(lambda: str(tmp_path / "a.yaml") in sink.problems)
        assert "cannot be read: No such file or directory" in sink.problem_texts()
        assert sink.names() == ["default/a"]
        (tmp_path / "a.yaml").unlink()
        (tmp_path / "loop.yaml").unlink()
        await sink.until(lambda: not sink.problems and not sink.names())

    play(tmp_path, scene)


def test_a_file_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a.yaml").open("w") as file:
        file.truncate(manifests.MAX_FILE_BYTES + 1)
    assert play(tmp_path, nothing).problem_texts() == ["is larger than 64 MiB"]


def test_of_an_object_that_stands_twice_the_first_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text(service("a", "10.96.0.1"))
    second.write_text(service("a", "10.96.0.2"))

    def cluster_ip(sink: RecordingSink) -> str | None:
        (item,) = sink.objects.values()
        return item.spec.cluster_ip  # type: ignore[union-attr]

    async def scene(sink: RecordingSink) -> None:
        assert cluster_ip(sink) == "10.96.0.1"
        assert list(sink.problems) == [str(second)]
        assert sink.problem_texts() == [f"Service default/a: is already in {first}, which counts"]
        first.unlink()
        await sink.until(lambda: cluster_ip(sink) == "10.96.0.2" and not sink.problems)

    play(tmp_path, scene)


def test_a_file_that_an_editor_replaces_is_never_gone(tmp_path: Path) -> None:
    """It is taken away, and a moment later the new one is there; a look may come between."""
    file = tmp_path / "a.yaml"
    file.write_text(service("a"))
    directory = manifests._Directory(tmp_path)
    looks = [directory.look()]
    file.unlink()
    looks.append(directory.look())
    file.write_text(service("a") + service("b"))
    looks += [directory.look(), directory.look()]
    names = [[item.metadata.name for item in contents.objects] for contents in looks if contents]
    assert names == [["a"], ["a", "b"]]


def test_problems_are_reported_until_they_are_gone(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("\n---\n".join(["{}"] * 150))

    async def scene(sink: RecordingSink) -> None:
        assert len(sink.problems[str(file)]) == manifests.MAX_PROBLEMS_PER_FILE + 1
        assert str(sink.problems[str(file)][-1]) == f"{file}: 50 more problems"
        file.unlink()
        await sink.until(lambda: not sink.problems)

    assert play(tmp_path, scene).reports == 2


def test_a_mounted_configmap_is_swapped(tmp_path: Path) -> None:
    """Kubelet's way: files are symlinks through `..data`, which is replaced by rename."""
    for version in ("old", "new"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "a.yaml").write_text(service(version))
    (tmp_path / "..data").symlink_to("..old")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")

    async def scene(sink: RecordingSink) -> None:
        assert sink.names() == ["default/old"]
        (tmp_path / "..tmp").symlink_to("..new")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        await sink.until(lambda: sink.names() == ["default/new"])

    play(tmp_path, scene)


def test_a_directory_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "a.yaml").write_text(service("a"))

    async def scene(sink: RecordingSink) -> None:
        shutil.rmtree(directory)
        await sink.until(lambda: str(directory) in sink.problems)
        assert "default/a" in sink.names() or not sink.names()
        directory.mkdir()
        (directory / "a.yaml").write_text(service("back"))
        await sink.until(lambda: sink.names() == ["default/back"] and not sink.problems)

    play(directory, scene)


def test_a_directory_that_is_renamed_away_counts_as_it_last_was(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "a.yaml").write_text(service("a"))

    async def scene(sink: RecordingSink) -> None:
        directory.rename(tmp_path / "elsewhere")
        await sink.until(lambda: str(directory) in sink.problems)
        assert sink.names() == ["default/a"]
        (tmp_path / "elsewhere").rename(directory)
        await sink.until(lambda: not sink.problems)

    play(directory, scene)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("")])
def test_a_directory_that_is_none_is_an_error(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "manifests")

    source = ManifestsSource(tmp_path / "manifests")

    async def run() -> None:
        await source.run(RecordingSink())

    with pytest.raises(SourceError, match=f"cannot read the manifests in {tmp_path}/manifests: "):
        asyncio.run(source.check())
    with pytest.raises(SourceError, match=f"cannot read the manifests in {tmp_path}/manifests: "):
        asyncio.run(run())
