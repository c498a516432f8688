"""Rules as values, and their text: the syntax that iptables-save prints and iptables-restore reads.

A `Rule` is what we write. A line in a chain of ours that is no such rule is a value too, `Foreign`: it
equals nothing that we want, so it goes. `iptables-save` of both variants (nft, legacy) and of different
releases differs in the order of matches, in quoting and in spelling out defaults; equal rules are equal
values however they were printed. Source: iptables-extensions(8).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Protocol, host_port
from userspace_proxy.iptables.chains import Chain, Table

COMMENT_LIMIT = 255
"""XT_MAX_COMMENT_LEN, without its closing zero."""

_UNSAFE = re.compile(r"""[^ -~]|["'\\]""")


class ConntrackState(Enum):
    """What `-m conntrack --ctstate` can name, in the order in which it is printed."""

    INVALID = "INVALID"
    NEW = "NEW"
    RELATED = "RELATED"
    ESTABLISHED = "ESTABLISHED"
    UNTRACKED = "UNTRACKED"
    SNAT = "SNAT"
    DNAT = "DNAT"


@dataclass(frozen=True, slots=True)
class StateMatch:
    """Matches when the packet has one of the states, or, negated, none of them."""

    states: frozenset[ConntrackState]
    negated: bool = False

    @property
    def names(self) -> str:
        return ",".join(state.value for state in ConntrackState if state in self.states)

    def __str__(self) -> str:
        return f"{'! ' if self.negated else ''}--ctstate {self.names}"


def is_any_of(*states: ConntrackState) -> StateMatch:
    return StateMatch(frozenset(states))


def is_none_of(*states: ConntrackState) -> StateMatch:
    return StateMatch(frozenset(states), negated=True)


class Verdict(Enum):
    ACCEPT = "ACCEPT"
    DROP = "DROP"
    RETURN = "RETURN"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Redirect:
    """To a port of the node, on an address of the interface that the packet came in by."""

    port: int

    def __str__(self) -> str:
        return f"REDIRECT --to-ports {self.port}"


@dataclass(frozen=True, slots=True)
class Dnat:
    address: str
    port: int

    def __str__(self) -> str:
        return f"DNAT --to-destination {host_port(self.address, self.port)}"


@dataclass(frozen=True, slots=True)
class Reject:
    """`reply` is iptables' word: tcp-reset, icmp-port-unreachable, icmp6-port-unreachable …"""

    reply: str

    def __str__(self) -> str:
        return f"REJECT --reject-with {self.reply}"


@dataclass(frozen=True, slots=True)
class Jump:
    chain: str

    def __str__(self) -> str:
        return self.chain


Target: TypeAlias = Verdict | Redirect | Dnat | Reject | Jump


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of ours. What is None, empty or False does not narrow it.

    `source` and `destination` are an address or a network with its prefix length. `in_interface` is a name,
    or the beginning of names with a "+" after it. `comment` must be safe (`safe_comment` makes it so): raises
    ValueError otherwise, as it does for ports without a protocol.
    """

    target: Target
    protocol: Protocol | None = None
    source: str | None = None
    destination: str | None = None
    destination_ports: PortRange | None = None
    in_interface: str | None = None
    to_local_address: bool = False
    states: tuple[StateMatch, ...] = ()
    comment: str = ""

    def __post_init__(self) -> None:
        if len(self.comment) > COMMENT_LIMIT or _UNSAFE.search(self.comment):
            raise ValueError(f"not a safe comment: {self.comment!r}")
        if self.destination_ports and not self.protocol:
            raise ValueError("ports need a protocol")

    def __str__(self) -> str:
        """What follows `-A CHAIN` in iptables-restore's input."""
        words = []
        if self.source:
            words.append(f"-s {self.source}")
        if self.destination:
            words.append(f"-d {self.destination}")
        if self.in_interface:
            words.append(f"-i {self.in_interface}")
        if self.protocol:
            words.append(f"-p {self.protocol.value.lower()}")
        if self.comment:
            words.append(f'-m comment --comment "{self.comment}"')
        if self.destination_ports and self.protocol:
            words.append(f"-m {self.protocol.value.lower()} --dport {spelled_ports(self.destination_ports)}")
        if self.to_local_address:
            words.append("-m addrtype --dst-type LOCAL")
        words.extend(f"-m conntrack {match}" for match in self.states)
        words.append(f"-j {self.target}")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A rule that we would never write, as the tool printed it."""

    text: str

    def __str__(self) -> str:
        return self.text


class Place(Enum):
    """Where in a built-in chain a jump of ours stands: before, or after, all rules of others."""

    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Hook:
    """The rule in a built-in chain that jumps to `target`, a chain of ours."""

    chain: Chain
    target: Chain
    rule: Rule
    place: Place


@dataclass(frozen=True, slots=True)
class InstalledHook:
    """A jump to `target`, a chain of ours, as it was found in another chain.

    `text` is the rule as the tool printed it, by which it can be deleted; `others_before` and
    `others_after` count the rules of others around it, in filter without those that drop or reject.
    """

    chain: Chain
    target: Chain
    rule: Rule | Foreign
    text: str
    others_before: int
    others_after: int


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What we want to be installed: every chain of ours with its rules, and the hooks, in order."""

    chains: Mapping[Chain, tuple[Rule, ...]] = field(default_factory=dict)
    hooks: tuple[Hook, ...] = ()

    def count_by_table(self) -> dict[str, int]:
        """How many rules there are in each table, hooks included."""
        counts = {table.value: 0 for table in Table}
        for chain, rules in self.chains.items():
            counts[chain.table.value] += len(rules)
        for hook in self.hooks:
            counts[hook.chain.table.value] += 1
        return counts


@dataclass(frozen=True, slots=True)
class InstalledRules:
    """What was found: the chains of ours that exist and the jumps into them."""

    chains: Mapping[Chain, tuple[Rule | Foreign, ...]] = field(default_factory=dict)
    hooks: tuple[InstalledHook, ...] = ()


def as_installed(wanted: RuleSet) -> InstalledRules:
    """What would be read back right after `wanted` was committed."""
    hooks = (
        InstalledHook(
            hook.chain,
            hook.target,
            hook.rule,
            str(hook.rule),
            others_before=0 if hook.place is Place.FIRST else 1,
            others_after=0 if hook.place is Place.LAST else 1,
        )
        for hook in wanted.hooks
    )
    return InstalledRules(wanted.chains, tuple(hooks))


def spelled_ports(ports: PortRange) -> str:
    """As iptables writes them."""
    return str(ports.first) if ports.first == ports.last else f"{ports.first}:{ports.last}"


def safe_comment(text: str) -> str:
    """`text` so that every tool keeps it as it is: at most 255 printable ASCII characters, no quotes."""
    return _UNSAFE.sub("?", text[:COMMENT_LIMIT])
