"""Where the next agent finds the workers of this one: a Unix socket for each, in a folder of root's own.

The folder is named after the network namespace (by its inode), because several nodes may share a `/run`. The
agent binds a socket's file and gives the socket to a worker, which listens once it has given up its
privileges: SO_PEERCRED then tells whoever connects that the worker is at the other end, and not us. A file
outlives its process, so whoever finds nobody behind one removes it. Source: unix(7).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from userspace_proxy.errors import StartupError

logger = logging.getLogger(__name__)

_CONNECT_SECONDS: Final = 2.0


class ControlSockets:
    """The sockets of one network namespace, under `directory`. Nothing is made before it is needed."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / str(Path("/proc/self/ns/net").stat().st_ino)
        self._bound: set[Path] = set()

    def prepare(self) -> None:
        """Make the folder, for root alone. Raises `StartupError` if that cannot be, or is somebody else's."""
        try:
            for path in (self.folder.parent, self.folder):
                path.mkdir(mode=0o700, exist_ok=True)
                status = path.stat()
                if status.st_uid != os.geteuid():
                    raise PermissionError(f"{path} belongs to user {status.st_uid}")
                path.chmod(0o700)
        except OSError as error:
            raise StartupError(
                f"--state-directory: workers cannot have their sockets in {self.folder}: {error}"
            ) from error

    def bind(self) -> tuple[socket.socket, Path]:
        """A socket that a worker is to listen on, and its file. Raises `OSError`.

        Where no file can be made, on a full disk say, the worker is one that no other agent will find: it is
        better than none.
        """
        path = self.folder / f"worker-{secrets.token_hex(4)}"
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
        with suppress(FileNotFoundError):
            for path in sorted({*self.folder.iterdir()} - self._bound):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.settimeout(_CONNECT_SECONDS)
                try:
                    sock.connect(str(path))
                except ConnectionRefusedError:
                    sock.close()
                    path.unlink(missing_ok=True)
                except OSError:
                    sock.close()  # a worker that takes no connections, or no socket at all: not ours to judge
                else:
                    yield sock, path

    def remove(self) -> None:
        """Remove the folder, and its parent, if nothing is left in them."""
        with suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()
