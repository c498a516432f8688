"""Packets from addresses that nobody has: floods whose answers nobody takes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from tests.support.clients import Address
from userspace_proxy.demo.namespaces import Namespace

MADE_UP = IPv4Network("198.18.0.0/15")
"""Addresses for benchmarks, which nobody has: RFC 2544."""

_SYN = 0x02


def flood_syns(where: Namespace, target: Address, count: int) -> None:
    """Ask for `count` TCP connections, each from another address, and answer nothing."""
    _send(where, target, (_syn(source, target) for source in _sources(count)))


def flood_datagrams(where: Namespace, target: Address, count: int, *, start: int = 0) -> None:
    """Send `count` UDP datagrams, each from another address."""
    _send(where, target, (_datagram(source, target) for source in _sources(count, start)))


def _sources(count: int, start: int = 0) -> Iterator[IPv4Address]:
    return (MADE_UP[number] for number in range(start + 1, start + count + 1))


def _send(where: Namespace, target: Address, packets: Iterator[bytes]) -> None:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            for packet in packets:
                sock.sendto(packet, (target[0], 0))

    where.call(send)


def _ip_header(source: IPv4Address, target: Address, protocol: int, length: int) -> bytes:
    # The kernel fills in the checksum and the identification; raw(7).
    return struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0, 64, protocol, 0, source.packed, _packed(target)
    )


def _syn(source: IPv4Address, target: Address) -> bytes:
    def segment(checksum: int) -> bytes:
        return struct.pack("!HHIIBBHHH", 40000, target[1], 1, 0, 5 << 4, _SYN, 64240, checksum, 0)

    pseudo_header = source.packed + _packed(target) + struct.pack("!BBH", 0, socket.IPPROTO_TCP, 20)
    complete = segment(_checksum(pseudo_header + segment(0)))
    return _ip_header(source, target, socket.IPPROTO_TCP, len(complete)) + complete


def _datagram(source: IPv4Address, target: Address) -> bytes:
    complete = struct.pack("!HHHH", 40000, target[1], 9, 0) + b"?"  # without a checksum, as UDP may be
    return _ip_header(source, target, socket.IPPROTO_UDP, len(complete)) + complete


def _packed(address: Address) -> bytes:
    return socket.inet_aton(address[0])


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    words: tuple[int, ...] = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
