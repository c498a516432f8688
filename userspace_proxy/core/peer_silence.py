"""When the peer of a TCP connection counts as gone: powered off, or behind a network that is down.

One number decides, the *peer timeout*: a peer from which nothing was heard for so long, though it was asked,
is gone. Who asks depends on what the connection is doing.

- While it is idle the kernel's keepalive asks: from half of the time on, in steps of an eighth.
- While bytes are on their way to the peer, or wait for its window to open, keepalive is silent; the kernel
  sends these bytes, or probes, again and again, and would for a quarter of an hour. How often in vain, and
  when the peer was last heard, is in TCP_INFO, and `is_gone` judges it.

TCP_USER_TIMEOUT would end the second kind too. But it ends connections whose peer is there, says so, and only
does not read: somebody who left a pager open.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

_IN_VAIN: Final = 3
"""How often in a row the kernel has asked: one probe of a closed window may be lost, or get no answer."""


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Seconds until an idle peer is asked, seconds between questions, and how many go unanswered; tcp(7)."""

    idle_seconds: int
    interval_seconds: int
    count: int


def keepalive_within(timeout_seconds: float) -> Keepalive:
    """What ends an idle connection `timeout_seconds` after its peer was last heard, to the second."""
    idle = max(1, int(timeout_seconds / 2))
    interval = max(1, int(timeout_seconds / 8))
    return Keepalive(idle, interval, max(1, ceil((timeout_seconds - idle) / interval)))


def is_gone(retransmits: int, probes: int, silent_seconds: float, timeout_seconds: float) -> bool:
    """Whether a peer is gone that was last heard `silent_seconds` ago.

    `retransmits` and `probes` are how often the kernel has sent the same bytes, or asked for the window,
    since.
    """
    return silent_seconds >= timeout_seconds and max(retransmits, probes) >= _IN_VAIN
