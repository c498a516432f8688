"""Programs that are missing, hang, fail or say odd things: one clear RulesError, with their own words."""

from __future__ import annotations

from pathlib import Path

import pytest

from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.errors import RulesError
from userspace_proxy.iptables import iptables_restore
from userspace_proxy.iptables.chains import PORTALS_CONTAINER, PORTALS_HOST, Chain, Table
from userspace_proxy.iptables.iptables_restore import (
    HiddenTableError,
    IptablesRestore,
    Variant,
    restore_input,
)
from userspace_proxy.iptables.rule_changes import (
    AddHook,
    DeleteChain,
    DeleteHook,
    DeleteRule,
    InsertRule,
    TableChange,
    WriteChain,
)
from userspace_proxy.iptables.rules import Hook, InstalledHook, InstalledRules, Jump, Place, Rule, Verdict
from userspace_proxy.iptables.variant import detect_variant, installed_backends

ACCEPT = Rule(target=Verdict.ACCEPT)
TO_HOST = Rule(target=Jump(PORTALS_HOST.name))
OUTPUT = Chain(Table.NAT, "OUTPUT")
CHANGE = TableChange(Table.NAT, (WriteChain(PORTALS_HOST, (ACCEPT,)),))


class Programs:
    """A folder first on PATH with programs that do what a test wants of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Programs(tmp_path)


@pytest.fixture
def nft() -> IptablesRestore:
    return IptablesRestore(Variant.NFT, IPFamily.IPV4)


def test_the_input_creates_before_it_edits_and_deletes_last() -> None:
    hook = Hook(OUTPUT, PORTALS_HOST, TO_HOST, Place.FIRST)
    last = Hook(OUTPUT, PORTALS_HOST, TO_HOST, Place.LAST)
    found = InstalledHook(OUTPUT, PORTALS_HOST, TO_HOST, "-j KUBE-PORTALS-HOST", 1, 0)
    steps = (
        DeleteChain(PORTALS_CONTAINER),
        DeleteRule(PORTALS_HOST, 3),
        InsertRule(PORTALS_HOST, 2, ACCEPT),
        DeleteHook(found),
        AddHook(hook),
        AddHook(last),
        WriteChain(PORTALS_HOST, (ACCEPT,)),
    )
    assert restore_input(TableChange(Table.NAT, steps)) == (
        "*nat\n"
        ":KUBE-PORTALS-HOST - [0:0]\n"
        "-D KUBE-PORTALS-HOST 3\n"
        "-I KUBE-PORTALS-HOST 2 -j ACCEPT\n"
        "-D OUTPUT -j KUBE-PORTALS-HOST\n"
        "-I OUTPUT -j KUBE-PORTALS-HOST\n"
        "-A OUTPUT -j KUBE-PORTALS-HOST\n"
        "-A KUBE-PORTALS-HOST -j ACCEPT\n"
        "-F KUBE-PORTALS-CONTAINER\n"
        "-X KUBE-PORTALS-CONTAINER\n"
        "COMMIT\n"
    )


@pytest.mark.parametrize(
    "said", ["line 3: RULE_APPEND failed", "iptables-restore: Error occurred at line: 3"]
)
def test_a_refused_commit_quotes_the_program_and_the_line(
    programs: Programs, nft: IptablesRestore, said: str
) -> None:
    programs.write("iptables-nft-restore", f"cat >/dev/null; echo '{said}' >&2; exit 2")
    with pytest.raises(RulesError) as refused:
        nft.commit(CHANGE)
    assert said in str(refused.value)
    assert "-A KUBE-PORTALS-HOST -j ACCEPT" in str(refused.value)


@pytest.mark.parametrize("said", ["", "Permission denied (you must be root)", "line 900 failed"])
def test_a_failure_without_a_line_of_ours_is_passed_on(
    programs: Programs, nft: IptablesRestore, said: str
) -> None:
    programs.write("iptables-nft-restore", f"cat >/dev/null; printf '%s' '{said}' >&2; exit 4")
    with pytest.raises(RulesError) as refused:
        nft.commit(CHANGE)
    assert str(refused.value) == f"iptables-nft-restore: {said or 'exit status 4'}"


def test_a_program_that_hangs_is_ended(
    programs: Programs, nft: IptablesRestore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iptables_restore, "PROGRAM_SECONDS", 0.1)
    programs.write("iptables-nft-save", "exec sleep 60")
    with pytest.raises(RulesError, match="did not end"):
        nft.save()


def test_a_program_that_is_not_there_is_named(nft: IptablesRestore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables_restore, "find_program", lambda name: None)
    with pytest.raises(RulesError, match="iptables-nft-save is not on this machine"):
        nft.save()


def test_a_program_that_cannot_be_run_is_named(
    nft: IptablesRestore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iptables_restore, "find_program", lambda name: str(tmp_path))
    with pytest.raises(RulesError, match="iptables-nft-save cannot be run: Permission denied"):
        nft.save()


def test_a_table_that_nft_made_unreadable_is_an_error_and_not_taken_for_empty(
    programs: Programs, nft: IptablesRestore
) -> None:
    programs.write("iptables-nft-save", "echo \"# Table \\`nat' is incompatible, use 'nft' tool.\"")
    with pytest.raises(RulesError, match="the nat table"):
        nft.save()
    programs.write("iptables-nft-save", "echo \"# Table \\`mangle' is incompatible, use 'nft' tool.\"")
    assert nft.save().parse() == InstalledRules()


def test_whose_table_is_hidden_is_said(programs: Programs) -> None:
    programs.write("ip6tables-nft-save", "echo \"# Table \\`nat' is incompatible, use 'nft' tool.\"")
    programs.write("ip6tables-nft-restore", "")
    with pytest.raises(HiddenTableError, match="nft list table ip6 nat"):
        IptablesRestore(Variant.NFT, IPFamily.IPV6).save()


def test_a_variant_with_a_hidden_table_is_not_taken_for_one_without_rules_of_ours(programs: Programs) -> None:
    programs.write("iptables-nft-save", "echo \"# Table \\`nat' is incompatible, use 'nft' tool.\"")
    with pytest.raises(HiddenTableError):
        installed_backends(IPFamily.IPV4)
    assert detect_variant(IPFamily.IPV4) is Variant.NFT


def test_a_variant_that_the_kernel_lacks_has_no_rules_of_ours(programs: Programs) -> None:
    programs.write("iptables-nft-save", "echo 'Failed to initialize nft: Protocol not supported' >&2; exit 1")
    programs.write("iptables-legacy-save", "exit 0")
    assert installed_backends(IPFamily.IPV4) == []


def test_comments_of_others_in_any_encoding_are_read_over(programs: Programs, nft: IptablesRestore) -> None:
    programs.write(
        "iptables-nft-save", "printf '*nat\\n-A OUTPUT -m comment --comment \"\\377\" -j ACCEPT\\n'"
    )
    assert nft.save().parse() == InstalledRules()


@pytest.mark.parametrize(
    ("variant", "family", "name", "waits"),
    [
        (Variant.NFT, IPFamily.IPV4, "iptables-nft-restore", False),
        (Variant.LEGACY, IPFamily.IPV4, "iptables-legacy-restore", True),
        (Variant.LEGACY, IPFamily.IPV6, "ip6tables-legacy-restore", True),
    ],
)
def test_which_program_is_run_and_whether_it_waits_for_the_lock(
    programs: Programs, tmp_path: Path, variant: Variant, family: IPFamily, name: str, waits: bool
) -> None:
    programs.write(name, f'echo "$@" > {tmp_path}/arguments; cat > {tmp_path}/input')
    IptablesRestore(variant, family).commit(CHANGE)
    expected = "--noflush --wait 5\n" if waits else "--noflush\n"
    assert (tmp_path / "arguments").read_text() == expected
    assert (tmp_path / "input").read_text() == restore_input(CHANGE)
