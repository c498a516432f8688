from __future__ import annotations

import pytest

from tests.support.recorded_events import RecordedEvents
from userspace_proxy.agent.repairs import Repairs
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.iptables.capture import Synced
from userspace_proxy.iptables.chains import NODE_PORTS, PORTALS, Chain, Table
from userspace_proxy.iptables.rule_changes import DeleteRule, TableChange


def repair(*chains: Chain) -> Synced:
    steps = tuple(DeleteRule(chain, 1) for chain in chains)
    return Synced((TableChange(Table.NAT, steps),), had_drifted=True)


def test_the_first_is_told_at_once_and_those_that_follow_together(caplog: pytest.LogCaptureFixture) -> None:
    events = RecordedEvents()
    repairs = Repairs(IPFamily.IPV6, events)
    told = []
    for now in (100.0, 101.0, 102.0, 129.0):
        repairs.add(repair(*PORTALS))
        repairs.log(now)
        told.append(len(caplog.records))
    repairs.add(repair(*NODE_PORTS, PORTALS.host))
    for now in (130.0, 131.0, 200.0):
        repairs.log(now)
        told.append(len(caplog.records))
    assert told == [1, 1, 1, 1, 2, 2, 2]
    assert caplog.messages == [
        "Rules of ours were changed by somebody, repaired: family=IPv6 repairs=1 rules=2 chains=2 "
        "such_as=nat/KUBE-PORTALS-CONTAINER,nat/KUBE-PORTALS-HOST",
        "Rules of ours were changed by somebody, repaired: family=IPv6 repairs=4 rules=9 chains=4 "
        "such_as=nat/KUBE-PORTALS-CONTAINER,nat/KUBE-PORTALS-HOST,nat/KUBE-NODEPORT-CONTAINER",
    ]
    assert events.said == ["RulesRepaired"] * 2
    assert len(set(events.notes)) == 1  # so that they are one Event
