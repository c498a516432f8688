"""Who looks at the page: each gets every message, or is cut off if it takes them too slowly."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

MOST_VIEWERS: Final = 16
MOST_WAITING: Final = 64
"""Messages for one viewer: some twenty seconds of them."""


class Viewer:
    """One browser. `cut` ends its connection; it may connect again, and begins with all there is then."""

    def __init__(self, cut: Callable[[], None]) -> None:
        self._cut = cut
        self._waiting: deque[bytes] = deque()
        self._arrived = asyncio.Event()

    def tell(self, message: bytes) -> None:
        """Have it sent; who has too many waiting is cut off."""
        if len(self._waiting) >= MOST_WAITING:
            self._cut()
            return
        self._waiting.append(message)
        self._arrived.set()

    async def next(self) -> bytes:
        """The next message, once there is one."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()


class Audience:
    """All who look. `came` is set while there is anybody, `left` while there is nobody."""

    def __init__(self) -> None:
        self.viewers: set[Viewer] = set()
        self.came = asyncio.Event()
        self.left = asyncio.Event()
        self.left.set()

    @property
    def is_full(self) -> bool:
        return len(self.viewers) >= MOST_VIEWERS

    def join(self, viewer: Viewer) -> None:
        """Tell this one from now on."""
        self.viewers.add(viewer)
        self.left.clear()
        self.came.set()

    def leave(self, viewer: Viewer) -> None:
        """Tell this one no more. Safe to repeat."""
        self.viewers.discard(viewer)
        if not self.viewers:
            self.came.clear()
            self.left.set()

    def tell(self, event: str, what: object) -> None:
        """Send everybody an event."""
        message = encoded(event, what)
        for viewer in tuple(self.viewers):
            viewer.tell(message)


def encoded(event: str, what: object) -> bytes:
    """As server-sent events are written; HTML standard, 9.2. JSON has no line breaks of its own."""
    return b"event: " + event.encode() + b"\ndata: " + msgspec.json.encode(what) + b"\n\n"
