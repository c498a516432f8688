"""A worker's end of the talk with an agent."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from userspace_proxy.dataplane.channel import Channel
from userspace_proxy.dataplane.descriptor_reserve import DescriptorReserve
from userspace_proxy.dataplane.messages import AgentMessage, Logged, RanShort, WorkerMessage

logger = logging.getLogger(__name__)

_MAX_WAITING: Final = 256


class Obey(Protocol):
    """Do what a message says, and answer whoever asks.

    What it takes out of `descriptors` is its own; the rest is closed.
    """

    def __call__(self, asker: AgentConversation, message: AgentMessage, descriptors: list[int]) -> None: ...


class AgentConversation:
    """With one agent, or with whoever may become one."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        obey: Obey,
        left: Callable[[AgentConversation], None],
        reserve: DescriptorReserve,
    ) -> None:
        self._obey = obey
        self._left = left
        self._decoder = msgspec.msgpack.Decoder(AgentMessage)
        self._encoder = msgspec.msgpack.Encoder()
        self._channel = Channel(loop, sock, self._receive, self._closed, reserve.released)

    def answer(self, message: WorkerMessage, descriptors: list[int] | None = None) -> None:
        self._channel.send(self._encoder.encode(message), descriptors or ())

    def tell(self, message: Logged | RanShort) -> bool:
        """Say what nobody has asked for; False if too much of it waits already."""
        if self._channel.waiting >= _MAX_WAITING:
            return False
        self._channel.send(self._encoder.encode(message))
        return True

    def close(self) -> None:
        self._channel.close()

    def _closed(self) -> None:
        self._left(self)

    def _receive(self, payload: bytes, descriptors: list[int]) -> None:
        try:
            message = self._decoder.decode(payload)
        except msgspec.DecodeError as error:
            logger.error("Somebody speaks another language, and is left: pid=%d %s", os.getpid(), error)
            _close(descriptors)
            self.close()
            return
        try:
            self._obey(self, message, descriptors)
        except Exception:
            # An agent whose worker hangs up replaces it, and tells the successor everything.
            logger.exception("A message cannot be carried out: pid=%d", os.getpid())
            self.close()
        finally:
            _close(descriptors)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
