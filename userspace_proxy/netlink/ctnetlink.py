"""Conntrack entries over netlink: as many as there are, and of each only what tells where it leads.

pyroute2 decodes all of an entry, which takes 85 us of CPU, and a node may have a hundred thousand of them.
What is read here takes 8 us. Source: linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h, and
https://docs.kernel.org/userspace-api/netlink/intro.html.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

_NETLINK_NETFILTER: Final = 12
_RECEIVE_BYTES: Final = 1 << 16
"""More than the kernel puts into one answer (32 KiB)."""
_ANSWER_SECONDS: Final = 10.0

_GET: Final = 0x101
_DELETE: Final = 0x102
"""NFNL_SUBSYS_CTNETLINK, and IPCTNL_MSG_CT_GET or IPCTNL_MSG_CT_DELETE."""
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_DUMP: Final = 0x300
_NLA_F_NESTED: Final = 0x8000
_NLA_TYPE_MASK: Final = 0x3FFF

# CTA_…
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _ID, _ZONE, _FILTER, _STATUS_MASK = 1, 2, 3, 12, 18, 25, 26
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SOURCE_AND_DESTINATION: Final = {socket.AF_INET: (1, 2), socket.AF_INET6: (3, 4)}
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_FILTER_DESTINATION, _FILTER_PROTOCOL, _FILTER_DESTINATION_PORT = 1 << 1, 1 << 3, 1 << 5
_SEEN_REPLY: Final = 1 << 1
"""IPS_SEEN_REPLY."""

_MESSAGE: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.Struct("=BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")
_FLAGS: Final = struct.Struct("=I")
_CODE: Final = struct.Struct("=i")
_PORT: Final = struct.Struct("!H")
_BITS: Final = struct.Struct("!I")


class Entry(NamedTuple):
    """To where its client sends, and who answers. The kernel knows it by the bytes `original` and `id`."""

    destination: str
    destination_port: int
    answered_by: str
    answered_by_port: int
    original: bytes
    id: bytes


class ConntrackSocket:
    """Asks for, and deletes, entries of one family in the calling thread's network namespace.

    All of it blocks, and raises OSError where the kernel refuses, or says nothing for 10 s. One dump at a
    time.
    """

    def __init__(self, af: socket.AddressFamily) -> None:
        self._af = af
        self._ip_source, self._ip_destination = _IP_SOURCE_AND_DESTINATION[af]
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.settimeout(_ANSWER_SECONDS)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def dump(
        self, protocol: int, *, unreplied: bool = False, address: str | None = None, port: int | None = None
    ) -> Iterator[Entry]:
        """Entries of IPPROTO_TCP or IPPROTO_UDP, and of these what clients sent to an address or a port, or
        what nobody has replied to.

        Linux before 5.8 gives those of other addresses and ports too. Before 5.15 it gives those with
        replies, which are left out here, as are entries of other conntrack zones: they are none of ours.
        """
        self._send(_GET, _NLM_F_DUMP, self._wanted(protocol, unreplied, address, port))
        for message in self._answers():
            entry = self._decode(message, protocol, unreplied)
            if entry is not None:
                yield entry

    def delete(self, entry: Entry) -> bool:
        """Whether the entry was there to be deleted; one that has taken its place meanwhile is another."""
        name = _attribute(_TUPLE_ORIG | _NLA_F_NESTED, entry.original) + _attribute(_ID, entry.id)
        self._send(_DELETE, _NLM_F_ACK, name)
        try:
            for _ in self._answers():
                pass
        except FileNotFoundError:
            return False
        return True

    def _send(self, kind: int, flags: int, attributes: bytes) -> None:
        self._sequence += 1
        length = _MESSAGE.size + _FAMILY.size + len(attributes)
        head = _MESSAGE.pack(length, kind, _NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.sendall(head + _FAMILY.pack(self._af, 0, 0) + attributes)

    def _answers(self) -> Iterator[bytes]:
        """The attributes of each answer to what was sent last."""
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            at = 0
            while at < len(data):
                length, kind, _, sequence, _ = _MESSAGE.unpack_from(data, at)
                content = data[at + _MESSAGE.size : at + length]
                at += length + 3 & ~3
                if sequence != self._sequence:
                    continue  # it belongs to a dump that nobody read to its end
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    (code,) = _CODE.unpack_from(content)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                yield content[_FAMILY.size :]

    def _wanted(self, protocol: int, unreplied: bool, address: str | None, port: int | None) -> bytes:
        flags, ips, ports = _FILTER_PROTOCOL, b"", _attribute(_PROTO_NUM, bytes([protocol]))
        if address is not None:
            flags |= _FILTER_DESTINATION
            ips = _attribute(self._ip_destination, socket.inet_pton(self._af, address))
        if port is not None:
            flags |= _FILTER_DESTINATION_PORT
            ports += _attribute(_PROTO_DST_PORT, _PORT.pack(port))
        original = _nested(_TUPLE_IP, ips) + _nested(_TUPLE_PROTO, ports)
        compared = _attribute(_FILTER_ORIG_FLAGS, _FLAGS.pack(flags))
        compared += _attribute(_FILTER_REPLY_FLAGS, _FLAGS.pack(0))
        wanted = _nested(_TUPLE_ORIG, original) + _nested(_FILTER, compared)
        if unreplied:
            wanted += _attribute(_STATUS, _BITS.pack(0)) + _attribute(_STATUS_MASK, _BITS.pack(_SEEN_REPLY))
        return wanted

    def _decode(self, message: bytes, protocol: int, unreplied: bool) -> Entry | None:
        """The entry, if it is one that was asked for."""
        found = _attributes(message)
        if _ZONE in found:
            return None
        if unreplied and _BITS.unpack(found[_STATUS])[0] & _SEEN_REPLY:
            return None
        original, reply = _attributes(found[_TUPLE_ORIG]), _attributes(found[_TUPLE_REPLY])
        ports = _attributes(original[_TUPLE_PROTO])
        if ports[_PROTO_NUM][0] != protocol:
            return None
        return Entry(
            socket.inet_ntop(self._af, _attributes(original[_TUPLE_IP])[self._ip_destination]),
            _PORT.unpack(ports[_PROTO_DST_PORT])[0],
            socket.inet_ntop(self._af, _attributes(reply[_TUPLE_IP])[self._ip_source]),
            _PORT.unpack(_attributes(reply[_TUPLE_PROTO])[_PROTO_SRC_PORT])[0],
            found[_TUPLE_ORIG],
            found[_ID],
        )


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, attributes: bytes) -> bytes:
    return _attribute(kind | _NLA_F_NESTED, attributes)


def _attributes(data: bytes) -> dict[int, bytes]:
    """The value of each attribute, by its type."""
    found = {}
    at = 0
    while at < len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind & _NLA_TYPE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found
