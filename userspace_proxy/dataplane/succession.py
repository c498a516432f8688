"""What an agent and the workers of an earlier one say to each other. **Every version must keep this.**

An agent finds workers that somebody else started, perhaps with another version's code, which speak that
version's `messages`. With those here it takes their sockets back and lets them go; nothing else is needed for
that. Messages are msgpack arrays that begin with their name: a later version may add fields at the end, with
defaults, and neither remove nor reorder any. Frames are those of `channel`.

`Hello` makes whoever says it the worker's agent, in place of the one before.
"""

from __future__ import annotations

import msgspec


class SuccessionMessage(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class Hello(SuccessionMessage, frozen=True, tag="hello"):
    """Answered by `Introduction`."""

    sequence: int


class HandBack(SuccessionMessage, frozen=True, tag="hand-back"):
    """Describe what you hold, from item number `start` on, and send duplicates; answered by `HandedBack`."""

    sequence: int
    start: int


class GiveUp(SuccessionMessage, frozen=True, tag="give-up"):
    """Read no more from these Service ports' listeners; TCP connections go on. Answered by `GaveUp`."""

    sequence: int
    service_ports: tuple[str, ...]


class Drain(SuccessionMessage, frozen=True, tag="drain"):
    """Give up every Service port; end with the last connection, or after `seconds`. `Acknowledged`."""

    sequence: int
    seconds: float


class End(SuccessionMessage, frozen=True, tag="end"):
    """End now, with every connection. Not answered: the channel closes."""

    sequence: int


class Introduction(SuccessionMessage, frozen=True, tag="introduction"):
    """Who a worker is: the build and the size of the pool that it was started for, where it lives.

    `pid_namespace` is the inode of its pid namespace. A worker that is draining has nothing to hand back.
    """

    sequence: int
    build: str
    pool_size: int
    pid_namespace: int
    is_draining: bool


class HeldServicePort(msgspec.Struct, frozen=True, array_like=True):
    """A Service port that a worker serves.

    `key` is `ServicePortName.key`, `listeners` are policy and proxy port of each. `state` is what the worker
    was told of it, in the messages of its own version, which no other need understand.
    """

    key: str
    protocol: str
    family: str
    listeners: tuple[tuple[str, int], ...]
    state: bytes


class HandedBack(SuccessionMessage, frozen=True, tag="handed-back"):
    """Some of what a worker holds. Beside it come descriptors: one for each listener, one for each of `kept`.

    `following` is the number of the next item, None after the last.
    """

    sequence: int
    service_ports: tuple[HeldServicePort, ...]
    kept: tuple[str, ...]
    following: int | None


class HeldFlow(msgspec.Struct, frozen=True, array_like=True):
    """A UDP flow: who it belongs to, and how long nothing has passed in it.

    `client` is an address as `recvfrom` has it, `local_address` the one that the client sends to (4 or 16
    bytes), `reply_control` the ancillary data (level, type, data) that has answers leave from there.
    """

    service_port: str
    proxy_port: int
    client: tuple[str | int, ...]
    local_address: bytes
    reply_control: tuple[int, int, bytes]
    endpoint: tuple[str, int]
    is_answered: bool
    idle_seconds: float


class AffineClient(msgspec.Struct, frozen=True, array_like=True):
    """The endpoint of a client under `sessionAffinity: ClientIP`, and how long nothing has come from it."""

    service_port: str
    address: str
    endpoint: tuple[str, int]
    silent_seconds: float


class GaveUp(SuccessionMessage, frozen=True, tag="gave-up"):
    """Nothing is read from the listeners any more. What belongs to them comes along, as much as fits.

    A descriptor for each flow lies beside it. Unless `is_complete`, the same `GiveUp` is to be said again.
    """

    sequence: int
    flows: tuple[HeldFlow, ...]
    clients: tuple[AffineClient, ...]
    is_complete: bool


class Acknowledged(SuccessionMessage, frozen=True, tag="acknowledged"):
    """What was ordered is in effect."""

    sequence: int
