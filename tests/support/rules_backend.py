"""A rules backend without a kernel."""

from __future__ import annotations

import time

from userspace_proxy.errors import RulesError
from userspace_proxy.iptables.chains import Table
from userspace_proxy.iptables.iptables_restore import Variant
from userspace_proxy.iptables.rule_changes import TableChange
from userspace_proxy.iptables.rules import InstalledRules, RuleSet, as_installed
from userspace_proxy.iptables.saved_rules import SavedRules


class FakeBackend:
    """Counts commits; fails as often as it is told to."""

    def __init__(self, installed: RuleSet | None = None) -> None:
        self.installed: InstalledRules = as_installed(installed or RuleSet())
        self.commits: list[Table] = []
        self.failures = 0
        self.reads = 0
        self.touched = 0
        self.unreadable = 0
        self.read_seconds = 0.0
        self.touch_when_read = False

    @property
    def variant(self) -> Variant:
        return Variant.NFT

    @property
    def mark_sees_everything(self) -> bool:
        return False

    def save(self) -> SavedRules:
        self.reads += 1
        self.touched += self.touch_when_read
        time.sleep(self.read_seconds)
        if self.unreadable:
            self.unreadable -= 1
            raise RulesError("the kernel is busy")
        return SavedRules(_printed(self.installed))

    def mark(self) -> int:
        return self.touched

    def commit(self, change: TableChange) -> None:
        if self.failures:
            self.failures -= 1
            raise RulesError("the table is locked by somebody else")
        self.commits.append(change.table)


def _printed(installed: InstalledRules) -> str:
    """As iptables-save would, on a host without rules of others."""
    lines = []
    for table in Table:
        chains = {chain.name: rules for chain, rules in installed.chains.items() if chain.table is table}
        lines += [f"*{table.value}", *(f":{name} - [0:0]" for name in chains)]
        lines += [
            f"-A {hook.chain.name} {hook.text}" for hook in installed.hooks if hook.chain.table is table
        ]
        lines += [f"-A {name} {rule}" for name, rules in chains.items() for rule in rules]
    return "\n".join(lines)
