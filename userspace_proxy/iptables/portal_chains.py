"""Rules of many portals, spread over chains so that a packet meets few of them.

A chain with more than `LEAF_PORTALS` portals holds jumps alone, each for a part of the addresses: the chain
branches where the bits that its portals have in common end, sixteenfold at most, and a part that is small
enough is a leaf. Behind the address come protocol and port, so that an address with many ports branches
too, and NodePorts, which have no address, branch by these alone. How chains branch depends on the portals'
frontends and nothing else, so a change of one portal touches its leaf.

What comes in and what the node sends have a tree of chains each. Where both would have the same rules, they
share the chain: mostly, since a Service with internal addresses alone makes no difference.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Frontend, IPFamily, Protocol
from userspace_proxy.iptables.chains import Chain, Roots, Side
from userspace_proxy.iptables.rules import Jump, Rule

LEAF_PORTALS: Final = 32
"""How many portals a chain has at most before it branches."""

_MAX_DEPTH: Final = 8
"""So deep chains branch, whatever addresses somebody chooses; the kernel allows 16 jumps (nf_tables.h)."""

_STEP_BITS: Final = 4
_PORT_BITS: Final = 16
_PROTOCOLS: Final = tuple(Protocol)


@dataclass(frozen=True, slots=True)
class Entry:
    """A portal's key, and its rules in each tree: the same object if they are equal."""

    key: int
    container: tuple[Rule, ...]
    host: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class KeySpace:
    """Keys of frontends as numbers, in the order of address, protocol and port."""

    family: IPFamily
    has_address: bool

    @property
    def address_bits(self) -> int:
        if not self.has_address:
            return 0
        return 32 if self.family is IPFamily.IPV4 else 128

    @property
    def bits(self) -> int:
        return self.address_bits + 1 + _PORT_BITS

    def key(self, frontend: Frontend) -> int:
        address = int(ip_address(frontend.address)) if self.has_address else 0
        return ((address << 1 | _PROTOCOLS.index(frontend.protocol)) << _PORT_BITS) | frontend.port

    def jump(self, key: int, length: int, chain: Chain) -> Rule:
        """The rule that sends to `chain` what has the first `length` bits of `key`."""
        target = Jump(chain.name)
        destination = self._destination(key, length)
        if length <= self.address_bits:
            return Rule(target=target, destination=destination)
        protocol = _PROTOCOLS[key >> _PORT_BITS & 1]
        open_bits = self.bits - length
        if open_bits == _PORT_BITS:
            return Rule(target=target, destination=destination, protocol=protocol)
        first = (key & (1 << _PORT_BITS) - 1) >> open_bits << open_bits
        ports = PortRange(first, first + (1 << open_bits) - 1)
        return Rule(target=target, destination=destination, protocol=protocol, destination_ports=ports)

    def _destination(self, key: int, length: int) -> str | None:
        if not self.has_address:
            return None
        bits = self.address_bits
        open_bits = max(0, bits - length)
        number = key >> self.bits - bits >> open_bits << open_bits
        address = IPv4Address(number) if self.family is IPFamily.IPV4 else IPv6Address(number)
        return str(address) if open_bits == 0 else f"{address}/{length}"


def branching_chains(
    roots: Roots, space: KeySpace, entries: Sequence[Entry]
) -> dict[Chain, tuple[Rule, ...]]:
    """The chains `roots` and all that they branch into, with their rules. `entries` are sorted by key."""
    return _Trees(roots, space, entries).chains


class _Trees:
    def __init__(self, roots: Roots, space: KeySpace, entries: Sequence[Entry]) -> None:
        self.chains: dict[Chain, tuple[Rule, ...]] = {}
        self._roots = roots
        self._space = space
        self._entries = entries
        self._keys = [entry.key for entry in entries]
        container, host = self._rules(0, len(entries), _MAX_DEPTH)
        self.chains[roots.container] = container
        self.chains[roots.host] = host

    def _rules(self, begin: int, end: int, depth: int) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
        """The rules of both trees' chains for the entries from `begin` to before `end`."""
        if end - begin <= LEAF_PORTALS or depth == 0:
            entries = self._entries[begin:end]
            container = tuple(rule for entry in entries for rule in entry.container)
            if all(entry.container is entry.host for entry in entries):
                return container, container
            return container, tuple(rule for entry in entries for rule in entry.host)
        jumps = [
            self._branch(self._keys[first], length, *self._rules(first, behind, depth - 1))
            for first, behind, length in self._parts(begin, end)
        ]
        return tuple(jump for jump, _ in jumps), tuple(jump for _, jump in jumps)

    def _branch(
        self, key: int, length: int, container: tuple[Rule, ...], host: tuple[Rule, ...]
    ) -> tuple[Rule, Rule]:
        """Give a part's rules a chain, or one in each tree. Returns the jumps."""
        prefix = key >> self._space.bits - length
        if container == host:
            chain, jump = _branch(self._roots, Side.BOTH, self._space, prefix, length)
            self.chains[chain] = container
            return jump, jump
        chain, to_container = _branch(self._roots, Side.CONTAINER, self._space, prefix, length)
        self.chains[chain] = container
        chain, to_host = _branch(self._roots, Side.HOST, self._space, prefix, length)
        self.chains[chain] = host
        return to_container, to_host

    def _parts(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """What a chain branches into: where each part begins and ends, and how many bits it has in common."""
        different_bits = (self._keys[begin] ^ self._keys[end - 1]).bit_length()
        in_common = self._space.bits - different_bits
        deepest = min(self._space.bits, (in_common // _STEP_BITS + 1) * _STEP_BITS)
        return self._split(begin, end, in_common, deepest)

    def _split(self, begin: int, end: int, length: int, deepest: int) -> Iterator[tuple[int, int, int]]:
        if begin == end:
            return
        if length == deepest or end - begin <= LEAF_PORTALS:
            yield begin, end, length
            return
        open_bits = self._space.bits - length - 1
        upper_half = (self._keys[begin] >> open_bits | 1) << open_bits
        middle = bisect_left(self._keys, upper_half, begin, end)
        yield from self._split(begin, middle, length + 1, deepest)
        yield from self._split(middle, end, length + 1, deepest)


@lru_cache(maxsize=8192)
def _branch(roots: Roots, side: Side, space: KeySpace, prefix: int, length: int) -> tuple[Chain, Rule]:
    """The chain for the part of the traffic whose keys begin with `prefix`, and the jump to it."""
    chain = roots.branch(side, f"{prefix:x}/{length}")
    return chain, space.jump(prefix << space.bits - length, length, chain)
