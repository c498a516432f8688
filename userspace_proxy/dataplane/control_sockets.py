"""Where the next agent finds the workers of this one: a Unix socket for each, in a folder of root's own.

The folder is named after the network namespace (by its inode), because several nodes may share a `/run`. The
agent binds a socket's file and gives the socket to a worker, which listens once it has given up its
privileges: SO_PEERCRED then tells whoever connects that the worker is at the other end, and not us. A file
outlives its process, so whoever finds nobody behind one removes it, unless that may be a worker which is just
starting: whoever starts workers here holds a shared lock on the folder, and removing takes an exclusive one.
Source: unix(7), flock(2).
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from userspace_proxy.errors import StartupError

logger = logging.getLogger(__name__)

_UNIX_SOCKETS: Final = Path("/proc/self/net/unix")
_CONNECT_SECONDS: Final = 2.0
_TRIES: Final = 10
_PREFIX: Final = "worker-"


class ControlSockets:
    """The sockets of one network namespace, under `directory`. Nothing is made before it is needed.

    `remove` is for the end, and closes what `prepare` opened.
    """

    def __init__(self, directory: Path) -> None:
        self.folder = directory / str(Path("/proc/self/ns/net").stat().st_ino)
        self._bound: set[Path] = set()
        self._locked: int | None = None

    def prepare(self) -> None:
        """Make the folder, for root alone, and let nobody remove it any more. Safe to repeat.

        Raises `StartupError` if that cannot be, or if it is somebody else's.
        """
        try:
            for _ in range(_TRIES):
                with suppress(FileNotFoundError):  # an agent that ended at this moment has removed it
                    self._make()
                    if self._lock():
                        return
            raise FileNotFoundError("it is removed again and again")
        except OSError as error:
            raise StartupError(
                f"--state-directory: workers cannot have their sockets in {self.folder}: {error}"
            ) from error

    def _make(self) -> None:
        for path in (self.folder.parent, self.folder):
            path.mkdir(mode=0o700, exist_ok=True)
            status = path.stat()
            if status.st_uid != os.geteuid():
                raise PermissionError(f"{path} belongs to user {status.st_uid}")
            path.chmod(0o700)

    def _lock(self) -> bool:
        """Hold the shared lock; False if by then the folder is another one."""
        self._unlock()
        self._locked = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._locked, fcntl.LOCK_SH)
        return os.path.samestat(os.fstat(self._locked), self.folder.stat())

    def _unlock(self) -> None:
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def bind(self) -> tuple[socket.socket, Path]:
        """A socket that a worker is to listen on, and its file. Raises `OSError`.

        Where no file can be made, on a full disk say, the worker is one that no other agent will find: it is
        better than none.
        """
        self._bound = {path for path in self._bound if path.exists()}
        path = self.folder / f"{_PREFIX}{secrets.token_hex(4)}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            try:
                sock.bind(str(path))
            except OSError as error:
                logger.warning(
                    "Worker cannot be handed over to a next agent, its socket has no file: file=%s %s; "
                    "make room in --state-directory",
                    path,
                    error.strerror,
                )
                sock.bind("")  # a name of the kernel's choice, in no file system; unix(7), autobind
        except BaseException:
            sock.close()
            raise
        self._bound.add(path)
        return sock, path

    def connect(self) -> Iterator[tuple[socket.socket, Path]]:
        """A connection to each worker of others that listens; files behind which nobody does are removed."""
        try:
            paths = sorted({*self._files()} - self._bound)
        except FileNotFoundError:
            return
        left: list[Path] = []
        for path in paths:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(_CONNECT_SECONDS)
            try:
                sock.connect(str(path))
            except ConnectionRefusedError:
                sock.close()
                left.append(path)
            except OSError:
                sock.close()  # a worker that takes no connections, or no socket at all: not ours to judge
            else:
                yield sock, path
        self._unlink(left)

    def remove_left(self) -> None:
        """Remove the files of workers that have ended, as `connect` does, but speak to none. For a thread.

        A worker of an earlier agent that drains ends by itself some day, and cannot remove a file of root's.
        """
        try:
            paths = {*self._files()} - self._bound
        except FileNotFoundError:
            return
        # By the last part of the name, which chance made: the folder may be mounted elsewhere for others.
        bound = {line.rpartition("/")[2] for line in _UNIX_SOCKETS.read_text().splitlines()}
        self._unlink([path for path in paths if path.name not in bound])

    def _files(self) -> Iterator[Path]:
        """The workers'; the agent's own socket is somebody else's business. Raises `FileNotFoundError`."""
        return (path for path in self.folder.iterdir() if path.name.startswith(_PREFIX))

    def _unlink(self, left: Iterable[Path]) -> None:
        with self._alone() as is_alone:
            for path in left if is_alone else ():
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, and its parent, if nothing is left in them and nobody else uses them."""
        with self._alone() as is_alone, suppress(OSError):
            if is_alone:
                self.folder.rmdir()
                self.folder.parent.rmdir()
        self._unlock()

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other agent starts workers in the folder, and none begins to while the body runs."""
        try:
            folder = (
                os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY) if self._locked is None else self._locked
            )
        except FileNotFoundError:
            yield False
            return
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            if folder == self._locked:
                fcntl.flock(folder, fcntl.LOCK_SH)
            else:
                os.close(folder)
