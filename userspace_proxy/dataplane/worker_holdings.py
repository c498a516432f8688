"""What a worker holds of its agent's, remembered so that the next agent can have it back."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from userspace_proxy.dataplane.messages import MAX_DESCRIPTORS_PER_MESSAGE, ListenerKey, ServicePortConfig
from userspace_proxy.dataplane.succession import HandedBack, HeldServicePort

_MAX_STATE_BYTES: Final = 1 << 20


class WorkerHoldings:
    """Listeners, which stay their `Worker`'s to close, and sockets that are only kept, which are ours."""

    def __init__(self) -> None:
        self._service_ports: dict[str, HeldServicePort] = {}
        self._listeners: dict[ListenerKey, socket.socket] = {}
        self._kept: dict[str, socket.socket] = {}
        self._encoder = msgspec.msgpack.Encoder()

    @property
    def has_listeners(self) -> bool:
        return bool(self._listeners)

    @property
    def service_ports(self) -> tuple[str, ...]:
        """The keys of the Service ports that are served."""
        return tuple(self._service_ports)

    def serve(
        self,
        service_ports: Iterable[ServicePortConfig],
        removed: Iterable[str],
        sockets: Mapping[ListenerKey, socket.socket],
    ) -> None:
        """The worker has been told so. Costs as much as changes, however much there is."""
        known: dict[ListenerKey, socket.socket] = {}
        for key in removed:
            self._let_go(key, known)
        serving = list(service_ports)
        for config in serving:
            self._let_go(config.key, known)
        known.update(sockets)
        for config in serving:
            listeners = tuple((listener.policy, listener.proxy_port) for listener in config.listeners)
            held = HeldServicePort(
                config.key, config.protocol, config.family, listeners, self._encoder.encode(config)
            )
            self._service_ports[config.key] = held
            self._listeners.update((key, known[key]) for key in _keys(held))

    def _let_go(self, service_port: str, listeners: dict[ListenerKey, socket.socket]) -> None:
        held = self._service_ports.pop(service_port, None)
        if held is not None:
            listeners.update((key, self._listeners.pop(key)) for key in _keys(held))

    def keep(self, names: Sequence[str], new: Mapping[str, socket.socket]) -> None:
        """Keep exactly the sockets of these names; `new` ones take the place of others of their name."""
        for name in [name for name in self._kept if name in new or name not in names]:
            self._kept.pop(name).close()
        self._kept.update(new)

    def handed_back(self, sequence: int, start: int) -> tuple[HandedBack, list[int]]:
        """As much as one message carries, from item number `start` on, and the descriptors beside it."""
        service_ports: list[HeldServicePort] = []
        kept: list[str] = []
        descriptors: list[int] = []
        size = 0
        items: list[HeldServicePort | str] = [*self._service_ports.values(), *self._kept]
        for number, item in enumerate(items[start:], start):
            if isinstance(item, str):
                more = [self._kept[item].fileno()]
            else:
                more = [self._listeners[key].fileno() for key in _keys(item)]
                size += len(item.state)
            if number > start and (
                len(descriptors) + len(more) > MAX_DESCRIPTORS_PER_MESSAGE or size > _MAX_STATE_BYTES
            ):
                return HandedBack(sequence, tuple(service_ports), tuple(kept), number), descriptors
            descriptors += more
            if isinstance(item, str):
                kept.append(item)
            else:
                service_ports.append(item)
        return HandedBack(sequence, tuple(service_ports), tuple(kept), None), descriptors

    def close(self) -> None:
        """Close what is kept. Safe to repeat."""
        self.keep((), {})


def _keys(held: HeldServicePort) -> list[ListenerKey]:
    return [ListenerKey(held.protocol, port) for _, port in held.listeners]
