"""Every backend on the real kernel: what it commits is what is read back, and others' rules are untouched."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.iptables.packet_table import ADDRESSES, TCP, UDP, V4, V6, portal, portals, to, wirings
from userspace_proxy.core.service_port import EVERY_LOCAL_ADDRESS, IPFamily, Protocol
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.errors import RulesError
from userspace_proxy.iptables import python_iptables
from userspace_proxy.iptables.capture import Capture, Synced
from userspace_proxy.iptables.chains import PORTALS_CONTAINER, PORTALS_GUARD, PORTALS_HOST, Table
from userspace_proxy.iptables.portal_rules import Portal, PortalRules, read_portals
from userspace_proxy.iptables.rule_changes import DeleteRule, TableChange, plan_changes
from userspace_proxy.iptables.rules import Dnat, InstalledRules, Rule, RuleSet, Verdict, as_installed
from userspace_proxy.iptables.variant import BackendChoice, open_backend


class Wanted:
    """What tests install in one family."""

    def __init__(self, family: IPFamily) -> None:
        self.settings = wirings(family)[0].settings
        self.portals = portals(family)
        service = ADDRESSES[family].service
        self.many = [portal(f"{service}{number}", TCP, 80, 20000 + number) for number in range(1, 100)]
        self.all = self.rules(self.portals)
        self.fewer = self.rules(self.portals[1:])

    def rules(self, portals: Iterable[Portal]) -> RuleSet:
        return PortalRules().rule_set(portals, self.settings)


WANTED = {family: Wanted(family) for family in IPFamily}

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


OTHERS_V6 = (
    OTHERS.replace("172.17.0.2/32", "fd00:17::2/128")
    .replace("172.17.0.0/16", "fd00:17::/64")
    .replace("172.17.0.2:80", "[fd00:17::2]:80")
    .replace("-p icmp", "-p ipv6-icmp")
)


class Host:
    """A namespace whose rules one backend writes."""

    def __init__(self, namespace: Namespace, choice: BackendChoice, family: IPFamily) -> None:
        self.namespace = namespace
        self.choice = choice
        self.family = family
        self.wanted = WANTED[family]
        self._program = "iptables" if family is V4 else "ip6tables"
        self.variant = "nft" if choice is BackendChoice.NFT else "legacy"
        self.capture = self.new_capture()

    def new_capture(self) -> Capture:
        return self.namespace.call(lambda: Capture(open_backend(self.choice, self.family)))

    def sync(self, wanted: RuleSet, *, verify: bool = False) -> Synced:
        return self.namespace.call(lambda: self.capture.sync(wanted, verify=verify))

    def remove_everything(self) -> Synced:
        return self.namespace.call(self.capture.remove_everything)

    def read(self) -> InstalledRules:
        return self.namespace.call(self.capture.read)

    def iptables(self, *arguments: str) -> str:
        return self.namespace.run(f"{self._program}-{self.variant}", *arguments).stdout

    def restore(self, text: str) -> None:
        self.namespace.run(f"{self._program}-{self.variant}-restore", "--noflush", "--counters", stdin=text)

    def save(self) -> str:
        """All rules with their counters, without the tool's remarks."""
        saved = self.namespace.run(f"{self._program}-{self.variant}-save", "-c").stdout
        return re.sub(r"^#.*\n", "", saved, flags=re.MULTILINE)

    def save_others(self) -> list[str]:
        """The lines that are neither rules nor chains of ours nor jumps to them."""
        return [
            line
            for line in self.save().splitlines()
            if not re.search(r"(^:|-A |-j )KUBE-(PORTALS|NODEPORT)-", line)
        ]


HOSTS = [
    (BackendChoice.NFT, V4),
    (BackendChoice.LEGACY, V4),
    (BackendChoice.PYTHON_IPTABLES, V4),
    (BackendChoice.NFT, V6),
    (BackendChoice.LEGACY, V6),
]


def name_of(host: tuple[BackendChoice, IPFamily]) -> str:
    choice, family = host
    return f"{choice.value} {family.value}"


@pytest.fixture(params=HOSTS, ids=name_of)
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with Namespace("rules") as namespace:
        yield Host(namespace, *request.param)


@pytest.mark.parametrize("number", range(4))
def test_what_is_committed_is_read_back(host: Host, number: int) -> None:
    wanted = PortalRules().rule_set(host.wanted.portals, wirings(host.family)[number].settings)
    host.sync(wanted)
    installed = host.read()
    assert dict(installed.chains) == dict(wanted.chains)
    assert plan_changes(installed, wanted) == ()
    assert read_portals(installed, host.family) == read_portals(as_installed(wanted), host.family)


def test_a_successor_finds_nothing_to_do(host: Host) -> None:
    host.sync(host.wanted.all)
    before = host.save()
    host.capture = host.new_capture()
    assert host.sync(host.wanted.all).changes == ()
    assert host.save() == before


def test_rules_of_others_and_their_counters_survive_start_sync_and_cleanup(host: Host) -> None:
    host.restore(OTHERS if host.family is V4 else OTHERS_V6)
    before, others = host.save(), host.save_others()
    host.sync(host.wanted.all)
    assert host.save_others() == others
    host.sync(host.wanted.fewer)
    host.sync(host.wanted.rules(host.wanted.many))
    assert host.save_others() == others
    host.remove_everything()
    assert host.save() == before
    assert host.remove_everything().changes == ()
    assert host.save() == before


def test_our_own_counters_survive_changes_of_other_rules(host: Host) -> None:
    host.sync(host.wanted.all)
    *_, last = host.wanted.all.chains[PORTALS_CONTAINER]
    host.restore(f"*nat\n[9:540] -A {PORTALS_CONTAINER.name} {last}\nCOMMIT\n")
    if "[9:540]" not in host.save():
        pytest.skip("ip6tables-nft-restore sets no counters")
    number = len(host.wanted.all.chains[PORTALS_CONTAINER])
    host.iptables("-t", "nat", "-D", PORTALS_CONTAINER.name, str(number))
    host.sync(host.wanted.fewer)
    assert f"[9:540] -A {PORTALS_CONTAINER.name}" in host.save()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.frozensets(st.integers(0, 98)), min_size=1, max_size=4))
def test_any_edits_end_in_what_was_wanted(host: Host, portal_sets: list[frozenset[int]]) -> None:
    for numbers in portal_sets:
        wanted = host.wanted.rules([host.wanted.many[number] for number in numbers])
        host.sync(wanted)
        assert dict(host.read().chains) == dict(wanted.chains)


def test_edits_stay_edits(host: Host) -> None:
    """A portal more or less is one rule, of a hundred: both trees of chains share it."""
    host.sync(host.wanted.rules(host.wanted.many))
    for absent in (0, 50, 98):
        others = [portal for number, portal in enumerate(host.wanted.many) if number != absent]
        fewer = host.wanted.rules(others)
        assert host.sync(fewer).rule_count == 1
        assert host.sync(fewer, verify=True).changes == ()
        assert host.sync(host.wanted.rules(host.wanted.many)).rule_count == 1


def test_every_way_to_branch_is_read_back(host: Host) -> None:
    service, external = ADDRESSES[host.family].service, ADDRESSES[host.family].external
    everywhere = EVERY_LOCAL_ADDRESS[host.family]
    portals = [
        *host.wanted.many,
        *(portal(f"{external}1", TCP, port, 20001) for port in range(1, 65000, 700)),
        *(portal(f"{external}1", UDP, port, 20001) for port in range(100, 140)),
        *(portal(f"{service}1", UDP, port, 20001) for port in range(100, 110)),
        *(portal(everywhere, TCP, port, 20001) for port in range(1, 65536, 399)),
        *(portal(everywhere, UDP, port, 20001, 20002) for port in range(1, 32000, 900)),
    ]
    wanted = host.wanted.rules(portals)
    host.sync(wanted)
    assert dict(host.read().chains) == dict(wanted.chains)
    assert plan_changes(host.read(), wanted) == ()


def test_chains_branch_and_shrink_and_are_cleaned_up(host: Host) -> None:
    portals = host.wanted.many
    host.sync(host.wanted.rules(portals))
    assert len(host.read().chains) > 8
    one_class_elsewhere = [replace(portals[0], outside=to(20100)), *portals[1:]]
    for some in (one_class_elsewhere, portals, portals[:20], portals, ()):
        wanted = host.wanted.rules(some)
        host.sync(wanted)
        assert dict(host.read().chains) == dict(wanted.chains)
        assert plan_changes(host.read(), wanted) == ()
    host.sync(host.wanted.rules(portals))
    host.remove_everything()
    assert ":KUBE-" not in host.save()


FLUSHES = {
    "flushed": ["-F"],
    "flushed and deleted": ["-F", "-X"],
}


@pytest.mark.parametrize("table", list(Table), ids=lambda table: table.value)
@pytest.mark.parametrize("flush", FLUSHES.values(), ids=list(FLUSHES))
def test_a_flush_is_repaired(host: Host, table: Table, flush: list[str]) -> None:
    wanted = host.wanted.rules([*host.wanted.portals, *host.wanted.many])
    host.sync(wanted)
    for option in flush:
        host.iptables("-t", table.value, option)
    synced = host.sync(wanted, verify=True)
    assert synced.had_drifted
    assert [change.table for change in synced.changes] == [table]
    assert plan_changes(host.read(), wanted) == ()


def test_strangers_edits_are_undone(host: Host) -> None:
    host.sync(host.wanted.all)
    host.iptables("-t", "nat", "-I", "PREROUTING", "-p", "icmp", "-j", "ACCEPT")
    host.iptables("-t", "nat", "-A", "PREROUTING", "-i", "eth7", "-j", PORTALS_CONTAINER.name)
    host.iptables("-I", PORTALS_GUARD.name, "-m", "mark", "--mark", "1", "-j", "ACCEPT")
    host.iptables("-t", "nat", "-D", PORTALS_HOST.name, "2")
    assert host.sync(host.wanted.all, verify=True).had_drifted
    assert plan_changes(host.read(), host.wanted.all) == ()
    assert "-A PREROUTING -p icmp -j ACCEPT" in host.save()


def test_odd_characters_in_others_comments_end_no_line(host: Host) -> None:
    host.sync(host.wanted.all)
    for separator in ("\r", "\v", "\f", "\x1c", "\x85", "\u2028"):
        comment = f"x{separator}-A {PORTALS_HOST.name} -j ACCEPT"
        host.iptables("-t", "nat", "-A", "OUTPUT", "-m", "comment", "--comment", comment, "-j", "RETURN")
    host.sync(host.wanted.all, verify=True)  # what others append stands behind our last jump, which moves
    assert host.sync(host.wanted.all, verify=True).changes == ()


def test_a_doubled_jump_is_undone(host: Host) -> None:
    host.sync(host.wanted.all)
    jump = next(hook for hook in host.wanted.all.hooks if hook.target == PORTALS_CONTAINER)
    host.restore(f"*nat\n-A PREROUTING {jump.rule}\nCOMMIT\n")
    host.sync(host.wanted.all, verify=True)
    assert plan_changes(host.read(), host.wanted.all) == ()


def test_a_commit_is_whole_or_not_at_all(host: Host) -> None:
    host.sync(host.wanted.all)
    before = host.save()
    bad = Rule(target=Dnat("10.0.0.1", 70000), protocol=Protocol.TCP)
    chains = {
        **host.wanted.all.chains,
        PORTALS_CONTAINER: (*host.wanted.fewer.chains[PORTALS_CONTAINER], bad),
    }
    with pytest.raises(RulesError, match="70000"):
        host.sync(RuleSet(chains, host.wanted.all.hooks))
    assert host.save() == before
    host.sync(host.wanted.all)
    assert host.save() == before


def test_an_edit_of_a_rule_that_is_gone_fails_and_changes_nothing(host: Host) -> None:
    host.sync(host.wanted.all)
    before = host.save()
    position = len(host.wanted.all.chains[PORTALS_CONTAINER]) + 1
    change = TableChange(Table.NAT, (DeleteRule(PORTALS_HOST, 1), DeleteRule(PORTALS_CONTAINER, position)))
    with pytest.raises(RulesError):
        host.namespace.call(lambda: open_backend(host.choice, host.family).commit(change))
    assert host.save() == before


def test_verdict_rules_can_be_edited_singly(host: Host) -> None:
    drop, accept, back = (Rule(target=verdict) for verdict in (Verdict.DROP, Verdict.ACCEPT, Verdict.RETURN))
    host.sync(RuleSet({PORTALS_GUARD: (drop, accept, back)}))
    for rules in ((drop, back), (drop, accept, back), (accept, back)):
        assert len(host.sync(RuleSet({PORTALS_GUARD: rules})).changes[0].steps) == 1
        assert host.read().chains == {PORTALS_GUARD: rules}


WITH_LOCK = [(BackendChoice.LEGACY, V4), (BackendChoice.PYTHON_IPTABLES, V4)]
"""The nft variant takes none."""


@pytest.mark.parametrize("host", WITH_LOCK, indirect=True, ids=name_of)
def test_no_other_program_writes_while_we_hold_the_xtables_lock(host: Host) -> None:
    with python_iptables.xtables_lock():
        locked_out = host.namespace.run("iptables-legacy", "--wait", "1", "-F", check=False)
    assert "xtables lock" in locked_out.stderr
    host.iptables("-F")


@pytest.mark.parametrize("host", WITH_LOCK, indirect=True, ids=name_of)
def test_the_xtables_lock_is_waited_for_and_named(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_iptables, "LOCK_WAIT_SECONDS", 0)
    host.sync(host.wanted.all)
    with (tmp_path / "xtables.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RulesError, match="xtables"):
            host.sync(host.wanted.fewer)
    host.sync(host.wanted.fewer)
    assert plan_changes(host.read(), host.wanted.fewer) == ()
