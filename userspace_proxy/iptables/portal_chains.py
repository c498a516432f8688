"""Rules of many portals, spread over chains so that a packet meets few of them.

A chain with more than `LEAF_PORTALS` portals holds jumps alone, each for a part of the addresses: the chain
branches where the bits that its portals have in common end, sixteenfold at most, and a part that is small
enough is a leaf. Behind the address come protocol and port, so that an address with many ports branches
too, and NodePorts, which have no address, branch by these alone. Which chains there are depends on the
portals' frontends and nothing else, so a change of one portal touches its leaf.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

from userspace_proxy.core.service_port import Frontend, IPFamily, Protocol
from userspace_proxy.iptables.rules import Chain, Jump, PortRange, Rule, branch_of

LEAF_PORTALS: Final = 32
"""How many portals a chain has at most before it branches."""

_MAX_DEPTH: Final = 8
"""So deep chains branch, whatever addresses somebody chooses; the kernel allows 16 jumps (nf_tables.h)."""

_STEP_BITS: Final = 4
_PORT_BITS: Final = 16
_PROTOCOLS: Final = tuple(Protocol)

Entry: TypeAlias = tuple[int, tuple[Rule, ...]]
"""A portal's key and its rules."""


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
    root: Chain, space: KeySpace, entries: Sequence[Entry]
) -> Iterator[tuple[Chain, tuple[Rule, ...]]]:
    """The chain `root` and all that it branches into, with their rules. `entries` are sorted by key."""
    return _Tree(root, space, entries).chains(root, 0, len(entries), _MAX_DEPTH)


class _Tree:
    def __init__(self, root: Chain, space: KeySpace, entries: Sequence[Entry]) -> None:
        self._root = root
        self._space = space
        self._entries = entries
        self._keys = [key for key, _ in entries]

    def chains(
        self, chain: Chain, begin: int, end: int, depth: int
    ) -> Iterator[tuple[Chain, tuple[Rule, ...]]]:
        """The chain for the entries from `begin` to before `end`, and what it branches into."""
        if end - begin <= LEAF_PORTALS or depth == 0:
            yield chain, tuple(rule for _, rules in self._entries[begin:end] for rule in rules)
            return
        jumps = []
        for first, behind, length in self._parts(begin, end):
            key = self._keys[first]
            branch = branch_of(self._root, f"{key >> self._space.bits - length:x}/{length}")
            jumps.append(self._space.jump(key, length, branch))
            yield from self.chains(branch, first, behind, depth - 1)
        yield chain, tuple(jumps)

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
