"""Reading and committing rules with the `iptables-save` and `iptables-restore` programs of one variant.

For any number of changes, in either variant and family. One commit is one run of the program: all of it
happens or nothing. Source: iptables-restore(8).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from enum import Enum
from typing import Final

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.errors import RulesError
from userspace_proxy.iptables.change_marks import ChangeMarks, LegacyMarks, NftMarks
from userspace_proxy.iptables.rule_changes import (
    AddHook,
    DeleteChain,
    DeleteHook,
    DeleteRule,
    InsertRule,
    TableChange,
    WriteChain,
)
from userspace_proxy.iptables.rules import Place
from userspace_proxy.iptables.saved_rules import SavedRules

LOCK_WAIT_SECONDS: Final = 5
PROGRAM_SECONDS: Final = 30.0
"""The longest that one run may take: committing 20,000 rules takes under a second on an idle machine."""

_LINE_NUMBER = re.compile(r"line:? (\d+)")


class HiddenTableError(RulesError):
    """The program cannot show a table that we write, so nobody knows what of ours is in it."""


class Variant(Enum):
    """The two implementations of iptables, which do not see each other's rules."""

    NFT = "nft"
    LEGACY = "legacy"


class IptablesRestore:
    """The rules of one family in one variant. Every method blocks, for `PROGRAM_SECONDS` at most.

    `nft_marks` is what the other family has too, so that neither takes the other's commits for a stranger's.
    """

    def __init__(self, variant: Variant, family: IPFamily, nft_marks: NftMarks | None = None) -> None:
        self.variant = variant
        self.marks: ChangeMarks = nft_marks or NftMarks() if variant is Variant.NFT else LegacyMarks(family)
        self._save = program(variant, family, "save")
        self._restore = [program(variant, family, "restore"), "--noflush"]
        if variant is Variant.LEGACY:  # the nft variant's transactions need no lock
            self._restore += ["--wait", str(LOCK_WAIT_SECONDS)]

    def __str__(self) -> str:
        return self.variant.value

    @property
    def mark_sees_everything(self) -> bool:
        """Whether an equal mark means that nobody has changed anything."""
        return self.marks.sees_everything

    def save(self) -> SavedRules:
        """What is installed of ours. Raises RulesError."""
        return SavedRules(saved_rules(self._save))

    def commit(self, change: TableChange) -> None:
        """Make the change, whole or, raising RulesError, not at all."""
        text = restore_input(change)
        try:
            with self.marks.own_commit(change):
                _run(self._restore, text)
        except RulesError as error:
            raise _with_line(error, text) from error

    def mark(self) -> int:
        """Differs from an earlier one when somebody else has changed the tables. Raises RulesError."""
        return self.marks.mark()


def program(variant: Variant, family: IPFamily, verb: str) -> str:
    """The name of a program: iptables-nft-save and the like."""
    return f"{'iptables' if family is IPFamily.IPV4 else 'ip6tables'}-{variant.value}-{verb}"


def find_program(name: str) -> str | None:
    """The program's path; also where users' PATHs do not go."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join([path, "/usr/local/sbin", "/usr/sbin", "/sbin"]))


def saved_rules(save_program: str, *options: str) -> str:
    """What the program prints. Raises RulesError; HiddenTableError when that is not all tables of ours."""
    printed = _run([save_program, *options], "")
    family = "ip6" if save_program.startswith("ip6") else "ip"
    for table in ("filter", "nat"):
        if f"Table `{table}' is incompatible" in printed:
            raise HiddenTableError(
                f"{save_program} cannot show the {table} table: it has rules that nft(8) wrote and iptables "
                f"does not understand; remove them from there (nft list table {family} {table} shows them)"
            )
    return printed


def read_counted(variant: Variant, family: IPFamily) -> str:
    """All rules with their counters, for `counted_rules` to read. Blocks. Raises RulesError."""
    return saved_rules(program(variant, family, "save"), "-c")


def restore_input(change: TableChange) -> str:
    """The change as `iptables-restore --noflush` reads it."""
    return "\n".join([f"*{change.table.value}", *_lines(change), "COMMIT", ""])


def _lines(change: TableChange) -> Iterator[str]:
    doomed = [step.chain.name for step in change.steps if isinstance(step, DeleteChain)]
    for step in change.steps:
        match step:
            case WriteChain(chain):
                yield f":{chain.name} - [0:0]"  # creates it, or empties it
            case _:
                pass
    for step in change.steps:
        match step:
            case WriteChain(chain, rules):
                yield from (f"-A {chain.name} {rule}" for rule in rules)
            case DeleteRule(chain, position):
                yield f"-D {chain.name} {position}"
            case InsertRule(chain, position, rule):
                yield f"-I {chain.name} {position} {rule}"
            case DeleteHook(hook):
                yield f"-D {hook.chain.name} {hook.text}"
            case AddHook(hook):
                verb = "-I" if hook.place is Place.FIRST else "-A"
                yield f"{verb} {hook.chain.name} {hook.rule}"
            case DeleteChain():
                pass
    yield from (f"-F {name}" for name in doomed)
    yield from (f"-X {name}" for name in doomed)


def _run(command: list[str], stdin: str) -> str:
    path = find_program(command[0])
    if path is None:
        raise RulesError(f"{command[0]} is not on this machine")
    try:
        completed = subprocess.run(
            [path, *command[1:]],
            input=stdin.encode("utf-8", "surrogateescape"),
            capture_output=True,
            timeout=PROGRAM_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise RulesError(f"{command[0]} did not end within {PROGRAM_SECONDS:.0f} s") from error
    except OSError as error:
        raise RulesError(f"{command[0]} cannot be run: {error.strerror}") from error
    if completed.returncode != 0:
        said = " ".join(_text(completed.stderr).split()) or f"exit status {completed.returncode}"
        raise RulesError(f"{command[0]}: {said}")
    return _text(completed.stdout)


def _text(printed: bytes) -> str:
    """As it stands: a carriage return in somebody's comment ends no line."""
    return printed.decode("utf-8", "surrogateescape")


def _with_line(error: RulesError, text: str) -> RulesError:
    """The error with the line that the program complained about, where it named one."""
    found = _LINE_NUMBER.search(str(error))
    lines = text.split("\n")
    if found is None or not 1 <= int(found[1]) <= len(lines):
        return error
    return RulesError(f"{error} (that line: {lines[int(found[1]) - 1]})")
