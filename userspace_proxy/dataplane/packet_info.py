"""The local address that a datagram was sent to, which the kernel tells beside it; ip(7), ipv6(7)."""

from __future__ import annotations

import socket
from typing import Final

IP_PKTINFO: Final = 8
"""linux/in.h; Python's socket module names it from 3.14 on."""


def receive_packet_info(sock: socket.socket) -> None:
    """Have the kernel tell it of every datagram that `sock` is sent from now on."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
