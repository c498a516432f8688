"""A directory of manifests as a source: what stands in its files is what there is.

The directory is looked at every `POLL_SECONDS`, by stat alone, rather than watched through inotify: the same
few lines then work on every filesystem, and for a directory that is a symlink, is swapped (`..data` of a
mounted ConfigMap) or goes away and comes back.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from userspace_proxy.core.cluster_state import ObjectId, id_of
from userspace_proxy.core.objects import ApiObject, Kind, Listed, kind_of
from userspace_proxy.core.problem import Problem
from userspace_proxy.errors import SourceError
from userspace_proxy.sources import Followed, Sink
from userspace_proxy.sources.manifest_file import Manifest, UnreadableManifestError, parse_manifest

POLL_SECONDS = 0.2
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_PROBLEMS_PER_FILE = 100
SUFFIXES = frozenset({".yaml", ".yml", ".json"})


class ManifestsSource:
    """Reads `*.yaml`, `*.yml` and `*.json` directly in `directory`, except names that start with a dot."""

    def __init__(
        self, directory: Path, wait: Callable[[threading.Event, float], bool] = threading.Event.wait
    ) -> None:
        self._directory = directory
        self._wait = wait
        self._origins: Mapping[ObjectId, str] = {}
        self._since: float | None = None

    @property
    def write_event(self) -> None:
        """Nobody reads Events in a directory."""

    def origin_of(self, key: ObjectId) -> str:
        """The file that an observed object stands in; the directory if it stands in none any more."""
        return self._origins.get(key, str(self._directory))

    def state(self) -> Followed:
        """Where that is, and since when it is read."""
        return Followed(f"manifests in {self._directory}", self._since, {})

    async def check(self) -> None:
        """Raise `SourceError` if the directory cannot be read."""
        await asyncio.to_thread(_Directory(self._directory).look)

    async def renew(self) -> None:
        """There is nothing but the directory."""

    async def run(self, sink: Sink) -> None:
        """Feed `sink` for ever: all kinds at the start, and again whenever a file changes.

        What cannot be read any more, a file or the whole directory, counts as it last could. Raises
        `SourceError` if there is no such directory at the start.
        """
        directory = _Directory(self._directory)
        reported: dict[str, tuple[Problem, ...]] = {}
        ended = threading.Event()
        try:
            contents = await asyncio.to_thread(directory.look)
            self._since = time.time()
            while contents is not None:
                self._origins = contents.origins
                sink.observe(contents.listed())
                for scope in sorted(reported.keys() | contents.problems.keys()):
                    problems = contents.problems.get(scope, ())
                    if problems != reported.get(scope, ()):
                        sink.report(scope, problems)
                reported = contents.problems
                contents = await asyncio.to_thread(self._next, directory, ended)
        finally:
            ended.set()

    def _next(self, directory: _Directory, ended: threading.Event) -> _Contents | None:
        """Look until something has changed, and return what there is then; None once it is `ended`.

        The waiting is done in the thread too, so that a look that finds nothing wakes nobody else.
        """
        while not self._wait(ended, POLL_SECONDS):
            contents = directory.look()
            if contents is not None:
                return contents
        return None


@dataclass(frozen=True, slots=True)
class _Contents:
    """All objects of a directory, the file of each, and per path what is wrong there."""

    objects: tuple[ApiObject, ...]
    origins: Mapping[ObjectId, str]
    problems: dict[str, tuple[Problem, ...]]

    def listed(self) -> list[Listed]:
        return [Listed(kind, tuple(item for item in self.objects if kind_of(item) is kind)) for kind in Kind]


@dataclass(frozen=True, slots=True)
class _Version:
    """What tells one content of a file from another without reading it; ctime cannot be set back."""

    ctime_ns: int
    size: int
    inode: int


@dataclass(frozen=True, slots=True)
class _File:
    """A file as last read. `failure` says why its latest version could not be; `manifest` is older then."""

    version: _Version | str | None = field(compare=False)
    manifest: Manifest = field(default_factory=Manifest)
    failure: str = ""


class _Directory:
    """The files as they were last read. Its one method blocks and is not for two threads at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, _Version | str] | None = None
        self._files: dict[str, _File] = {}
        self._failure = ""

    def look(self) -> _Contents | None:
        """Read what changed since the last look. Returns None if nothing did."""
        is_first = self._seen is None
        before = (self._failure, dict(self._files))
        try:
            versions = _versions(self._path)
        except OSError as error:
            if is_first:
                raise SourceError(
                    f"cannot read the manifests in {self._path}: {error.strerror or error}"
                ) from error
            self._failure = f"cannot be read, and counts as it last could: {error.strerror or error}"
        else:
            self._failure = ""
            seen = self._seen or {}
            # Editors take a file away before they put the new one there: it is gone when it stays away.
            missing = {name for name in self._files if name in seen and name not in versions}
            current = (
                (name, self._files[name] if name in missing else self._current(name, versions[name]))
                for name in sorted(versions.keys() | missing)
            )
            self._files = {name: file for name, file in current if file is not None}
            self._seen = versions
        return self._contents() if is_first or before != (self._failure, self._files) else None

    def _current(self, name: str, version: _Version | str) -> _File | None:
        known = self._files.get(name)
        if known is not None and known.version == version:
            return known
        # Half of a YAML file is often a good YAML file: a file in change is read when it rests.
        if self._seen is not None and self._seen.get(name) != version:
            return known
        manifest = known.manifest if known else Manifest()
        if isinstance(version, str):
            return _File(version, manifest, f"cannot be read: {version}")
        if version.size > MAX_FILE_BYTES:
            return _File(version, manifest, f"is larger than {MAX_FILE_BYTES >> 20} MiB")
        try:
            return _File(version, parse_manifest(self._shown(name), (self._path / name).read_bytes()))
        except OSError as error:
            return _File(None, manifest, f"cannot be read: {error.strerror or error}")
        except UnreadableManifestError as error:
            return _File(version, manifest, str(error))

    def _shown(self, name: str) -> str:
        return os.fsencode(self._path / name).decode(errors="replace")

    def _contents(self) -> _Contents:
        """All files together: of an object that stands twice the first counts, by order of file names."""
        origins: dict[ObjectId, str] = {}
        objects: list[ApiObject] = []
        problems: dict[str, tuple[Problem, ...]] = {}
        if self._failure:
            path = str(self._path)
            problems[path] = (Problem(path, "", "", "", "", self._failure),)
        for name, file in self._files.items():
            path = self._shown(name)
            found = [Problem(path, "", "", "", "", file.failure)] if file.failure else []
            found.extend(file.manifest.problems)
            for item in file.manifest.objects:
                key = id_of(item)
                if key in origins:
                    reason = f"is already in {origins[key]}, which counts"
                    found.append(Problem(path, key.kind.value, key.namespace, key.name, "", reason))
                else:
                    origins[key] = path
                    objects.append(item)
            if len(found) > MAX_PROBLEMS_PER_FILE:
                more = len(found) - MAX_PROBLEMS_PER_FILE
                found[MAX_PROBLEMS_PER_FILE:] = [Problem(path, "", "", "", "", f"{more} more problems")]
            if found:
                problems[path] = tuple(found)
        return _Contents(tuple(objects), origins, problems)


def _versions(directory: Path) -> dict[str, _Version | str]:
    """The manifest files in `directory` by name, symlinks followed; why, where the system shows no version.

    Raises OSError if the directory cannot be listed.
    """
    versions: dict[str, _Version | str] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(".") or Path(entry.name).suffix not in SUFFIXES:
                continue
            try:
                status = entry.stat()
            except OSError as error:
                if entry.is_symlink() or not isinstance(error, FileNotFoundError):  # else deleted meanwhile
                    versions[entry.name] = error.strerror or str(error)
                continue
            if stat.S_ISREG(status.st_mode):
                versions[entry.name] = _Version(status.st_ctime_ns, status.st_size, status.st_ino)
    return versions
