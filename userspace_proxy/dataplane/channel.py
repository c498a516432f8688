"""Frames with descriptors over a Unix stream socket, without blocking.

A frame is a header (payload length, number of descriptors), the payload, and the descriptors beside its first
byte. The kernel never merges what lies before and after a set of descriptors into one read, so they arrive
no later than the frame they belong to. Source: unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, TypeAlias

from userspace_proxy.dataplane.messages import MAX_DESCRIPTORS_PER_MESSAGE

logger = logging.getLogger(__name__)

OnFrame: TypeAlias = Callable[[bytes, list[int]], None]

_HEADER: Final = struct.Struct("!IH")
_MAX_PAYLOAD: Final = 64 << 20
_READ_SIZE: Final = 256 << 10
_DESCRIPTOR_SIZE: Final = struct.calcsize("i")


def encode_frame(payload: bytes, descriptors: int = 0) -> bytes:
    """A frame as it is sent, without the descriptors that go beside it."""
    return _HEADER.pack(len(payload), descriptors) + payload


class Channel:
    """Owns `sock`. Calls `on_frame(payload, descriptors)` for every frame, and `on_closed()` once at the end.

    The descriptors are the receiver's to close; `receiving` surrounds every read, to make room for them.
    Frames are sent in order; what the socket does not take at once waits here, so a sender bounds it by
    awaiting answers.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_frame: OnFrame,
        on_closed: Callable[[], None],
        receiving: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._receiving = receiving
        self._outgoing: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._incoming = bytearray()
        self._descriptors: deque[int] = deque()
        self._closed = False
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._read)

    @property
    def waiting(self) -> int:
        """How many frames the socket has not taken yet."""
        return len(self._outgoing)

    def send(self, payload: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one frame; the descriptors stay open here until the frame is answered. Nothing once closed."""
        if self._closed:
            return
        frame = memoryview(encode_frame(payload, len(descriptors)))
        idle = not self._outgoing
        self._outgoing.append((frame, descriptors))
        if idle:
            self._write()

    def close(self) -> None:
        """Close the socket and every descriptor that was received but not handed on. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._outgoing.clear()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._on_closed()

    def _write(self) -> None:
        while self._outgoing:
            data, descriptors = self._outgoing[0]
            ancillary = []
            if descriptors:
                packed = struct.pack(f"{len(descriptors)}i", *descriptors)
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]
            try:
                sent = self._sock.sendmsg([data], ancillary)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._write)
                return
            except OSError:
                self.close()
                return
            if sent == len(data):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = (data[sent:], ())
        self._loop.remove_writer(self._sock.fileno())

    def _read(self) -> None:
        try:
            with self._receiving():
                data, ancillary, _, _ = self._sock.recvmsg(
                    _READ_SIZE,
                    socket.CMSG_SPACE(MAX_DESCRIPTORS_PER_MESSAGE * _DESCRIPTOR_SIZE),
                    socket.MSG_CMSG_CLOEXEC,
                )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        for level, kind, packed in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                count = len(packed) // _DESCRIPTOR_SIZE
                self._descriptors.extend(struct.unpack_from(f"{count}i", packed))
        if not data:
            self.close()
            return
        self._incoming += data
        self._deliver()
        if len(self._descriptors) > (MAX_DESCRIPTORS_PER_MESSAGE if self._incoming else 0):
            self.close()  # they belong to no frame; a peer that was broken into may be after all of ours

    def _deliver(self) -> None:
        while not self._closed and len(self._incoming) >= _HEADER.size:
            length, count = _HEADER.unpack_from(self._incoming)
            end = _HEADER.size + length
            if length > _MAX_PAYLOAD:
                self.close()
                return
            if len(self._incoming) < end:
                return
            payload = bytes(memoryview(self._incoming)[_HEADER.size : end])
            del self._incoming[:end]
            if count > len(self._descriptors):
                # The kernel drops what is beyond the limit.
                logger.error(
                    "Descriptors ran out in a message: sent=%d came=%d", count, len(self._descriptors)
                )
                self.close()
                return
            self._on_frame(payload, [self._descriptors.popleft() for _ in range(count)])
