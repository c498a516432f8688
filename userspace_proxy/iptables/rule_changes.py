"""From what is installed to what is wanted, in as few edits as that takes.

Only chains of ours and jumps into them appear in a change, so rules of others, their order and their
counters stay as they are. A chain is edited rule by rule while that is little; otherwise it is written anew,
which within one commit is as atomic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final, TypeAlias, assert_never

from userspace_proxy.iptables.chains import Chain, Table
from userspace_proxy.iptables.rules import Foreign, Hook, InstalledHook, InstalledRules, Place, Rule, RuleSet

_CHAIN_ENTRIES: Final = 2
"""What a chain of a legacy table is by itself: an entry with its name, and one that returns."""


@dataclass(frozen=True, slots=True)
class WriteChain:
    """Create the chain, or empty it, and append the rules.

    `replaced` is how many rules it has; None: there is no such chain yet.
    """

    chain: Chain
    rules: tuple[Rule, ...]
    replaced: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class DeleteRule:
    """Delete the rule at `position` (the first is 1) of a chain of ours."""

    chain: Chain
    position: int


@dataclass(frozen=True, slots=True)
class InsertRule:
    """Insert the rule so that it stands at `position` (the first is 1)."""

    chain: Chain
    position: int
    rule: Rule


@dataclass(frozen=True, slots=True)
class DeleteHook:
    """Delete one jump into ours from a chain that is not: by its text, since others write there too."""

    hook: InstalledHook


@dataclass(frozen=True, slots=True)
class AddHook:
    """Insert the jump as the first rule of the built-in chain, or append it as the last."""

    hook: Hook


@dataclass(frozen=True, slots=True)
class DeleteChain:
    """Empty the chain of its `rules`, and delete it. No jump into it is left by then."""

    chain: Chain
    rules: int = field(default=0, compare=False)


Step: TypeAlias = WriteChain | DeleteRule | InsertRule | DeleteHook | AddHook | DeleteChain


@dataclass(frozen=True, slots=True)
class TableChange:
    """One commit: the steps, in order, all or none of them."""

    table: Table
    steps: tuple[Step, ...]

    @property
    def rule_count(self) -> int:
        """How many rules are written or deleted one by one: the cost of committing it."""
        return sum(len(step.rules) if isinstance(step, WriteChain) else 1 for step in self.steps)

    @property
    def entries_added(self) -> int:
        """By how many entries a legacy table grows: one a rule, and two for a chain itself."""
        return sum(map(_entries_added, self.steps))


def _entries_added(step: Step) -> int:
    match step:
        case WriteChain(_, rules, replaced):
            return len(rules) + (_CHAIN_ENTRIES if replaced is None else -replaced)
        case DeleteChain(_, rules_left):
            return -rules_left - _CHAIN_ENTRIES
        case InsertRule() | AddHook():
            return 1
        case DeleteRule() | DeleteHook():
            return -1
        case _:
            assert_never(step)


def chain_of(step: Step) -> Chain:
    """The chain that the step changes."""
    return step.hook.chain if isinstance(step, AddHook | DeleteHook) else step.chain


def plan_changes(installed: InstalledRules, wanted: RuleSet) -> tuple[TableChange, ...]:
    """The changes that lead from `installed` to `wanted`, a table at most once, filter before nat.

    Empty when nothing is to be done. The guard stands before anything is captured.
    """
    changes = (
        TableChange(table, tuple(_plan_table(table, installed, wanted)))
        for table in (Table.FILTER, Table.NAT)
    )
    return tuple(change for change in changes if change.steps)


def plan_removal(installed: InstalledRules) -> tuple[TableChange, ...]:
    """The changes that remove everything of ours: nothing is captured any more before the guard goes."""
    return tuple(reversed(plan_changes(installed, RuleSet())))


def _plan_table(table: Table, installed: InstalledRules, wanted: RuleSet) -> Iterator[Step]:
    for chain, rules in wanted.chains.items():
        if chain.table is table:
            yield from _plan_chain(chain, installed.chains.get(chain), rules)
    yield from _plan_hooks(table, installed, wanted)
    for chain, rules_left in installed.chains.items():
        if chain.table is table and chain not in wanted.chains:
            yield DeleteChain(chain, len(rules_left))


def _plan_chain(
    chain: Chain, installed: tuple[Rule | Foreign, ...] | None, wanted: tuple[Rule, ...]
) -> Iterator[Step]:
    if installed == wanted:
        return
    edits = None if installed is None else _plan_edits(chain, installed, wanted)
    if edits is None or len(edits) > len(wanted):
        yield WriteChain(chain, wanted, None if installed is None else len(installed))
    else:
        yield from edits


def _plan_edits(
    chain: Chain, installed: tuple[Rule | Foreign, ...], wanted: tuple[Rule, ...]
) -> list[Step] | None:
    """Deletions and insertions that keep what stays; None when what stays would have to change places."""
    # Of 20,000 rules few differ, mostly near each other, and hashing all of them takes a while.
    same = _common_length(zip(installed, wanted, strict=False))
    rest = zip(reversed(installed[same:]), reversed(wanted[same:]), strict=False)
    same_at_end = _common_length(rest)
    old = installed[same : len(installed) - same_at_end]
    new = wanted[same : len(wanted) - same_at_end]
    old_rules, new_rules = set(old), set(new)
    if [rule for rule in old if rule in new_rules] != [rule for rule in new if rule in old_rules]:
        return None
    deleted = [position for position, rule in enumerate(old, same + 1) if rule not in new_rules]
    inserted = [(position, rule) for position, rule in enumerate(new, same + 1) if rule not in old_rules]
    # The last position is deleted first, and the first inserted first: so each is right in its turn.
    return [
        *(DeleteRule(chain, position) for position in reversed(deleted)),
        *(InsertRule(chain, position, rule) for position, rule in inserted),
    ]


def _common_length(pairs: Iterable[tuple[object, object]]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _plan_hooks(table: Table, installed: InstalledRules, wanted: RuleSet) -> Iterator[Step]:
    found = [hook for hook in installed.hooks if hook.chain.table is table]
    desired = [hook for hook in wanted.hooks if hook.chain.table is table]
    for chain in dict.fromkeys([hook.chain for hook in found] + [hook.chain for hook in desired]):
        ours = [hook for hook in found if hook.chain == chain]
        firsts = [hook for hook in desired if hook.chain == chain and hook.place is Place.FIRST]
        lasts = [hook for hook in desired if hook.chain == chain and hook.place is Place.LAST]
        if len(ours) == len(firsts) + len(lasts) and all(map(_stands, ours, firsts + lasts)):
            continue
        yield from (DeleteHook(hook) for hook in ours)
        yield from (AddHook(hook) for hook in reversed(firsts))  # each is inserted before the one before
        yield from (AddHook(hook) for hook in lasts)


def _stands(installed: InstalledHook, wanted: Hook) -> bool:
    others = installed.others_before if wanted.place is Place.FIRST else installed.others_after
    return installed.rule == wanted.rule and others == 0
