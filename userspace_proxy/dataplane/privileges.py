"""Giving up what is not needed: a worker everything, before the first client's byte; the agent all but a few.

Capabilities belong to threads. Both give theirs up while they have one thread; those to come inherit that.
Source: capabilities(7), prctl(2), PR_SET_NO_NEW_PRIVS.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Final

NOBODY: Final = 65534

_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522
_LAST_CAPABILITY: Final = Path("/proc/sys/kernel/cap_last_cap")


class Capability(IntEnum):
    """Those that we name, by their numbers in linux/capability.h."""

    DAC_READ_SEARCH = 2
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_MODULE = 16


def drop_privileges(uid: int = NOBODY, gid: int = NOBODY) -> None:
    """Become `uid` without groups, without one capability, and unable to gain any. Not to be undone.

    In a user namespace with a single uid there is nobody else to become; then the uid stays and only the
    capabilities go. Raises `OSError` if a capability remains after all.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot set no_new_privs for a worker")
    _bound(libc, ())
    if os.geteuid() == 0 and _has_other_uids():
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _set(libc, 0)


def keep_capabilities(kept: Iterable[Capability]) -> None:
    """Give up, for good, every capability but `kept`; programs that this process starts get no other either.

    What it does not have of these it does not gain. Raises `OSError` if one remains after all.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    kept = frozenset(kept)
    _bound(libc, kept)
    _set(libc, permitted_capabilities() & sum(1 << capability for capability in kept))


def permitted_capabilities() -> int:
    """What this process has or may take, a bit for each capability."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def _has_other_uids() -> bool:
    """Whether this user namespace maps more than our own uid; user_namespaces(7)."""
    mapped = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    return mapped > 1


def _bound(libc: ctypes.CDLL, kept: Iterable[int]) -> None:
    """Let no program that is started from here have other capabilities than `kept`."""
    for capability in {*range(int(_LAST_CAPABILITY.read_text()) + 1)} - {*kept}:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # EPERM without CAP_SETPCAP: there is none to drop


def _set(libc: ctypes.CDLL, capabilities: int) -> None:
    """Have exactly these, effective and permitted, and none that is inheritable."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    if libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)) != 0:
        raise OSError(ctypes.get_errno(), "cannot give up capabilities")
