"""A sync installs what is wanted, does nothing twice, notices drift, and can be called again after errors."""

from __future__ import annotations

import pytest

from tests.iptables.fake_tables import FakeTables
from tests.iptables.packet_table import BRIDGED, PORTALS
from userspace_proxy.errors import RulesError
from userspace_proxy.iptables.capture import Capture, Synced
from userspace_proxy.iptables.chains import PORTALS_CONTAINER, PORTALS_GUARD, Chain, Table
from userspace_proxy.iptables.portal_rules import PortalRules
from userspace_proxy.iptables.saved_rules import SavedRules

FILTER, NAT = Table.FILTER, Table.NAT
ALL = PortalRules().rule_set(PORTALS, BRIDGED.settings)
FEWER = PortalRules().rule_set(PORTALS[1:], BRIDGED.settings)
PREROUTING = Chain(NAT, "PREROUTING")
INPUT = Chain(FILTER, "INPUT")


def test_the_guard_stands_before_anything_is_captured() -> None:
    tables = FakeTables()
    synced = Capture(tables).sync(ALL)
    assert tables.committed == [FILTER, NAT]
    assert synced.rule_count == sum(map(len, ALL.chains.values())) + len(ALL.hooks)
    assert dict(tables.read().chains) == dict(ALL.chains)


def test_nothing_is_read_or_written_when_nothing_is_new() -> None:
    tables = FakeTables()
    capture = Capture(tables)
    capture.sync(ALL)
    reads, committed = tables.reads, list(tables.committed)
    assert capture.sync(ALL).changes == ()
    assert (tables.reads, tables.committed) == (reads, committed)


def test_a_change_writes_the_difference() -> None:
    tables = FakeTables()
    capture = Capture(tables)
    capture.sync(ALL)
    assert capture.sync(FEWER).rule_count == 2
    assert dict(tables.read().chains) == dict(FEWER.chains)


def test_rules_of_an_earlier_run_are_taken_over_as_they_are() -> None:
    tables = FakeTables()
    Capture(tables).sync(ALL)
    tables.committed.clear()
    assert Capture(tables).sync(ALL).changes == ()
    assert tables.committed == []


def test_drift_is_noticed_and_repaired_when_verifying() -> None:
    tables = FakeTables()
    capture = Capture(tables)
    capture.sync(ALL)
    tables.chains[PORTALS_CONTAINER].clear()
    tables.chains[PREROUTING].insert(0, "-j ACCEPT")
    assert not capture.sync(ALL).had_drifted
    assert capture.sync(ALL, verify=True).had_drifted
    assert dict(tables.read().chains) == dict(ALL.chains)
    assert tables.chains[PREROUTING][1] == "-j ACCEPT"
    assert not capture.sync(ALL, verify=True).had_drifted


def test_nothing_is_read_where_the_mark_proves_that_nothing_has_changed() -> None:
    tables = FakeTables()
    tables.mark_sees_everything = True
    capture = Capture(tables)
    capture.sync(ALL)
    reads = tables.reads
    assert capture.sync(ALL, verify=True).changes == ()
    assert tables.reads == reads
    tables.chains[PORTALS_CONTAINER].clear()
    tables.generation += 1
    assert capture.sync(ALL, verify=True).had_drifted
    assert dict(tables.read().chains) == dict(ALL.chains)


def test_what_was_read_before_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = FakeTables()
    capture = Capture(tables)
    capture.sync(ALL)
    capture.sync(ALL, verify=True)
    tables.chains[Chain(NAT, "POSTROUTING")].append("-j MASQUERADE")  # none of our business
    with monkeypatch.context() as patched:
        patched.setattr(SavedRules, "parse", lambda self: pytest.fail("parsed again"))
        assert capture.sync(ALL, verify=True) == Synced(())
    tables.chains[PORTALS_CONTAINER].reverse()
    assert capture.sync(ALL, verify=True).had_drifted
    assert dict(tables.read().chains) == dict(ALL.chains)


def test_who_is_turned_away_before_the_guard_is_for_others_to_decide() -> None:
    tables = FakeTables()
    capture = Capture(tables)
    capture.sync(ALL)
    tables.chains[INPUT][:0] = ["-s 192.0.2.7 -j DROP", "-s 192.0.2.8 -j REJECT --reject-with tcp-reset"]
    assert capture.sync(ALL, verify=True) == Synced(())
    tables.chains[INPUT].insert(0, '-m comment --comment "not -j DROP" -j ACCEPT')
    assert capture.sync(ALL, verify=True).had_drifted
    assert "KUBE-PORTALS-GUARD" in tables.chains[INPUT][0]


def test_what_we_change_ourselves_is_no_drift() -> None:
    capture = Capture(FakeTables())
    assert not capture.sync(ALL, verify=True).had_drifted
    assert not capture.sync(FEWER, verify=True).had_drifted


def test_after_a_failure_between_the_tables_the_next_sync_finishes() -> None:
    tables = FakeTables()
    capture = Capture(tables)
    tables.failing = {NAT}
    with pytest.raises(RulesError):
        capture.sync(ALL)
    assert dict(tables.read().chains) == {PORTALS_GUARD: ALL.chains[PORTALS_GUARD]}
    tables.failing = set()
    assert [change.table for change in capture.sync(ALL).changes] == [NAT]


def test_after_a_stranger_s_edit_broke_a_sync_the_next_one_reads_again() -> None:
    tables = FakeTables()
    capture = Capture(tables)
    capture.sync(ALL)
    del tables.chains[PORTALS_CONTAINER]
    with pytest.raises(RulesError):
        capture.sync(FEWER)
    capture.sync(FEWER)
    assert dict(tables.read().chains) == dict(FEWER.chains)


def test_everything_is_removed_capture_before_guard_and_again_without_harm() -> None:
    tables = FakeTables({PREROUTING: ["-j ACCEPT"]})
    others = tables.others()
    capture = Capture(tables)
    capture.sync(ALL)
    tables.committed.clear()
    assert capture.remove_everything().changes
    assert tables.committed == [NAT, FILTER]
    assert tables.chains == others
    assert capture.remove_everything().changes == ()
    capture.sync(ALL)
    assert dict(tables.read().chains) == dict(ALL.chains)


def test_what_is_installed_can_be_read_without_changing_anything() -> None:
    tables = FakeTables()
    capture = Capture(tables)
    capture.sync(ALL)
    assert dict(capture.read().chains) == dict(ALL.chains)
    assert tables.committed == [FILTER, NAT]


def test_who_touches_the_tables_is_noticed_without_reading_them() -> None:
    tables = FakeTables()
    capture = Capture(tables)
    assert not capture.was_touched()
    capture.sync(ALL)
    reads = tables.reads
    assert not capture.was_touched()
    tables.generation += 1
    assert capture.was_touched()
    assert tables.reads == reads


def test_a_sync_of_touched_tables_reads_them() -> None:
    tables = FakeTables()
    capture = Capture(tables)
    capture.sync(ALL)
    reads = tables.reads
    tables.generation += 1
    assert not capture.sync(ALL).changes
    assert tables.reads == reads + 1
    assert not capture.was_touched()
