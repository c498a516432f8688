"""Every backend on the real kernel: what it commits is what is read back, and others' rules are untouched."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.iptables.packet_table import BRIDGED, PORTALS, WIRINGS, Wiring, portal
from userspace_proxy.core.service_port import IPFamily, Protocol
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.errors import RulesError
from userspace_proxy.iptables import python_iptables
from userspace_proxy.iptables.capture import Capture, Synced
from userspace_proxy.iptables.portal_rules import portal_rules, read_portals
from userspace_proxy.iptables.rule_changes import DeleteRule, TableChange, plan_changes
from userspace_proxy.iptables.rules import (
    PORTALS_CONTAINER,
    PORTALS_GUARD,
    PORTALS_HOST,
    Dnat,
    InstalledRules,
    Rule,
    RuleSet,
    Table,
    Verdict,
    as_installed,
)
from userspace_proxy.iptables.variant import BackendChoice, open_backend

ALL = portal_rules(PORTALS, BRIDGED.settings)
FEWER = portal_rules(PORTALS[1:], BRIDGED.settings)
MANY_PORTALS = [portal(f"10.96.1.{number}", Protocol.TCP, 80, 20000 + number) for number in range(1, 100)]

OTHERS = """\
*filter
:DOCKER - [0:0]
[7:420] -A INPUT -i lo -j ACCEPT
[0:0] -A INPUT -p icmp -m comment --comment "not -j KUBE-PORTALS-GUARD" -j ACCEPT
[3:180] -A FORWARD -j DOCKER
[0:0] -A DOCKER -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
*nat
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
[1:60] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[0:0] -A OUTPUT -j KUBE-SERVICES
[5:300] -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
[2:120] -A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
"""


class Host:
    """A namespace whose rules one backend writes."""

    def __init__(self, namespace: Namespace, choice: BackendChoice) -> None:
        self.namespace = namespace
        self.choice = choice
        self.variant = "nft" if choice is BackendChoice.NFT else "legacy"
        self.capture = self.new_capture()

    def new_capture(self) -> Capture:
        return self.namespace.call(lambda: Capture(open_backend(self.choice, IPFamily.IPV4)))

    def sync(self, wanted: RuleSet, *, verify: bool = False) -> Synced:
        return self.namespace.call(lambda: self.capture.sync(wanted, verify=verify))

    def remove_everything(self) -> Synced:
        return self.namespace.call(self.capture.remove_everything)

    def read(self) -> InstalledRules:
        return self.namespace.call(self.capture.read)

    def iptables(self, *arguments: str) -> str:
        return self.namespace.run(f"iptables-{self.variant}", *arguments).stdout

    def restore(self, text: str) -> None:
        self.namespace.run(f"iptables-{self.variant}-restore", "--noflush", "--counters", stdin=text)

    def save(self) -> str:
        """All rules with their counters, without the tool's remarks."""
        saved = self.namespace.run(f"iptables-{self.variant}-save", "-c").stdout
        return re.sub(r"^#.*\n", "", saved, flags=re.MULTILINE)

    def save_others(self) -> list[str]:
        """The lines that are neither rules nor chains of ours nor jumps to them."""
        return [
            line for line in self.save().splitlines() if not re.search(r"(^:|-A |-j )KUBE-PORTALS-", line)
        ]


@pytest.fixture(params=[choice for choice in BackendChoice if choice is not BackendChoice.AUTO])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with Namespace("rules") as namespace:
        yield Host(namespace, request.param)


@pytest.mark.parametrize("wiring", WIRINGS, ids=lambda wiring: wiring.name)
def test_what_is_committed_is_read_back(host: Host, wiring: Wiring) -> None:
    wanted = portal_rules(PORTALS, wiring.settings)
    host.sync(wanted)
    installed = host.read()
    assert dict(installed.chains) == dict(wanted.chains)
    assert plan_changes(installed, wanted) == ()
    assert read_portals(installed) == read_portals(as_installed(wanted))


def test_a_successor_finds_nothing_to_do(host: Host) -> None:
    host.sync(ALL)
    before = host.save()
    host.capture = host.new_capture()
    assert host.sync(ALL).changes == ()
    assert host.save() == before


def test_rules_of_others_and_their_counters_survive_start_sync_and_cleanup(host: Host) -> None:
    host.restore(OTHERS)
    before, others = host.save(), host.save_others()
    host.sync(ALL)
    assert host.save_others() == others
    host.sync(FEWER)
    host.sync(portal_rules(MANY_PORTALS, BRIDGED.settings))
    assert host.save_others() == others
    host.remove_everything()
    assert host.save() == before
    assert host.remove_everything().changes == ()
    assert host.save() == before


def test_our_own_counters_survive_changes_of_other_rules(host: Host) -> None:
    host.sync(ALL)
    rule = str(ALL.chains[PORTALS_CONTAINER][-1]).replace("10.96.0.10 ", "10.96.0.10/32 ")
    host.restore(f"*nat\n[9:540] -A {PORTALS_CONTAINER.name} {rule}\nCOMMIT\n")
    host.iptables("-t", "nat", "-D", PORTALS_CONTAINER.name, str(len(ALL.chains[PORTALS_CONTAINER])))
    host.sync(FEWER)
    assert f"[9:540] -A {PORTALS_CONTAINER.name}" in host.save()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.frozensets(st.integers(0, 98)), min_size=1, max_size=4))
def test_any_edits_end_in_what_was_wanted(host: Host, portal_sets: list[frozenset[int]]) -> None:
    for numbers in portal_sets:
        wanted = portal_rules([MANY_PORTALS[number] for number in numbers], BRIDGED.settings)
        host.sync(wanted)
        assert dict(host.read().chains) == dict(wanted.chains)


def test_edits_stay_edits(host: Host) -> None:
    """A portal more or less is two rules, of a hundred."""
    host.sync(portal_rules(MANY_PORTALS, BRIDGED.settings))
    for absent in (0, 50, 98):
        others = [portal for number, portal in enumerate(MANY_PORTALS) if number != absent]
        fewer = portal_rules(others, BRIDGED.settings)
        assert host.sync(fewer).rule_count == 2
        assert host.sync(fewer, verify=True).changes == ()
        assert host.sync(portal_rules(MANY_PORTALS, BRIDGED.settings)).rule_count == 2


FLUSHES = {
    "flushed": ["-F"],
    "flushed and deleted": ["-F", "-X"],
}


@pytest.mark.parametrize("table", list(Table), ids=lambda table: table.value)
@pytest.mark.parametrize("flush", FLUSHES.values(), ids=list(FLUSHES))
def test_a_flush_is_repaired(host: Host, table: Table, flush: list[str]) -> None:
    host.sync(ALL)
    for option in flush:
        host.iptables("-t", table.value, option)
    synced = host.sync(ALL, verify=True)
    assert synced.had_drifted
    assert [change.table for change in synced.changes] == [table]
    assert plan_changes(host.read(), ALL) == ()


def test_strangers_edits_are_undone(host: Host) -> None:
    host.sync(ALL)
    host.iptables("-t", "nat", "-I", "PREROUTING", "-p", "icmp", "-j", "ACCEPT")
    host.iptables("-t", "nat", "-A", "PREROUTING", "-s", "10.0.0.0/8", "-j", PORTALS_CONTAINER.name)
    host.iptables("-I", PORTALS_GUARD.name, "-m", "mark", "--mark", "1", "-j", "ACCEPT")
    host.iptables("-t", "nat", "-D", PORTALS_HOST.name, "2")
    assert host.sync(ALL, verify=True).had_drifted
    assert plan_changes(host.read(), ALL) == ()
    assert "-A PREROUTING -p icmp -j ACCEPT" in host.save()


def test_a_doubled_jump_is_undone(host: Host) -> None:
    host.sync(ALL)
    jump = next(hook for hook in ALL.hooks if hook.target == PORTALS_CONTAINER)
    host.restore(f"*nat\n-A PREROUTING {jump.rule}\nCOMMIT\n")
    host.sync(ALL, verify=True)
    assert plan_changes(host.read(), ALL) == ()


def test_a_commit_is_whole_or_not_at_all(host: Host) -> None:
    host.sync(ALL)
    before = host.save()
    bad = Rule(target=Dnat("10.0.0.1", 70000), protocol=Protocol.TCP)
    chains = {**ALL.chains, PORTALS_CONTAINER: (*FEWER.chains[PORTALS_CONTAINER], bad)}
    with pytest.raises(RulesError, match="70000"):
        host.sync(RuleSet(chains, ALL.hooks))
    assert host.save() == before
    host.sync(ALL)
    assert host.save() == before


def test_an_edit_of_a_rule_that_is_gone_fails_and_changes_nothing(host: Host) -> None:
    host.sync(ALL)
    before = host.save()
    position = len(ALL.chains[PORTALS_CONTAINER]) + 1
    change = TableChange(Table.NAT, (DeleteRule(PORTALS_HOST, 1), DeleteRule(PORTALS_CONTAINER, position)))
    with pytest.raises(RulesError):
        host.namespace.call(lambda: open_backend(host.choice, IPFamily.IPV4).commit(change))
    assert host.save() == before


def test_verdict_rules_can_be_edited_singly(host: Host) -> None:
    drop, accept, back = (Rule(target=verdict) for verdict in (Verdict.DROP, Verdict.ACCEPT, Verdict.RETURN))
    host.sync(RuleSet({PORTALS_GUARD: (drop, accept, back)}))
    for rules in ((drop, back), (drop, accept, back), (accept, back)):
        assert len(host.sync(RuleSet({PORTALS_GUARD: rules})).changes[0].steps) == 1
        assert host.read().chains == {PORTALS_GUARD: rules}


WITH_LOCK = [BackendChoice.LEGACY, BackendChoice.PYTHON_IPTABLES]
"""The nft variant takes none."""


@pytest.mark.parametrize("host", WITH_LOCK, indirect=True)
def test_no_other_program_writes_while_we_hold_the_xtables_lock(host: Host) -> None:
    with python_iptables.xtables_lock():
        locked_out = host.namespace.run("iptables-legacy", "--wait", "1", "-F", check=False)
    assert "xtables lock" in locked_out.stderr
    host.iptables("-F")


@pytest.mark.parametrize("host", WITH_LOCK, indirect=True)
def test_the_xtables_lock_is_waited_for_and_named(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_iptables, "LOCK_WAIT_SECONDS", 0)
    host.sync(ALL)
    with (tmp_path / "xtables.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RulesError, match="xtables"):
            host.sync(FEWER)
    host.sync(FEWER)
    assert plan_changes(host.read(), FEWER) == ()
