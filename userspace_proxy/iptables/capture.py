"""What is captured: keeps the installed rules equal to the wanted ones.

Synchronous, for one thread that nothing else waits for. Nothing is remembered that cannot be read again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from userspace_proxy.errors import RulesError
from userspace_proxy.iptables.chains import Chain
from userspace_proxy.iptables.iptables_restore import Variant
from userspace_proxy.iptables.rule_changes import TableChange, chain_of, plan_changes, plan_removal
from userspace_proxy.iptables.rules import InstalledRules, RuleSet, as_installed
from userspace_proxy.iptables.saved_rules import SavedRules


class Backend(Protocol):
    """A way to read and write the rules of one family. All methods block and raise RulesError."""

    @property
    def variant(self) -> Variant:
        """The variant of iptables whose rules these are."""
        ...

    @property
    def mark_sees_everything(self) -> bool:
        """Whether an equal mark means that nobody has changed anything, so that nothing need be read."""
        ...

    def save(self) -> SavedRules:
        """What is installed of ours."""
        ...

    def commit(self, change: TableChange) -> None:
        """Make the change, whole or not at all."""
        ...

    def mark(self) -> int:
        """A value that differs from an earlier one when somebody else has changed the tables."""
        ...


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync did. `had_drifted`: somebody had changed our rules since the last one."""

    changes: tuple[TableChange, ...]
    had_drifted: bool = False

    @property
    def rule_count(self) -> int:
        """How many rules were written or deleted."""
        return sum(change.rule_count for change in self.changes)

    @property
    def chains(self) -> dict[Chain, None]:
        """The chains in which these were, in order."""
        return dict.fromkeys(chain_of(step) for change in self.changes for step in change.steps)


class Capture:
    """The rules of ours in one family. It is their only writer: one live `Capture` a network namespace."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._last_synced: RuleSet | None = None
        self._mark: int | None = None
        self._digest: bytes | None = None

    @property
    def backend(self) -> Backend:
        """What reads and writes."""
        return self._backend

    def was_touched(self) -> bool:
        """Whether somebody has changed tables since the last sync, at the price of a system call or two.

        Says no where the kernel does not tell.
        """
        mark = self._take_mark()
        return None not in (mark, self._mark) and mark != self._mark

    def read(self) -> InstalledRules:
        """What is installed of ours. Raises RulesError."""
        return self._backend.save().parse()

    def sync(self, wanted: RuleSet, *, verify: bool = False) -> Synced:
        """Install what is wanted, with no commit at all where nothing differs.

        Compares with what the last sync left or, with `verify`, after an error and when somebody has touched
        the tables, with what is read back. With `verify` too nothing is read where the mark proves that
        nobody has changed anything. Raises RulesError: then filter may be committed and nat not, which is
        safe, since no traffic is captured that the guard does not expect; call it again.
        """
        last_synced, self._last_synced = self._last_synced, None
        digest, self._digest = self._digest, None
        mark = self._take_mark()
        is_proven = mark is not None and mark == self._mark and self._backend.mark_sees_everything
        installed = None
        if last_synced is None or mark != self._mark or (verify and not is_proven):
            saved = self._backend.save()
            if last_synced is None or saved.digest != digest:
                installed = saved.parse()
            digest = saved.digest
        changes, had_drifted = _compare(installed, last_synced, wanted)
        self._commit(changes)
        # The mark is from before the reading: what somebody changes after that, the next look notices.
        self._last_synced, self._mark = wanted, mark
        self._digest = None if changes else digest
        return Synced(changes, had_drifted)

    def remove_everything(self) -> Synced:
        """Remove every chain of ours and every jump into one; nat first. Nothing there is no error."""
        self._last_synced = None
        changes = plan_removal(self.read())
        self._commit(changes)
        return Synced(changes)

    def _take_mark(self) -> int | None:
        try:
            return self._backend.mark()
        except RulesError:
            return None

    def _commit(self, changes: tuple[TableChange, ...]) -> None:
        for change in changes:
            self._backend.commit(change)


def _compare(
    read_back: InstalledRules | None, last_synced: RuleSet | None, wanted: RuleSet
) -> tuple[tuple[TableChange, ...], bool]:
    """What is to be changed, and whether somebody else has changed something since the last sync.

    Nothing was read back, or nothing new, where the last sync's rules are known to stand.
    """
    if read_back is not None:
        had_drifted = last_synced is not None and bool(plan_changes(read_back, last_synced))
        return plan_changes(read_back, wanted), had_drifted
    assert last_synced is not None
    return (() if wanted is last_synced else plan_changes(as_installed(last_synced), wanted)), False
