"""A rules backend without a kernel."""

from __future__ import annotations

import time

from userspace_proxy.errors import RulesError
from userspace_proxy.iptables.chains import Table
from userspace_proxy.iptables.rule_changes import TableChange
from userspace_proxy.iptables.rules import InstalledRules, RuleSet, as_installed


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

    def read(self) -> InstalledRules:
        self.reads += 1
        self.touched += self.touch_when_read
        time.sleep(self.read_seconds)
        if self.unreadable:
            self.unreadable -= 1
            raise RulesError("the kernel is busy")
        return self.installed

    def mark(self) -> int:
        return self.touched

    def commit(self, change: TableChange) -> None:
        if self.failures:
            self.failures -= 1
            raise RulesError("the table is locked by somebody else")
        self.commits.append(change.table)
