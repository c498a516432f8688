"""PROXY protocol, version 2: what an endpoint is told of the client before the client's first byte.

An endpoint sees the node's address as its peer. One that speaks this protocol (nginx, HAProxy, Envoy,
Traefik …) learns the client's address, and the one that the client sent to.

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2.2.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Final

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_VERSION_2_PROXY: Final = 0x21
_TCP_OVER_IPV4: Final = 0x11
_TCP_OVER_IPV6: Final = 0x21
_HEAD: Final = struct.Struct("!12sBBH")
_PORTS: Final = struct.Struct("!HH")


def header(client: tuple[str, int], frontend: tuple[str, int]) -> bytes:
    """That a TCP connection of `client` to `frontend` follows: IP addresses of one family, and ports."""
    source, destination = ip_address(client[0]), ip_address(frontend[0])
    transport = _TCP_OVER_IPV4 if source.version == 4 else _TCP_OVER_IPV6
    body = source.packed + destination.packed + _PORTS.pack(client[1], frontend[1])
    return _HEAD.pack(_SIGNATURE, _VERSION_2_PROXY, transport, len(body)) + body
