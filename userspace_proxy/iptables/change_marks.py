"""Cheap signs that somebody else has changed a table: numbers to compare, without reading a rule.

nft keeps a generation number for all tables of a network namespace, which every commit of anybody raises
(25 µs to ask). Legacy tables have none, but tell how many entries they hold and how many bytes these take
(getsockopt, 60 µs), which a flush or a deletion changes and a mere reordering does not. What we commit
ourselves is taken out of either: one generation, or as many entries as the commit adds.
Source: linux/netfilter/nf_tables.h (NFT_MSG_GETGEN), linux/netfilter_ipv4/ip_tables.h (IPT_SO_GET_INFO).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import ClassVar, Final, Protocol, TypeAlias

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.errors import RulesError
from userspace_proxy.iptables.chains import Table
from userspace_proxy.iptables.rule_changes import TableChange

TableInfo: TypeAlias = dict[Table, bytes]

_HEADER: Final = struct.Struct("=IHHII")
_GENMSG: Final = struct.Struct("!BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")
_NFNETLINK: Final = 12
_GET_GENERATION: Final = (10 << 8) | 16
_NEW_GENERATION: Final = (10 << 8) | 15
_GENERATION_ID: Final = 1
_REQUEST: Final = 1

_GET_INFO: Final = 64
_TABLE_NAME_BYTES: Final = 32
_INFO: Final = struct.Struct("=32s44xI4x")
"""A table's name and, between what does not matter here, the number of its entries."""


class ChangeMarks(Protocol):
    """Tells changes by others. Belongs to one thread, whose network namespace does not change.

    `sees_everything`: where the mark is the same, nobody has changed anything; there is nothing to read.
    """

    sees_everything: ClassVar[bool]

    def mark(self) -> int:
        """Differs from an earlier one when somebody else has changed the tables. Raises RulesError."""
        ...

    def own_commit(self, change: TableChange) -> AbstractContextManager[None]:
        """Within this, the change is committed; a commit that raises may count as somebody else's."""
        ...


class NftMarks:
    """The generation less our own commits, each of which raises it by one. Both families share it."""

    sees_everything: ClassVar[bool] = True

    def __init__(self) -> None:
        self._own_commits = 0

    def mark(self) -> int:
        """Raises RulesError."""
        return nft_generation() - self._own_commits

    @contextmanager
    def own_commit(self, change: TableChange) -> Iterator[None]:
        """A change that somebody makes meanwhile shows: it raises the generation further."""
        yield
        self._own_commits += 1


class LegacyMarks:
    """How often a look found the tables of a family otherwise than we left them."""

    sees_everything: ClassVar[bool] = False

    def __init__(self, family: IPFamily) -> None:
        self._family = family
        self._seen: TableInfo | None = None
        self._changes = 0

    def mark(self) -> int:
        """Raises RulesError."""
        info = legacy_table_info(self._family)
        if info != self._seen:
            self._seen = info
            self._changes += 1
        return self._changes

    @contextmanager
    def own_commit(self, change: TableChange) -> Iterator[None]:
        """A change that somebody makes meanwhile shows, unless it leaves the number of entries alone."""
        with suppress(RulesError):
            self.mark()
        before, self._seen = self._seen, None
        yield
        with suppress(RulesError):
            after = legacy_table_info(self._family)
            if before is not None and _is_explained(before, after, change):
                self._seen = after


def nft_generation() -> int:
    """The generation of all nft tables in the network namespace of the calling thread. Raises RulesError."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NFNETLINK) as netlink:
            netlink.settimeout(1.0)
            length = _HEADER.size + _GENMSG.size
            netlink.send(
                _HEADER.pack(length, _GET_GENERATION, _REQUEST, 1, 0) + _GENMSG.pack(socket.AF_UNSPEC, 0, 0)
            )
            answer = netlink.recv(4096)
    except OSError as error:
        raise RulesError(f"the kernel does not tell nft's generation: {error}") from error
    kind = _HEADER.unpack_from(answer)[1]
    offset = _HEADER.size + _GENMSG.size
    while kind == _NEW_GENERATION and offset + _ATTRIBUTE.size <= len(answer):
        size, attribute = _ATTRIBUTE.unpack_from(answer, offset)
        if attribute == _GENERATION_ID:
            return int.from_bytes(answer[offset + _ATTRIBUTE.size : offset + size], "big")
        offset += max((size + 3) & ~3, _ATTRIBUTE.size)
    raise RulesError("the kernel does not tell nft's generation")


def legacy_table_info(family: IPFamily) -> TableInfo:
    """How much filter and nat hold. Raises RulesError.

    For a host whose legacy tables are in use: asking registers a table that is not there yet.
    """
    return {table: _table_info(family, table) for table in Table}


def _table_info(family: IPFamily, table: Table) -> bytes:
    domain, level = (
        (socket.AF_INET, socket.IPPROTO_IP)
        if family is IPFamily.IPV4
        else (socket.AF_INET6, socket.IPPROTO_IPV6)
    )
    # Python's getsockopt cannot pass the table's name in.
    libc = ctypes.CDLL(None, use_errno=True)
    info = ctypes.create_string_buffer(
        _INFO.pack(table.value.encode().ljust(_TABLE_NAME_BYTES, b"\0"), 0), _INFO.size
    )
    size = ctypes.c_uint32(_INFO.size)
    try:
        with socket.socket(domain, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as raw:
            if libc.getsockopt(raw.fileno(), level, _GET_INFO, info, ctypes.byref(size)) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except OSError as error:
        raise RulesError(f"the kernel does not tell of the legacy table {table.value}: {error}") from error
    return info.raw


def _is_explained(before: TableInfo, after: TableInfo, change: TableChange) -> bool:
    """Whether nothing but the change has happened, as far as the numbers of entries tell."""
    added = _entries(after[change.table]) - _entries(before[change.table])
    others_alike = all(after[table] == before[table] for table in Table if table is not change.table)
    return added == change.entries_added and others_alike


def _entries(info: bytes) -> int:
    return int(_INFO.unpack(info)[1])
