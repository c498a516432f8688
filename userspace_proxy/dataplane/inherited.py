"""What a worker hands over with its listeners, so that the next one goes on where it stopped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from userspace_proxy.dataplane.poller import Socket
from userspace_proxy.dataplane.succession import AffineClient, HeldFlow

Flow: TypeAlias = tuple[HeldFlow, Socket]


@dataclass(slots=True)
class Inherited:
    """UDP flows with their sockets, which are ours to close, and clients that have an endpoint."""

    _flows: dict[tuple[str, int], list[Flow]] = field(default_factory=lambda: defaultdict(list))
    _clients: dict[str, list[AffineClient]] = field(default_factory=lambda: defaultdict(list))

    def add(self, flows: Iterable[Flow], clients: Iterable[AffineClient]) -> None:
        for held, sock in flows:
            self._flows[held.service_port, held.proxy_port].append((held, sock))
        for client in clients:
            self._clients[client.service_port].append(client)

    def take_flows(self, service_port: str, proxy_port: int) -> list[Flow]:
        """The flows of one listener, whose sockets are the caller's from here on."""
        return self._flows.pop((service_port, proxy_port), [])

    def take_clients(self, service_port: str) -> list[AffineClient]:
        return self._clients.pop(service_port, [])

    def end_flows(self, service_port: str) -> None:
        """End those of its listeners that there are no more."""
        for key in [key for key in self._flows if key[0] == service_port]:
            close_flows(self._flows.pop(key))

    def close(self) -> None:
        """End the flows that nobody has taken, and forget the clients. Safe to repeat."""
        while self._flows:
            close_flows(self._flows.popitem()[1])
        self._clients.clear()


def close_flows(flows: Iterable[Flow]) -> None:
    """End flows that nobody goes on with."""
    for _, sock in flows:
        sock.close()
