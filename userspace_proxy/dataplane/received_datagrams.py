"""Many datagrams in one system call, with who sent each of them, and to which local address: recvmmsg(2).

Python's sockets do not have that call, and no library that is kept up does. So it is made through ctypes,
into memory that is laid out once. What comes with a datagram stays bytes, which are enough to find its flow.

Theory of operation. For each datagram there are a header (struct mmsghdr), a buffer, and a *record* of what
the kernel tells of it: the client's socket address, and behind that one control message with the local
address (`packet_info`; no other kind is asked for). Sources: recvmsg(2), cmsg(3), ip(7), ipv6(7).
"""

from __future__ import annotations

import ctypes
import socket
import struct
from dataclasses import dataclass
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, Final, TypeAlias

Address: TypeAlias = Any  # (host, port), or for IPv6 (host, port, flowinfo, scope_id)

BURST: Final = 32
"""Datagrams read at once. Sockets are watched level-triggered: epoll tells of the rest again."""

MAX_DATAGRAM: Final = 65536
"""More than any: 65,507 bytes over IPv4, 65,527 over IPv6."""

_SOCKET_ADDRESS_SIZE: Final = 32  # struct sockaddr_in6 has 28; what follows is aligned
_CONTROL_SIZE: Final = socket.CMSG_SPACE(20)  # for struct in6_pktinfo; struct in_pktinfo has 12
RECORD_SIZE: Final = _SOCKET_ADDRESS_SIZE + _CONTROL_SIZE
_PACKET_INFO_AT: Final = _SOCKET_ADDRESS_SIZE + socket.CMSG_LEN(0)

_IPV4: Final = struct.Struct("=H2s4s")  # family, port, address; the rest of struct sockaddr_in is zero
_IPV6: Final = struct.Struct("=H2s4s16sI")  # family, port, flowinfo, address, scope


class _IoVec(ctypes.Structure):
    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("msg_name", ctypes.c_void_p),
        ("msg_namelen", ctypes.c_uint),
        ("msg_iov", ctypes.c_void_p),
        ("msg_iovlen", ctypes.c_size_t),
        ("msg_control", ctypes.c_void_p),
        ("msg_controllen", ctypes.c_size_t),
        ("msg_flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("msg_hdr", _MsgHdr), ("msg_len", ctypes.c_uint))


_HEADER_SIZE: Final = ctypes.sizeof(_MMsgHdr)


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """Where things are in the records of an address family: from the first byte to before the second."""

    client: tuple[int, int]
    local_address: tuple[int, int]
    packet_info: tuple[int, int]


LAYOUTS: Final = {
    # struct in_pktinfo: ifindex, ipi_spec_dst, ipi_addr
    socket.AF_INET: RecordLayout(
        (0, _IPV4.size), (_PACKET_INFO_AT + 4, _PACKET_INFO_AT + 8), (_PACKET_INFO_AT, _PACKET_INFO_AT + 12)
    ),
    # struct in6_pktinfo: the address, then ifindex
    socket.AF_INET6: RecordLayout(
        (0, _IPV6.size), (_PACKET_INFO_AT, _PACKET_INFO_AT + 16), (_PACKET_INFO_AT, _PACKET_INFO_AT + 20)
    ),
}


class ReceivedDatagrams:
    """Room for `BURST` datagrams, from whichever UDP socket was asked last.

    Number n is the first `lengths[n]` bytes of `buffers[n]`; its record begins at byte n * RECORD_SIZE of
    `records`. Pages of the buffers are used as datagrams get longer: 128 KiB for those that fit in an
    Ethernet frame, 2 MiB at most.
    """

    def __init__(self) -> None:
        # Not there until it is written to.
        space = mmap(-1, BURST * MAX_DATAGRAM, MAP_PRIVATE | MAP_ANONYMOUS)
        records = bytearray(BURST * RECORD_SIZE)
        space_at, records_at = _address_of(space), _address_of(records)
        vectors, headers = (_IoVec * BURST)(), (_MMsgHdr * BURST)()
        for number in range(BURST):
            record_at = records_at + number * RECORD_SIZE
            vectors[number] = _IoVec(space_at + number * MAX_DATAGRAM, MAX_DATAGRAM)
            headers[number].msg_hdr = _MsgHdr(
                msg_name=record_at,
                msg_namelen=_SOCKET_ADDRESS_SIZE,
                msg_iov=ctypes.addressof(vectors) + number * ctypes.sizeof(_IoVec),
                msg_iovlen=1,
                msg_control=record_at + _SOCKET_ADDRESS_SIZE,
                msg_controllen=_CONTROL_SIZE,
            )
        self._vectors = vectors  # addresses do not keep what is there
        self._headers, self._unused_headers = memoryview(headers).cast("B"), bytes(headers)
        self._records, self._unused_records = memoryview(records), bytes(records)
        self._recvmmsg = ctypes.CDLL(None).recvmmsg
        self._arguments = (
            ctypes.c_void_p(ctypes.addressof(headers)),
            ctypes.c_uint(BURST),
            ctypes.c_int(socket.MSG_DONTWAIT),
            ctypes.c_void_p(None),
        )
        self.buffers = [
            memoryview(space)[number * MAX_DATAGRAM : (number + 1) * MAX_DATAGRAM] for number in range(BURST)
        ]
        self.lengths = self._headers.cast("I")[_MMsgHdr.msg_len.offset // 4 :: _HEADER_SIZE // 4]
        self.records = self._unused_records

    def receive(self, fd: int) -> int:
        """How many came. None if nothing is there; an error of the socket is gone with being told."""
        # The kernel writes how much it used into the headers, and a datagram may come without control data.
        self._headers[:] = self._unused_headers
        self._records[:] = self._unused_records
        count: int = self._recvmmsg(fd, *self._arguments)
        if count < 0:
            return 0
        self.records = bytes(self._records[: count * RECORD_SIZE])
        return count


def unpack_address(packed: bytes) -> Address:
    """A client's address as `recvfrom` has it, of the bytes that are in a record."""
    if len(packed) == _IPV4.size:
        _, port, address = _IPV4.unpack(packed)
        return socket.inet_ntop(socket.AF_INET, address), int.from_bytes(port)
    _, port, flowinfo, address, scope = _IPV6.unpack(packed)
    return socket.inet_ntop(socket.AF_INET6, address), int.from_bytes(port), int.from_bytes(flowinfo), scope


def pack_address(address: Address) -> bytes:
    """The reverse."""
    port = address[1].to_bytes(2)
    if len(address) == 2:
        return _IPV4.pack(socket.AF_INET, port, socket.inet_pton(socket.AF_INET, address[0]))
    packed = socket.inet_pton(socket.AF_INET6, address[0])
    return _IPV6.pack(socket.AF_INET6, port, address[2].to_bytes(4), packed, address[3])


def _address_of(memory: bytearray | mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
