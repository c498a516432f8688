"""Where the admin socket lies: `admin.sock` in the folder of a network namespace, and a link to it.

The folder is where the agent's workers have their control sockets too: named after the network namespace, for
root alone. So each of several nodes that share a `/run` has its own. The link, beside that folder, is for
whoever speaks by hand, and leads to the agent that was first.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

_NAME: Final = "admin.sock"


def admin_socket_in(folder: Path) -> Path:
    """Where the agent whose folder that is answers."""
    return folder / _NAME


def remove_left(folder: Path) -> None:
    """Remove what an agent has left that is no more."""
    admin_socket_in(folder).unlink(missing_ok=True)
    _remove_dangling(_link_beside(folder))


class SocketFile:
    """One agent's. A successor's file takes its place at one moment, and is never removed by `remove`."""

    def __init__(self, folder: Path) -> None:
        self.path = admin_socket_in(folder)
        self._link = _link_beside(folder)
        self._bound: os.stat_result | None = None

    def listen(self, backlog: int) -> socket.socket:
        """A socket that listens there, instead of any that was left. Raises `OSError`."""
        new = self.path.with_name(f"{_NAME}.new")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            new.unlink(missing_ok=True)
            os.fchmod(sock.fileno(), 0o600)  # the mode that the file gets
            sock.bind(str(new))
            sock.listen(backlog)
            self._bound = new.stat()
            new.rename(self.path)
        except BaseException:
            sock.close()
            raise
        _remove_dangling(self._link)
        with suppress(OSError):
            self._link.symlink_to(self.path.relative_to(self._link.parent))
        return sock

    def remove(self) -> None:
        """Remove the file, and the link if it leads there. Safe to repeat."""
        bound, self._bound = self._bound, None
        with suppress(OSError):
            if bound is not None and os.path.samestat(bound, self.path.stat()):
                self.path.unlink()
                _remove_dangling(self._link)


def _link_beside(folder: Path) -> Path:
    return folder.parent / _NAME


def _remove_dangling(link: Path) -> None:
    with suppress(OSError):
        if link.is_symlink() and not link.exists():
            link.unlink()
