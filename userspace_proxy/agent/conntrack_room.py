"""Telling the operator that the kernel's table of tracked connections is about to be full.

Beyond `nf_conntrack_max` the kernel drops the packets of new connections, with a line in its own log at most.
Nobody can repair that but who sets the limit; it is over as soon as entries end. Source:
https://www.kernel.org/doc/html/latest/networking/nf_conntrack-sysctl.html
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final, NoReturn

from userspace_proxy.core.event_reasons import CONNTRACK_NEARLY_FULL
from userspace_proxy.core.event_series import RecordEvent, unrecorded

logger = logging.getLogger(__name__)

_FOLDER: Final = Path("/proc/sys/net/netfilter")
_LOOK_SECONDS: Final = 5.0
_SAY_AGAIN_SECONDS: Final = 30.0
_FULL: Final = 0.95


def is_nearly_full(entries: int, most: int) -> bool:
    """Whether new connections fail now or soon; `most` 0 is no limit."""
    return most > 0 and entries >= most * _FULL


async def watch_conntrack_room(
    folder: Path = _FOLDER,
    *,
    look_seconds: float = _LOOK_SECONDS,
    record_event: RecordEvent = unrecorded,
) -> NoReturn:
    """Look every few seconds, and say it every half minute while it is so."""
    clock = asyncio.get_running_loop().time
    silent_until = 0.0
    while True:
        now = clock()
        if now >= silent_until:
            entries, most = _read(folder / "nf_conntrack_count"), _read(folder / "nf_conntrack_max")
            if is_nearly_full(entries, most):
                silent_until = now + _SAY_AGAIN_SECONDS
                logger.warning(
                    "The conntrack table is nearly full, beyond it new connections are dropped: entries=%d "
                    "most=%d; raise net.netfilter.nf_conntrack_max, or look who opens so many (conntrack -L)",
                    entries,
                    most,
                )
                record_event(
                    CONNTRACK_NEARLY_FULL,
                    f"Nearly {most} connections are tracked, beyond that new ones are dropped; raise "
                    "net.netfilter.nf_conntrack_max, or look who opens so many (conntrack -L)",
                )
        await asyncio.sleep(look_seconds)


def _read(path: Path) -> int:
    """0 where there is no such table."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
