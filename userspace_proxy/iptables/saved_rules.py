"""Reading what `iptables-save` prints: our chains, their rules, and the jumps into them.

Everything else in the output is skipped, and nothing in it is an error: a line in a chain of ours that we
cannot read is a `Foreign` rule. To parse 10,000 rules takes several times as long as to print them, so what
was read before is known again by a digest of the lines that concern us.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_network
from itertools import pairwise

from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Protocol
from userspace_proxy.iptables.chains import NAMES_OF_OURS, Chain, Table, is_ours
from userspace_proxy.iptables.rules import (
    ConntrackState,
    Dnat,
    Foreign,
    InstalledHook,
    InstalledRules,
    Jump,
    Redirect,
    Reject,
    Rule,
    StateMatch,
    Target,
    Verdict,
)

_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_ESCAPED = re.compile(r"\\(.)")
_TURNS_AWAY = re.compile(r"-j (?:DROP|REJECT)\b")
_JUMP_OF_OURS = re.compile(rf"-[jg] (?:{NAMES_OF_OURS})\b")
_PROTOCOLS = {"tcp": Protocol.TCP, "6": Protocol.TCP, "udp": Protocol.UDP, "17": Protocol.UDP}
_CONCERNS_US = ("*", "-A PREROUTING ", "-A INPUT ", "-A OUTPUT ")
"""How lines begin of which we need to know: tables, and chains that jump to ours, with all rules there."""


class SavedRules:
    """What the program printed: one family, one variant."""

    def __init__(self, printed: str) -> None:
        self._lines = [
            line for line in printed.split("\n") if "KUBE-" in line or line.startswith(_CONCERNS_US)
        ]

    @cached_property
    def digest(self) -> bytes:
        """Equal for equal rules of ours, whatever others write elsewhere and the counters say."""
        return hashlib.sha256("\n".join(self._lines).encode("utf-8", "surrogateescape")).digest()

    def parse(self) -> InstalledRules:
        """The rules of ours."""
        return parse_saved_rules(self._lines)


def parse_saved_rules(lines: Iterable[str]) -> InstalledRules:
    """The rules of ours in `iptables-save`'s output (one family, one variant)."""
    chains: dict[Chain, list[Rule | Foreign]] = {}
    others: dict[Chain, int] = {}
    found_hooks: list[tuple[Chain, Chain, str, int]] = []
    table: Table | None = None
    for line in lines:
        if line.startswith("*"):
            table = next((known for known in Table if known.value == line[1:].strip()), None)
        elif table is None:
            continue
        elif line.startswith(":"):
            chain = Chain(table, line[1:].split(" ", 1)[0])
            if is_ours(chain):
                chains[chain] = []
        elif line.startswith("-A "):
            _, name, rule_text = line.split(" ", 2)
            chain = Chain(table, name)
            if chain in chains:
                chains[chain].append(parse_rule(rule_text))
            elif _JUMP_OF_OURS.search(rule_text) and (target := _chain_jumped_to(table, rule_text)):
                found_hooks.append((chain, target, rule_text, others.get(chain, 0)))
            elif not (table is Table.FILTER and _turns_away(rule_text)):
                others[chain] = others.get(chain, 0) + 1
    hooks = (
        InstalledHook(chain, target, parse_rule(rule_text), rule_text, before, others.get(chain, 0) - before)
        for chain, target, rule_text, before in found_hooks
    )
    return InstalledRules({chain: tuple(rules) for chain, rules in chains.items()}, tuple(hooks))


@dataclass(frozen=True, slots=True)
class CountedRule:
    """A rule in a chain of ours, or a jump into one, and what the kernel has counted there."""

    chain: Chain
    rule: Rule | Foreign
    packets: int
    bytes: int


def counted_rules(printed: str, naming: str = "") -> Iterator[CountedRule]:
    """The rules of ours in `iptables-save -c`'s output that have `naming` in them.

    Each is parsed when it is asked for.
    """
    table: Table | None = None
    for line in printed.split("\n"):
        if line.startswith("*"):
            table = next((known for known in Table if known.value == line[1:].strip()), None)
        elif table is not None and line.startswith("[") and "KUBE-" in line and naming in line:
            counts, _, name, rule_text = line.split(" ", 3)
            chain = Chain(table, name)
            if is_ours(chain) or _chain_jumped_to(table, rule_text):
                packets, _, size = counts[1:-1].partition(":")
                yield CountedRule(chain, parse_rule(rule_text), int(packets), int(size))


def parse_rule(text: str) -> Rule | Foreign:
    """The rule that `text` (what follows `-A CHAIN`) says, or Foreign when it says more than we write."""
    try:
        return _parse(words(text))
    except (ValueError, KeyError, StopIteration):
        return Foreign(text)


def words(text: str) -> list[str]:
    """The words of a saved rule, quotes and escapes resolved."""
    return [word or _ESCAPED.sub(r"\1", quoted) for quoted, word in _WORD.findall(text)]


def _turns_away(text: str) -> bool:
    """Whether the rule drops or rejects; before the guard, whom it does is for others to decide."""
    if not _TURNS_AWAY.search(text):
        return False
    return any(option == "-j" and name in ("DROP", "REJECT") for option, name in pairwise(words(text)))


def _chain_jumped_to(table: Table, text: str) -> Chain | None:
    """The chain of ours that the rule jumps to; None if it does not (a comment may only say so)."""
    for option, name in pairwise(words(text)):
        if option in ("-j", "-g") and is_ours(Chain(table, name)):
            return Chain(table, name)
    return None


def _parse(parts: list[str]) -> Rule:
    """Raises ValueError, KeyError or StopIteration at the first word that a Rule has no place for."""
    protocol: Protocol | None = None
    source: str | None = None
    destination: str | None = None
    ports: PortRange | None = None
    in_interface: str | None = None
    to_local_address = False
    states: list[StateMatch] = []
    comment = ""
    target: Target | None = None
    negated = False
    rest = iter(parts)
    for option in rest:
        if negated and option != "--ctstate":
            raise ValueError(option)
        match option:
            case "-m":
                next(rest)  # what a match is used for is in its options
            case "-s":
                source = _address(next(rest))
            case "-d":
                destination = _address(next(rest))
            case "-p":
                protocol = _PROTOCOLS[next(rest)]
            case "--comment":
                comment = next(rest)
            case "--dport":
                ports = _ports(next(rest))
            case "-j":
                target = _target(next(rest), rest)
            case "!":
                negated = True
            case "--ctstate":
                names = next(rest).split(",")
                states.append(StateMatch(frozenset(ConntrackState(name) for name in names), negated))
                negated = False
            case "-i":
                in_interface = next(rest)
            case "--dst-type":
                if next(rest) != "LOCAL":
                    raise ValueError(option)
                to_local_address = True
            case _:
                raise ValueError(option)
    if target is None:
        raise ValueError("no target")
    return Rule(
        target=target,
        protocol=protocol,
        source=source,
        destination=destination,
        destination_ports=ports,
        in_interface=in_interface,
        to_local_address=to_local_address,
        states=tuple(states),
        comment=comment,
    )


def _address(text: str) -> str:
    """As we spell it: an address without the length of its prefix, and no IPv4 spelling inside IPv6."""
    if ":" not in text:
        return text.removesuffix("/32")
    if "." in text:
        text = str(ip_network(text))
    return text.removesuffix("/128")


def _ports(text: str) -> PortRange:
    first, _, last = text.partition(":")
    return PortRange(int(first), int(last or first))


def _target(name: str, rest: Iterator[str]) -> Target:
    match name:
        case "REDIRECT":
            return Redirect(int(_option(rest, "--to-ports")))
        case "DNAT":
            address, colon, port = _option(rest, "--to-destination").rpartition(":")
            if not colon:
                raise ValueError("no port")
            return Dnat(address.removeprefix("[").removesuffix("]"), int(port))
        case "REJECT":
            return Reject(_option(rest, "--reject-with"))
        case "ACCEPT" | "DROP" | "RETURN":
            return Verdict(name)
        case _:
            return Jump(name)


def _option(rest: Iterator[str], expected: str) -> str:
    if (option := next(rest)) != expected:
        raise ValueError(option)
    return next(rest)
