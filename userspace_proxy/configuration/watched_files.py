"""Files that are looked at now and then: which of them is another one than before?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 1.0

_Version = tuple[int, int, int] | str


class WatchedFiles:
    """Looks by stat alone, through symbolic links, so that a ConfigMap's swap of `..data` is seen, too.

    What was there when this was made is what it compares with: make it before the files are read.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._wait = wait
        self._known = {path: _version(path) for path in paths}

    def add(self, path: Path) -> None:
        """Watch this one, too, from what it is now."""
        self._known.setdefault(path, _version(path))

    def next_change(self, ended: threading.Event) -> set[Path]:
        """Block until files have changed and rest, and say which; none once it is `ended`.

        A file that is gone has changed, too. Half of a file is often a good one: so two looks have to agree.
        """
        if not self._known:
            ended.wait()
        seen = dict(self._known)
        while not self._wait(ended, POLL_SECONDS):
            before, seen = seen, {path: _version(path) for path in self._known}
            changed = {path for path, version in seen.items() if version == before[path] != self._known[path]}
            if changed:
                self._known.update({path: seen[path] for path in changed})
                return changed
        return set()


def _version(path: Path) -> _Version:
    """What tells one content from another without reading it, or why none can be told.

    A file's change time cannot be set back.
    """
    try:
        status = path.stat()
    except OSError as error:
        return error.strerror or str(error)
    return status.st_ctime_ns, status.st_size, status.st_ino
