"""The workers that an earlier agent left: found, asked for what they hold, and sorted out.

One that this agent might have started itself is adopted. Every other (another version, another number of
workers, another container, listeners that no longer fit the configuration) hands its listeners on and leaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from userspace_proxy.core.proxy_plan import ListenerName
from userspace_proxy.core.service_port import ServicePortName, TrafficPolicy
from userspace_proxy.dataplane.channel import encode_frame
from userspace_proxy.dataplane.control_sockets import ControlSockets
from userspace_proxy.dataplane.inherited import Flow
from userspace_proxy.dataplane.messages import ListenerKey, ServicePortConfig
from userspace_proxy.dataplane.peer_credentials import peer_of
from userspace_proxy.dataplane.privileges import NOBODY
from userspace_proxy.dataplane.succession import (
    AffineClient,
    End,
    GaveUp,
    GiveUp,
    HandBack,
    HandedBack,
    HeldServicePort,
    Hello,
    Introduction,
)
from userspace_proxy.dataplane.worker_link import WorkerLink
from userspace_proxy.errors import WorkerError

logger = logging.getLogger(__name__)

Accept: TypeAlias = Callable[[ListenerName, socket.socket], bool]

_KILLED_SECONDS: Final = 5.0
_CONFIG_DECODER: Final = msgspec.msgpack.Decoder(ServicePortConfig)


@dataclass(slots=True)
class Orphan:
    """A worker that serves without its agent, and duplicates of what it holds, which are ours to close."""

    link: WorkerLink
    introduction: Introduction
    service_ports: list[HeldServicePort] = field(default_factory=list)
    listeners: dict[ListenerKey, socket.socket] = field(default_factory=dict)
    kept: dict[str, socket.socket] = field(default_factory=dict)

    @property
    def likeness(self) -> tuple[str, int, int]:
        """What it must have in common with workers that an agent starts itself, to be taken for one."""
        return self.introduction.build, self.introduction.pool_size, self.introduction.pid_namespace

    def give_listeners(self, held: HeldServicePort, accept: Accept) -> int:
        """Let `accept` have the listeners of a Service port; how many of them it takes."""
        taken = 0
        for policy, port in held.listeners:
            key = ListenerKey(held.protocol, port)
            try:
                name = ListenerName(ServicePortName.from_key(held.key), TrafficPolicy(policy))
            except ValueError:
                continue  # a version that serves what we do not know
            if accept(name, self.listeners[key]):
                del self.listeners[key]
                taken += 1
        return taken

    def close(self) -> None:
        """Close the duplicates that nobody has taken."""
        for sock in (*self.listeners.values(), *self.kept.values()):
            sock.close()
        self.listeners.clear()
        self.kept.clear()


@dataclass(frozen=True, slots=True)
class AdoptedWorker:
    """A worker that goes on as one of ours: what it serves, and what of that others serve already."""

    link: WorkerLink
    configs: tuple[ServicePortConfig, ...]
    surplus: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutgoingWorker:
    """A worker that is to leave. Listeners of the Service ports `continued` are ours by now too."""

    link: WorkerLink
    continued: set[str]

    async def give_up(self, keys: Iterable[str]) -> AsyncIterator[tuple[list[Flow], list[AffineClient]]]:
        """Have it read no more from these, and hand over what belongs to them. Raises `WorkerError`."""
        order = partial(GiveUp, service_ports=tuple(keys))
        is_complete = False
        while not is_complete:
            answer, descriptors = await self.link.fetch(order)
            sockets = _sockets(self.link, descriptors)
            if not isinstance(answer, GaveUp) or len(answer.flows) != len(sockets):
                for sock in sockets:
                    sock.close()
                raise WorkerError(f"pid={self.link.pid} does not say what it gives up: {answer!r:.100}")
            is_complete = answer.is_complete
            yield list(zip(answer.flows, sockets, strict=True)), list(answer.clients)


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What came of all orphans. `told` is what they were told of the Service ports that they serve."""

    adopted: list[AdoptedWorker] = field(default_factory=list)
    outgoing: list[OutgoingWorker] = field(default_factory=list)
    kept: dict[str, socket.socket] = field(default_factory=dict)
    told: list[ServicePortConfig] = field(default_factory=list)

    def close(self) -> None:
        """Close what was kept and nobody has taken."""
        while self.kept:
            self.kept.popitem()[1].close()


async def find_orphans(loop: asyncio.AbstractEventLoop, control_sockets: ControlSockets) -> list[Orphan]:
    """Become the agent of every worker that can be reached. One that draws its last breath is left alone."""
    links = [WorkerLink.connected(loop, sock, path) for sock, path in _workers(control_sockets)]
    answers = await asyncio.gather(*(link.request(Hello) for link in links), return_exceptions=True)
    orphans: list[Orphan] = []
    for link, answer in zip(links, answers, strict=True):
        if isinstance(answer, Introduction) and answer.is_draining:
            link.leave()
            continue
        try:
            if not isinstance(answer, Introduction):
                raise WorkerError(f"pid={link.pid} does not introduce itself: {answer!r}")
            orphans.append(await _take_back(link, answer))
        except WorkerError as error:
            logger.warning("Worker of an earlier agent cannot be asked, it is ended: %s", error)
            await link.end()
    return orphans


def end_orphans(control_sockets: ControlSockets) -> int:
    """End every worker that can be reached, with its connections; returns how many have ended. Blocks.

    One that does not within 2 s is killed, if it can be seen from this pid namespace.
    """
    order = encode_frame(msgspec.msgpack.encode(End(0)))
    workers = list(_workers(control_sockets))
    for sock, _ in workers:
        with suppress(OSError):
            sock.sendall(order)
    ended = 0
    for sock, path in workers:
        with sock:
            if _hangs_up(sock) or _is_killed(peer_of(sock)[0]):
                path.unlink(missing_ok=True)
                ended += 1
            else:
                logger.error("Worker does not end, and cannot be killed from here: file=%s", path)
    return ended


def _hangs_up(sock: socket.socket) -> bool:
    try:
        while sock.recv(64):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass  # it was reset, so nobody is there either
    return True


def _is_killed(pid: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # 0, or another pid namespace's
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return bool(select.select([pidfd], [], [], _KILLED_SECONDS)[0])
    except OSError:
        return False
    finally:
        os.close(pidfd)


def _workers(control_sockets: ControlSockets) -> Iterator[tuple[socket.socket, Path]]:
    for sock, path in control_sockets.connect():
        if peer_of(sock)[1] in (NOBODY, os.geteuid()):
            yield sock, path
        else:
            logger.error("Somebody who is no worker listens there, and is not spoken to: file=%s", path)
            sock.close()


async def _take_back(link: WorkerLink, introduction: Introduction) -> Orphan:
    orphan = Orphan(link, introduction)
    start: int | None = 0
    try:
        while start is not None:
            answer, descriptors = await link.fetch(partial(HandBack, start=start))
            sockets = deque(_sockets(link, descriptors))
            try:
                if not isinstance(answer, HandedBack):
                    raise WorkerError(f"pid={link.pid} answers with {type(answer).__name__}")
                for held in answer.service_ports:
                    for _, port in held.listeners:
                        orphan.listeners[ListenerKey(held.protocol, port)] = sockets.popleft()
                for name in answer.kept:
                    orphan.kept[name] = sockets.popleft()
            except IndexError as error:
                raise WorkerError(f"pid={link.pid} sends fewer sockets than it names") from error
            finally:
                for sock in sockets:
                    sock.close()
            orphan.service_ports += answer.service_ports
            start = answer.following
    except BaseException:
        orphan.close()
        raise
    return orphan


def _sockets(link: WorkerLink, descriptors: list[int]) -> list[socket.socket]:
    """Make socket objects of descriptors. Raises `WorkerError`, and has closed all, if one is no socket."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < len(descriptors):
            sockets.append(socket.socket(fileno=descriptors[len(sockets)]))
    except OSError as error:
        for descriptor in descriptors[len(sockets) :]:
            os.close(descriptor)
        for sock in sockets:
            sock.close()
        raise WorkerError(f"pid={link.pid} sends what is no socket: {error}") from error
    return sockets


def sort_out(orphans: list[Orphan], *, build: str, pool_size: int, accept: Accept) -> Inheritance:
    """Decide who stays. `accept` takes a listener's socket; False, and it is not taken, if it does not fit.

    Of what more workers serve than are to, adopted ones keep it: the others were just handing it over.
    """
    ours = (build, pool_size, Path("/proc/self/ns/pid").stat().st_ino)
    inheritance = Inheritance()
    served: dict[str, list[HeldServicePort]] = {}
    for orphan in sorted(orphans, key=lambda orphan: orphan.likeness != ours):
        mine = [held for held in orphan.service_ports if _is_shared(held, served.get(held.key, ()))]
        surplus = {held.key for held in orphan.service_ports} - {held.key for held in mine}
        taken = {held.key: orphan.give_listeners(held, accept) for held in mine if held.key not in served}
        accepted = {held.key for held in mine if taken.get(held.key) in (None, len(held.listeners))}
        for held in mine:
            if held.key in accepted:
                served.setdefault(held.key, []).append(held)
        configs = [_state_of(held) for held in mine]
        inheritance.told.extend(config for config in configs if config is not None)
        is_like = orphan.likeness == ours and len(inheritance.adopted) < pool_size
        if is_like and None not in configs and len(accepted) == len(mine):
            told = tuple(config for config in configs if config is not None)
            inheritance.adopted.append(AdoptedWorker(orphan.link, told, tuple(surplus)))
        else:
            # A UDP listener has one reader at a time, even if others of its Service port do not fit.
            shared = {held.key for held in mine if held.protocol == "UDP" and taken.get(held.key)}
            inheritance.outgoing.append(OutgoingWorker(orphan.link, accepted | surplus | shared))
        for name in orphan.kept.keys() - inheritance.kept.keys():
            inheritance.kept[name] = orphan.kept.pop(name)
        orphan.close()
    return inheritance


def _is_shared(held: HeldServicePort, others: Sequence[HeldServicePort]) -> bool:
    """Whether a worker is to serve this beside `others`."""
    state = _state_of(held) if others else None
    if state is None:
        return not others
    return len(others) < state.workers and all(other.listeners == held.listeners for other in others)


def _state_of(held: HeldServicePort) -> ServicePortConfig | None:
    try:
        return _CONFIG_DECODER.decode(held.state)
    except msgspec.DecodeError:
        return None  # a version with other messages
