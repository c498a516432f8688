"""Who holds which proxy port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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


_FREE: Final = 0
_CLAIMED: Final = 1
_KEPT: Final = 2
_STRANGERS: Final = 4
_WITHOUT_STRANGERS: Final = bytes(state & ~_STRANGERS for state in range(256))


class ProxyPortClaims:
    """The proxy ports in use. TCP and UDP have numbers of their own.

    A byte for each port of the range says whose it is, so a free one is found, or seen to be missing, by a
    search through some kilobytes of memory, however many are taken.
    """

    def __init__(self, port_range: PortRange) -> None:
        self.port_range = port_range
        self._states = {protocol: bytearray(len(port_range)) for protocol in Protocol}
        self._kept: frozenset[tuple[Protocol, ProxyPort]] = frozenset()
        self._next_look = 0

    def keep(self, ports: Iterable[tuple[Protocol, ProxyPort]]) -> None:
        """Hand these out only to who prefers them: rules of an earlier run may still lead there.

        An empty collection ends that.
        """
        for protocol, port in self._kept:
            self._set(protocol, port, _KEPT, False)
        self._kept = frozenset((protocol, port) for protocol, port in ports if port in self.port_range)
        for protocol, port in self._kept:
            self._set(protocol, port, _KEPT, True)

    def room(self, protocol: Protocol) -> int:
        """How many ports may still be claimed, if all that are kept are claimed again."""
        states = self._states[protocol]
        return states.count(_FREE) + states.count(_KEPT)

    def candidates(self, protocol: Protocol, preferred: ProxyPort | None, start: int) -> Iterator[ProxyPort]:
        """Ports to try, each once: `preferred` if it is ours to take, then the range from `start` around.

        What to do with each is the caller's to say before the next: `claim` it, once a socket is bound, or
        `pass_over` it.
        """
        states, first = self._states[protocol], self.port_range.first
        if (
            preferred is not None
            and preferred in self.port_range
            and not states[preferred - first] & _CLAIMED
        ):
            yield preferred
        start %= len(states)
        for begin, end in ((start, len(states)), (0, start)):
            at = states.find(_FREE, begin, end)
            while at >= 0:
                if first + at != preferred:
                    yield ProxyPort(first + at)
                at = states.find(_FREE, at + 1, end)

    def claim(self, protocol: Protocol, port: ProxyPort) -> None:
        self._set(protocol, port, _CLAIMED, True)

    def release(self, protocol: Protocol, port: ProxyPort) -> None:
        self._set(protocol, port, _CLAIMED, False)

    def pass_over(self, protocol: Protocol, port: ProxyPort) -> None:
        """A stranger sits on the port: do not try it again until `look_again`, unless it is preferred."""
        self._set(protocol, port, _STRANGERS, True)

    def look_again(self, most: int) -> None:
        """Let up to `most` ports be tried again that were passed over; which ones, goes in turn."""
        begin, size = self._next_look, len(self.port_range)
        end = min(begin + most, size)
        self._next_look = end % size
        for states in self._states.values():
            states[begin:end] = states[begin:end].translate(_WITHOUT_STRANGERS)

    def _set(self, protocol: Protocol, port: ProxyPort, flag: int, is_set: bool) -> None:
        states, at = self._states[protocol], port - self.port_range.first
        states[at] = states[at] | flag if is_set else states[at] & ~flag
