"""Ends relays whose client or endpoint is gone without a word: powered off, or cut off.

What counts as gone is `core.peer_silence`'s to say. Most connections are over before anybody could wonder, so
nothing is asked of the kernel when they begin. A sweep, eight times in the time that a peer has, sets the
options of those that have lived to see it, and reads TCP_INFO of all, in small portions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol

from userspace_proxy.core.peer_silence import is_gone, keepalive_within
from userspace_proxy.dataplane.poller import Socket
from userspace_proxy.dataplane.tcp_options import keep_alive, limit_unacknowledged, read_silence

_PORTION: Final = 128
_REST_SECONDS: Final = 0.005
_LOOKS: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class TcpTimeouts:
    """Seconds; 0 is never. `peer`: until a peer that is silent though it was asked counts as gone. `user`:
    TCP's own user timeout, which peers that do not read run into as well.
    """

    peer: float = 0.0
    user: float = 0.0


NO_TIMEOUTS: Final = TcpTimeouts()


class Watched(Protocol):
    """A relay. `timeouts` are those that its sockets have been told."""

    timeouts: TcpTimeouts | None

    @property
    def sockets(self) -> tuple[Socket, Socket]: ...

    def reset(self) -> None: ...


class PeerWatch:
    """Watches `relays`, a collection that changes meanwhile. Whoever adds to it calls `begin` if need be."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, relays: Collection[Watched], timeouts: TcpTimeouts
    ) -> None:
        self.is_running = False
        self._loop = loop
        self._relays = relays
        self._timeouts = timeouts
        self._timer: asyncio.TimerHandle | None = None

    def set(self, timeouts: TcpTimeouts) -> None:
        """From the next sweep on."""
        self.close()
        self._timeouts = timeouts
        if self._relays:
            self.begin()

    def begin(self) -> None:
        self.is_running = True
        longest = self._timeouts.peer or self._timeouts.user
        if longest:
            self._timer = self._loop.call_later(longest / _LOOKS, self._sweep)

    def close(self) -> None:
        self.is_running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        if self._relays:
            self._look_at(list(self._relays))
        else:
            self.close()

    def _look_at(self, waiting: list[Watched]) -> None:
        for relay in waiting[-_PORTION:]:
            if relay in self._relays:
                self._look(relay)
        del waiting[-_PORTION:]
        if waiting:
            self._timer = self._loop.call_later(_REST_SECONDS, self._look_at, waiting)
        else:
            self.begin()

    def _look(self, relay: Watched) -> None:
        timeouts = self._timeouts
        is_new = relay.timeouts is not timeouts
        relay.timeouts = timeouts
        for sock in relay.sockets:
            if is_new:
                limit_unacknowledged(sock, timeouts.user)
                keep_alive(sock, keepalive_within(timeouts.peer) if timeouts.peer else None)
            if timeouts.peer and is_gone(*read_silence(sock), timeouts.peer):
                relay.reset()
                return
