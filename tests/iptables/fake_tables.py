"""Tables in memory that refuse what the kernel refuses; faults on demand."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

from userspace_proxy.errors import RulesError
from userspace_proxy.iptables.chains import Chain, Table, is_ours
from userspace_proxy.iptables.iptables_restore import Variant
from userspace_proxy.iptables.rule_changes import (
    AddHook,
    DeleteChain,
    DeleteHook,
    DeleteRule,
    InsertRule,
    Step,
    TableChange,
    WriteChain,
)
from userspace_proxy.iptables.rules import InstalledRules, Jump, Place, Rule
from userspace_proxy.iptables.saved_rules import SavedRules

BUILTINS = {
    Table.FILTER: ("INPUT", "FORWARD", "OUTPUT"),
    Table.NAT: ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
}


class FakeTables:
    """A backend whose rules are lines, as iptables-save prints them, by chain."""

    def __init__(self, lines: Mapping[Chain, list[str]] | None = None) -> None:
        self.chains: dict[Chain, list[str]] = {
            Chain(table, name): [] for table, names in BUILTINS.items() for name in names
        }
        self.chains.update(deepcopy(dict(lines or {})))
        self.generation = 0
        self.mark_sees_everything = False
        self.variant = Variant.NFT
        self.reads = 0
        self.committed: list[Table] = []
        self.failing: set[Table] = set()

    def printed(self) -> str:
        lines = []
        for table in Table:
            lines.append(f"*{table.value}")
            names = {chain.name: rules for chain, rules in self.chains.items() if chain.table is table}
            lines += [f":{name} - [0:0]" for name in names]
            lines += [f"-A {name} {rule}" for name, rules in names.items() for rule in rules]
            lines.append("COMMIT")
        return "\n".join(lines)

    def others(self) -> dict[Chain, list[str]]:
        """What is not ours: other chains and their rules, without jumps to ours."""
        return {
            chain: [rule for rule in rules if not is_ours(Chain(chain.table, rule.rpartition("-j ")[2]))]
            for chain, rules in self.chains.items()
            if not is_ours(chain)
        }

    def read(self) -> InstalledRules:
        return self.save().parse()

    def save(self) -> SavedRules:
        self.reads += 1
        return SavedRules(self.printed())

    def mark(self) -> int:
        return self.generation

    def commit(self, change: TableChange) -> None:
        if change.table in self.failing:
            raise RulesError(f"table {change.table.value} says no")
        before = deepcopy(self.chains)
        try:
            for step in change.steps:
                if isinstance(step, WriteChain):
                    self.chains[step.chain] = []
            for step in change.steps:
                self._apply(change.table, step)
            self._delete([step.chain for step in change.steps if isinstance(step, DeleteChain)])
        except (KeyError, ValueError, IndexError) as error:
            self.chains = before
            raise RulesError(str(error)) from error
        self.committed.append(change.table)

    def _apply(self, table: Table, step: Step) -> None:
        match step:
            case WriteChain(chain, rules):
                self._check(table, chain)
                for rule in rules:
                    self._check_jump(table, rule)
                self.chains[chain] = [str(rule) for rule in rules]
            case DeleteRule(chain, position):
                self._check(table, chain)
                self.chains[chain].pop(position - 1)
            case InsertRule(chain, position, rule):
                self._check(table, chain)
                if position > len(self.chains[chain]) + 1:
                    raise IndexError(position)
                self._check_jump(table, rule)
                self.chains[chain].insert(position - 1, str(rule))
            case DeleteHook(hook):
                assert hook.chain.table is table
                self.chains[hook.chain].remove(hook.text)
            case AddHook(hook):
                assert hook.chain.table is table
                position = 0 if hook.place is Place.FIRST else len(self.chains[hook.chain])
                self.chains[hook.chain].insert(position, str(hook.rule))
            case DeleteChain(chain):
                self._check(table, chain)

    def _delete(self, doomed: list[Chain]) -> None:
        for chain in doomed:
            self.chains[chain].clear()
        for chain in doomed:
            if any(rule.endswith(f"-j {chain.name}") for rules in self.chains.values() for rule in rules):
                raise ValueError(f"{chain} is in use")
            del self.chains[chain]

    def _check_jump(self, table: Table, rule: Rule) -> None:
        if isinstance(rule.target, Jump) and Chain(table, rule.target.chain) not in self.chains:
            raise ValueError(f"no chain {rule.target.chain}")

    def _check(self, table: Table, chain: Chain) -> None:
        assert chain.table is table
        assert is_ours(chain), f"{chain} is not ours to write"
