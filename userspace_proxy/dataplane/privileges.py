"""A worker gives up everything it does not need before the first client's byte reaches it.

Source: capabilities(7), prctl(2), PR_SET_NO_NEW_PRIVS.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final

NOBODY: Final = 65534

_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522


def drop_privileges(uid: int = NOBODY, gid: int = NOBODY) -> None:
    """Become `uid` without groups, without one capability, and unable to gain any. Not to be undone.

    In a user namespace with a single uid there is nobody else to become; then the uid stays and only the
    capabilities go. Raises `OSError` if a capability remains after all.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # EPERM without CAP_SETPCAP: there is none to drop
    if os.geteuid() == 0 and _has_other_uids():
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    nothing = bytes(24)  # effective, permitted and inheritable, twice 32 bits each
    if libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "cannot drop the capabilities of a worker")


def _has_other_uids() -> bool:
    """Whether this user namespace maps more than our own uid; user_namespaces(7)."""
    mapped = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    return mapped > 1


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")
