"""What the data path asks of TCP beyond reading and writing; socket(7)."""

from __future__ import annotations

import socket
import struct
from typing import Final

from userspace_proxy.dataplane.poller import Socket

_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


def arm_reset(sock: Socket) -> None:
    """Let the close of `sock` be a reset, not an orderly end; SO_LINGER in socket(7)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
