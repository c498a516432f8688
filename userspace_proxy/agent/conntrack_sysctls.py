"""The node's conntrack sysctls, set as kube-proxy sets them.

Source: https://www.kernel.org/doc/html/latest/networking/nf_conntrack-sysctl.html
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from userspace_proxy.configuration.agent_configuration import ConntrackSettings

logger = logging.getLogger(__name__)

_FOLDER: Final = Path("/proc/sys/net/netfilter")
_HASHSIZE: Final = Path("/sys/module/nf_conntrack/parameters/hashsize")
_MAX: Final = "nf_conntrack_max"
_MOST_BY_CORES: Final = 1 << 20
_ENTRIES_PER_BUCKET: Final = 4


def wanted_max(settings: ConntrackSettings, cores: int) -> int:
    """What `nf_conntrack_max` is at least to be; 0: whatever it is. Many cores do not mean many millions."""
    if not settings.max_per_core:
        return 0
    return max(settings.min, min(settings.max_per_core * cores, _MOST_BY_CORES))


def wanted_sysctls(settings: ConntrackSettings) -> dict[str, int]:
    """Those that are to have exactly this value."""
    sysctls = {
        "nf_conntrack_tcp_timeout_established": int(settings.tcp_established_seconds),
        "nf_conntrack_tcp_timeout_close_wait": int(settings.tcp_close_wait_seconds),
        "nf_conntrack_tcp_be_liberal": int(settings.tcp_be_liberal),
        "nf_conntrack_udp_timeout": int(settings.udp_seconds),
        "nf_conntrack_udp_timeout_stream": int(settings.udp_stream_seconds),
    }
    return {name: value for name, value in sysctls.items() if value}


def set_conntrack_sysctls(
    settings: ConntrackSettings, *, folder: Path = _FOLDER, hashsize: Path = _HASHSIZE
) -> None:
    """Raise what is only raised and set the others; blocks. What cannot be set is named, and never fatal.

    `nf_conntrack_max` and its hash table are the whole machine's, and may be written in its own network
    namespace alone: in another one the hash table is left alone, too.
    """
    changed: dict[str, int] = {}
    failed: list[str] = []
    most = wanted_max(settings, os.cpu_count() or 1)
    if most and _raise(folder / _MAX, most, changed, failed) and os.access(folder / _MAX, os.W_OK):
        _raise(hashsize, most // _ENTRIES_PER_BUCKET, changed, failed)
    for name, value in wanted_sysctls(settings).items():
        _write(folder / name, value, changed, failed)
    if changed:
        logger.info("Conntrack settings changed: %s", _shown(changed))
    if failed:
        logger.warning("Conntrack settings stay as they are: %s", "; ".join(failed))


def _raise(path: Path, least: int, changed: dict[str, int], failed: list[str]) -> bool:
    try:
        present = int(path.read_text())
    except (OSError, ValueError) as error:
        failed.append(_failure(path, error))
        return False
    return present >= least or _write(path, least, changed, failed)


def _write(path: Path, value: int, changed: dict[str, int], failed: list[str]) -> bool:
    try:
        if int(path.read_text()) != value:
            path.write_text(str(value))
            changed[path.name] = value
    except (OSError, ValueError) as error:
        failed.append(_failure(path, error))
        return False
    return True


def _failure(path: Path, error: Exception) -> str:
    return f"{path.name} ({error.strerror if isinstance(error, OSError) else error})"


def _shown(changed: Mapping[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in changed.items())
