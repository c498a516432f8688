"""Who is at the other end of a Unix socket; SO_PEERCRED in unix(7)."""

from __future__ import annotations

import socket
import struct
from typing import Final

_CREDENTIALS: Final = struct.Struct("3i")


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Pid (0 if it is in no pid namespace of ours) and uid of the process that connected, or listened."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return pid, uid
