"""Who changed the tables: others are noticed, while we commit too, and we ourselves are not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.iptables.packet_table import ADDRESSES, TCP, V4, V6, portal, portals, wirings
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.errors import RulesError
from userspace_proxy.iptables.capture import Backend, Capture
from userspace_proxy.iptables.chains import PORTALS_CONTAINER, Table
from userspace_proxy.iptables.change_marks import LegacyMarks, NftMarks, nft_generation
from userspace_proxy.iptables.iptables_restore import Variant, restore_input
from userspace_proxy.iptables.portal_rules import PortalRules
from userspace_proxy.iptables.rule_changes import DeleteRule, InsertRule, TableChange
from userspace_proxy.iptables.rules import Rule, RuleSet, Verdict
from userspace_proxy.iptables.saved_rules import SavedRules
from userspace_proxy.iptables.variant import BackendChoice, open_backend


def rules(family: IPFamily, without: int = 0) -> RuleSet:
    return PortalRules().rule_set(portals(family)[without:], wirings(family)[0].settings)


def many_rules(family: IPFamily, count: int) -> RuleSet:
    service = ADDRESSES[family].service
    many = [portal(f"{service}{number}", TCP, 80, 20000) for number in range(1, count + 1)]
    return PortalRules().rule_set(many, wirings(family)[0].settings)


class Interrupted:
    """A backend during whose commits somebody else changes rules."""

    def __init__(self, backend: Backend, node: Namespace, *stranger: str) -> None:
        self._backend = backend
        self._node = node
        self._stranger = stranger

    @property
    def variant(self) -> Variant:
        return self._backend.variant

    @property
    def mark_sees_everything(self) -> bool:
        return self._backend.mark_sees_everything

    def save(self) -> SavedRules:
        return self._backend.save()

    def mark(self) -> int:
        return self._backend.mark()

    def commit(self, change: TableChange) -> None:
        self._node.run(*self._stranger)
        self._backend.commit(change)


class Host:
    """A namespace with captures of both families, as an agent has them."""

    def __init__(self, namespace: Namespace, choice: BackendChoice) -> None:
        self.namespace = namespace
        self.variant = "nft" if choice is BackendChoice.NFT else "legacy"
        marks = NftMarks()
        self.backends = {
            family: namespace.call(partial(open_backend, choice, family, marks)) for family in IPFamily
        }
        self.captures = {family: Capture(backend) for family, backend in self.backends.items()}

    def sync(self, family: IPFamily, wanted: RuleSet) -> None:
        self.namespace.call(lambda: self.captures[family].sync(wanted))

    def touched(self) -> set[IPFamily]:
        captures = self.captures.items()
        return {family for family, capture in captures if self.namespace.call(capture.was_touched)}


@pytest.fixture(params=list(BackendChoice)[1:], ids=lambda choice: choice.value)
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with Namespace("marks") as namespace:
        host = Host(namespace, request.param)
        for family in IPFamily:
            host.sync(family, rules(family))
        yield host


def test_our_own_commits_are_not_taken_for_a_stranger_s(host: Host) -> None:
    for family in IPFamily:
        for without in (3, 0, 1):
            host.sync(family, rules(family, without))
            assert host.touched() == set()
        for count in (99, 98, 20):  # chains branch, and shrink again
            host.sync(family, many_rules(family, count))
            assert host.touched() == set()


def test_a_failed_commit_hides_nothing(host: Host) -> None:
    change = TableChange(Table.NAT, (DeleteRule(PORTALS_CONTAINER, 1000),))
    with pytest.raises(RulesError):
        host.namespace.call(lambda: host.backends[V4].commit(change))
    host.namespace.run(f"iptables-{host.variant}", "-t", "nat", "-F", PORTALS_CONTAINER.name)
    assert V4 in host.touched()


@pytest.mark.parametrize("family", list(IPFamily), ids=lambda family: family.value)
def test_others_are_noticed_until_rules_are_read(host: Host, family: IPFamily) -> None:
    tool = "iptables" if family is V4 else "ip6tables"
    host.namespace.run(f"{tool}-{host.variant}", "-A", "INPUT", "-j", "ACCEPT")
    assert host.touched() == ({V4, V6} if host.variant == "nft" else {family})
    for synced in IPFamily:
        host.sync(synced, rules(synced))
    assert host.touched() == set()


def test_others_are_noticed_who_come_while_we_commit(host: Host) -> None:
    flush = (f"iptables-{host.variant}", "-F", "INPUT")
    host.captures[V4] = Capture(Interrupted(host.backends[V4], host.namespace, *flush))
    host.sync(V4, rules(V4, 1))
    assert V4 in host.touched()
    host.sync(V4, rules(V4, 1))
    host.captures[V4] = Capture(host.backends[V4])
    host.sync(V4, rules(V4, 1))
    assert V4 not in host.touched()


@pytest.mark.parametrize("family", list(IPFamily), ids=lambda family: family.value)
@pytest.mark.parametrize("host", [BackendChoice.LEGACY], indirect=True, ids=["legacy"])
def test_who_comes_between_the_looks_at_legacy_tables_is_noticed(host: Host, family: IPFamily) -> None:
    program = "iptables" if family is V4 else "ip6tables"
    rule = InsertRule(PORTALS_CONTAINER, 1, Rule(target=Verdict.RETURN))
    change = TableChange(Table.NAT, (rule,))

    def is_noticed(*stranger: str) -> bool:
        marks = LegacyMarks(family)
        before = marks.mark()
        with marks.own_commit(change):
            host.namespace.run(f"{program}-legacy-restore", "--noflush", stdin=restore_input(change))
            if stranger:
                host.namespace.run(f"{program}-legacy", *stranger)
        return marks.mark() != before

    assert not host.namespace.call(is_noticed)
    for stranger in (
        ("-F", "INPUT"),
        ("-t", "nat", "-F", PORTALS_CONTAINER.name),
        ("-t", "nat", "-A", "POSTROUTING", "-j", "ACCEPT"),
    ):
        assert host.namespace.call(partial(is_noticed, *stranger)), stranger


@pytest.mark.parametrize("host", [BackendChoice.NFT], indirect=True, ids=["nft"])
def test_a_commit_is_one_generation(host: Host) -> None:
    """However many rules it writes; on this the count of others' commits rests."""
    before = host.namespace.call(nft_generation)
    for without in (20, 0, 1):
        host.sync(V4, rules(V4, without))
    assert host.namespace.call(nft_generation) == before + 3
