"""Who holds which proxy port, and which Service port an address belongs to."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from userspace_proxy.core.service_port import Frontend, Protocol, ProxyPort, ServicePortName


@dataclass(frozen=True, slots=True)
class PortRange:
    """Proxy ports, both ends included."""

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


@dataclass(frozen=True, slots=True, order=True)
class _Claim:
    created: str
    key: str
    owner: ServicePortName = field(compare=False)


@dataclass(slots=True)
class FrontendClaims:
    """Which Service port captures an address. Of several that claim one, the oldest has it.

    Creation times compare as text (RFC 3339, UTC); equal ones are told apart by name, so that the answer does
    not depend on the order in which the objects arrived.
    """

    _claims: dict[Frontend, list[_Claim]] = field(default_factory=dict)
    _held: dict[ServicePortName, tuple[_Claim, tuple[Frontend, ...]]] = field(default_factory=dict)

    def __contains__(self, frontend: Frontend) -> bool:
        return frontend in self._claims

    def owner_of(self, frontend: Frontend) -> ServicePortName | None:
        claims = self._claims.get(frontend)
        return claims[0].owner if claims else None

    def claimants_of(self, frontend: Frontend) -> tuple[ServicePortName, ...]:
        return tuple(claim.owner for claim in self._claims.get(frontend, ()))

    def replace(self, owner: ServicePortName, created: str, frontends: Iterable[Frontend]) -> set[Frontend]:
        """Let `owner` claim exactly `frontends`. Returns the frontends whose claims changed."""
        claim = _Claim(created, owner.key, owner)
        wanted = tuple(dict.fromkeys(frontends))
        held = self._held.pop(owner, None)
        if held == (claim, wanted):
            self._held[owner] = held
            return set()
        changed: set[Frontend] = set(wanted)
        if held is not None:
            old_claim, old_frontends = held
            changed.update(old_frontends)
            for frontend in old_frontends:
                claims = self._claims[frontend]
                claims.remove(old_claim)
                if not claims:
                    del self._claims[frontend]
        for frontend in wanted:
            insort(self._claims.setdefault(frontend, []), claim)
        if wanted:
            self._held[owner] = (claim, wanted)
        return changed
