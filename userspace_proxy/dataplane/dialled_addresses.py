"""A second look, at the last door, at where connections go.

The agent never names such endpoints; a worker that believed it blindly would turn a fault there into a way to
the node's own services. Packed addresses are compared, once for each endpoint that a worker is told of.
"""

from __future__ import annotations

import socket
from typing import Final

_NOBODYS_IPV4: Final = frozenset(
    socket.inet_aton(text)
    for text in ("0.0.0.0", "255.255.255.255", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)
_METADATA_IPV6: Final = frozenset(
    socket.inet_pton(socket.AF_INET6, text) for text in ("fd00:ec2::254", "fd20:ce::254")
)
_EMBEDDED_IPV4: Final = (bytes(12), bytes(10) + b"\xff\xff")
"""IPv4-compatible, which is where :: and ::1 are too, and IPv4-mapped."""


def is_dialled(address: str) -> bool:
    """Whether an endpoint may have `address`: just what `core.ip_addresses.why_not_dialled` lets pass.

    False for what is no address in its canonical form, zones included.
    """
    try:
        if ":" not in address:
            packed = socket.inet_pton(socket.AF_INET, address)
            is_link_local = packed[0] == 169 and packed[1] == 254
            is_multicast = packed[0] >> 4 == 14
            return not (packed[0] == 127 or is_link_local or is_multicast or packed in _NOBODYS_IPV4)
        packed = socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return False
    is_link_local = packed[0] == 0xFE and packed[1] >> 6 == 2
    return not (
        packed[0] == 0xFF or is_link_local or packed.startswith(_EMBEDDED_IPV4) or packed in _METADATA_IPV6
    )
