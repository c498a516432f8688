"""Committing small changes to the legacy IPv4 tables in this process, with python-iptables.

The only module that imports iptc, and not before it is needed: the first table that it opens registers the
legacy tables in the kernel for good, which no host of the nft variant may be made to suffer. Of its API the
low level alone is used, with autocommit off (with it, failed commits go unnoticed), and each commit reads
the table anew (a second one without that fails). It takes no lock, so that is done here.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, assert_never

from userspace_proxy.core.service_port import Protocol
from userspace_proxy.errors import RulesError, StartupError
from userspace_proxy.iptables.chains import Chain
from userspace_proxy.iptables.iptables_restore import LOCK_WAIT_SECONDS, IptablesRestore, Variant
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
from userspace_proxy.iptables.rules import (
    Dnat,
    Jump,
    Place,
    Redirect,
    Reject,
    Rule,
    Target,
    Verdict,
    spelled_ports,
)
from userspace_proxy.iptables.saved_rules import SavedRules

SMALL_CHANGE_RULES: Final = 20
"""Up to so many rules this is quicker than starting iptables-legacy-restore."""

_LOCK_RETRY_SECONDS: Final = 0.05


class PythonIptables:
    """The legacy IPv4 rules: read by `restore`, committed here if small and by `restore` otherwise.

    `always` commits everything here, however many rules it is (half a millisecond each). Every method
    blocks. Raises StartupError when python-iptables does not work on this machine.
    """

    def __init__(self, restore: IptablesRestore, *, always: bool = False) -> None:
        try:
            import iptc
        except Exception as error:  # it looks for shared libraries, and fails in as many ways as there are
            raise StartupError(f"python-iptables cannot be used on this machine: {error!r}") from error
        self._iptc: Any = iptc
        self._restore = restore
        self._always = always

    def __str__(self) -> str:
        return "legacy (python-iptables)"

    @property
    def variant(self) -> Variant:
        """The legacy one."""
        return self._restore.variant

    @property
    def mark_sees_everything(self) -> bool:
        """Whether an equal mark means that nobody has changed anything."""
        return self._restore.mark_sees_everything

    def save(self) -> SavedRules:
        """What is installed of ours. Raises RulesError."""
        return self._restore.save()

    def mark(self) -> int:
        """Differs from an earlier one when somebody else has changed the tables. Raises RulesError."""
        return self._restore.mark()

    def commit(self, change: TableChange) -> None:
        """Make the change, whole or, raising RulesError, not at all."""
        if not self._always and change.rule_count > SMALL_CHANGE_RULES:
            self._restore.commit(change)
            return
        errors = (self._iptc.IPTCError, self._iptc.xtables.XTablesError, ValueError, LookupError)
        with xtables_lock(), self._restore.marks.own_commit(change):
            try:
                self._commit(change)
            except errors as error:
                raise RulesError(f"python-iptables, table {change.table.value}: {error}") from error

    def _commit(self, change: TableChange) -> None:
        table = self._iptc.Table(change.table.value, autocommit=False)
        table.refresh()  # drops what an earlier commit left; iptc crashes on tables that were closed
        _Edit(self._iptc, table).apply(change.steps)
        table.commit()


class _Edit:
    """Steps on the copy of a table that libiptc holds until it is committed."""

    def __init__(self, iptc: Any, table: Any) -> None:
        self._iptc = iptc
        self._table = table
        self._entries: dict[Chain, list[Any]] = {}

    def apply(self, steps: tuple[Step, ...]) -> None:
        doomed = [step.chain.name for step in steps if isinstance(step, DeleteChain)]
        for step in steps:
            if isinstance(step, WriteChain):
                self._empty(step.chain)  # before any rule jumps there
        for step in steps:
            self._apply(step)
        for name in doomed:  # chains may refer to each other, so all are emptied first
            self._table.flush_entries(name)
        for name in doomed:
            self._table.delete_chain(name)

    def _apply(self, step: Step) -> None:
        match step:
            case WriteChain(chain, rules):
                for rule in rules:
                    self._chain(chain).append_rule(self._encode(rule))
            case DeleteRule(chain, position):
                self._delete(chain, self._installed(chain, position)[position - 1])
            case InsertRule(chain, position, rule):
                self._chain(chain).insert_rule(self._encode(rule), position - 1)
            case DeleteHook(hook):
                self._delete(hook.chain, self._jump(hook.chain, hook.target))
            case AddHook(hook):
                if hook.place is Place.FIRST:
                    self._chain(hook.chain).insert_rule(self._encode(hook.rule))
                else:
                    self._chain(hook.chain).append_rule(self._encode(hook.rule))
            case DeleteChain():
                pass
            case _:
                assert_never(step)

    def _empty(self, chain: Chain) -> None:
        if self._table.is_chain(chain.name):
            self._table.flush_entries(chain.name)
        else:
            self._table.create_chain(chain.name)

    def _chain(self, chain: Chain) -> Any:
        return self._iptc.Chain(self._table, chain.name)

    def _installed(self, chain: Chain, count: int) -> list[Any]:
        """The chain's first entries as they were when a rule of it was first deleted.

        The last of those to delete is the first to come, so that all positions mean these entries.
        """
        if chain not in self._entries:
            self._entries[chain] = list(islice(self._walk(chain), count))
        return self._entries[chain]

    def _jump(self, chain: Chain, target: Chain) -> Any:
        """The first entry that jumps there. Raises ValueError if there is none."""
        for entry in self._walk(chain):
            if self._table.get_target(entry) == target.name.encode():
                return entry
        raise ValueError(f"no jump to {target.name} in {chain.name} any more")

    def _walk(self, chain: Chain) -> Iterator[Any]:
        entry = self._table.first_rule(chain.name)
        while entry:
            yield entry
            entry = self._table.next_rule(entry)

    def _delete(self, chain: Chain, entry: Any) -> None:
        """Delete the first rule that is, byte for byte, what the entry is.

        libiptc holds verdicts and jumps as numbers but wants to be told their names.
        """
        size = entry.next_offset
        raw = (ctypes.c_ubyte * size).from_buffer_copy(ctypes.string_at(ctypes.addressof(entry), size))
        target = self._iptc.xtables.xt_entry_target.from_buffer(raw, entry.target_offset)
        target.u.user.name = self._table.get_target(entry)
        every_bit = (ctypes.c_ubyte * size)(*(0xFF,) * size)
        self._table.delete_entry(chain.name, raw, every_bit)

    def _encode(self, rule: Rule) -> Any:
        encoded = self._iptc.Rule()
        if rule.source:
            encoded.src = rule.source
        if rule.destination:
            encoded.dst = rule.destination
        if rule.in_interface:
            encoded.in_interface = rule.in_interface
        if rule.protocol:
            encoded.protocol = rule.protocol.value.lower()
        if rule.comment:
            encoded.create_match("comment").comment = rule.comment
        if rule.destination_ports:
            match_name = "tcp" if rule.protocol is Protocol.TCP else "udp"
            encoded.create_match(match_name).dport = spelled_ports(rule.destination_ports)
        if rule.to_local_address:
            encoded.create_match("addrtype").dst_type = "LOCAL"
        for state in rule.states:
            names = state.names
            encoded.create_match("conntrack").ctstate = ["!", names] if state.negated else names
        self._encode_target(encoded, rule.target)
        return encoded

    def _encode_target(self, encoded: Any, target: Target) -> None:
        match target:
            case Redirect(port):
                encoded.create_target("REDIRECT").to_ports = str(port)
            case Dnat(address, port):
                encoded.create_target("DNAT").to_destination = f"{address}:{port}"
            case Reject(reply):
                encoded.create_target("REJECT").reject_with = reply
            case Verdict():
                encoded.create_target(target.value)
            case Jump(chain):
                # Named at once, iptc would look the chain up in every table, and so register them all.
                encoded.create_target("").standard_target = chain
            case _:
                assert_never(target)


@contextmanager
def xtables_lock() -> Iterator[None]:
    """Hold the lock that every iptables-legacy program takes. Raises RulesError after waiting for it."""
    path = Path(os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock"))
    try:
        lock = path.open("a")
    except OSError as error:
        raise RulesError(f"the xtables lock {path} cannot be opened: {error.strerror}") from error
    with lock:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise RulesError(
                        f"another program held the xtables lock {path} for {LOCK_WAIT_SECONDS} s"
                    ) from error
            time.sleep(_LOCK_RETRY_SECONDS)
        yield
