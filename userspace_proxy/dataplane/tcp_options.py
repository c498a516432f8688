"""What the data path asks of TCP beyond reading and writing; socket(7), tcp(7)."""

from __future__ import annotations

import socket
import struct
from typing import Final

from userspace_proxy.dataplane.poller import Socket

_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


def arm_reset(sock: Socket) -> None:
    """Let the close of `sock` be a reset, not an orderly end; SO_LINGER in socket(7)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


def delay_acknowledgement(sock: Socket) -> None:
    """Let the first bytes that are sent complete the handshake of `sock`, which is yet to be connected.

    That saves a packet. If there is nothing to send, `acknowledge_now` has to complete it. TCP_QUICKACK in
    tcp(7); from the handshake on the kernel acknowledges as ever.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)


def acknowledge_now(sock: Socket) -> None:
    """Complete the handshake: an endpoint that speaks first waits for it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
