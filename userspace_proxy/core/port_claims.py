"""Who holds which proxy port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from userspace_proxy.core.service_port import Protocol, ProxyPort


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


DEFAULT_PROXY_PORT_RANGE: Final = PortRange(11000, 29999)
"""Below the NodePorts (30000-32767) and the kernel's ephemeral ports (32768-60999), above Kubernetes' own
(6443, 2379-2380, 10248-10259): nobody else is handed one of these by chance."""


@dataclass(slots=True)
class ProxyPortClaims:
    """The proxy ports in use. TCP and UDP have numbers of their own."""

    port_range: PortRange
    _taken: dict[Protocol, set[int]] = field(
        default_factory=lambda: {protocol: set() for protocol in Protocol}
    )
    _kept: frozenset[tuple[Protocol, ProxyPort]] = frozenset()

    def keep(self, ports: Iterable[tuple[Protocol, ProxyPort]]) -> None:
        """Hand these out only to who prefers them: rules of an earlier run may still lead there."""
        self._kept = frozenset(ports)

    def candidates(self, protocol: Protocol, preferred: ProxyPort | None, start: int) -> Iterator[ProxyPort]:
        """Ports to try, each once: `preferred` if it is ours to take, then the range from `start` around.

        Claiming is the caller's, once a socket is bound: a stranger may sit on any of them.
        """
        taken = self._taken[protocol]
        if preferred is not None and preferred in self.port_range and preferred not in taken:
            yield preferred
        size = len(self.port_range)
        for step in range(size):
            port = self.port_range.first + (start + step) % size
            if port not in taken and port != preferred and (protocol, port) not in self._kept:
                yield ProxyPort(port)

    def claim(self, protocol: Protocol, port: ProxyPort) -> None:
        self._taken[protocol].add(port)

    def release(self, protocol: Protocol, port: ProxyPort) -> None:
        self._taken[protocol].discard(port)
