from __future__ import annotations

import msgspec
import pytest

from tests.support import objects as builders
from userspace_proxy.core.cluster_state import ClusterState
from userspace_proxy.core.objects import Event, Kind, Listed, Upserted
from userspace_proxy.core.service_port import IPFamily
from userspace_proxy.observability.sync_record import TRIGGER_TIME, ChangeRecord

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
TRIGGERED = "2001-09-09T01:46:40.123456789Z"
AT = 1_000_000_000.123456


class Changes:
    """A record at `now`, and the state that says what changed."""

    def __init__(self, now: float = AT) -> None:
        self.now = now
        self.record = ChangeRecord([V4, V6], lambda: self.now)
        self._state = ClusterState("node-1")

    def see(self, event: Event) -> None:
        self.record.seen(event, self._state.apply(event, lambda _key: "test"))

    def timed(self, family: IPFamily = V4) -> int:
        return sum(self.record.programming[family].counts)


def slice_of(*addresses: str, trigger: str = TRIGGERED) -> Upserted:
    found = builders.endpoint_slice(endpoints=addresses)
    metadata = msgspec.structs.replace(found.metadata, annotations={TRIGGER_TIME: trigger})
    return Upserted(msgspec.structs.replace(found, metadata=metadata))


def test_a_slice_counts_in_its_family_and_a_service_in_each() -> None:
    changes = Changes()
    changes.see(slice_of("10.0.0.1"))
    changes.see(Upserted(builders.service("web")))
    counts = {(kind.value, family.value): count for (kind, family), count in changes.record.changes.items()}
    assert counts == {
        ("Service", "IPv4"): 1,
        ("Service", "IPv6"): 1,
        ("EndpointSlice", "IPv4"): 1,
        ("EndpointSlice", "IPv6"): 0,
    }


def test_what_changes_nothing_is_not_counted() -> None:
    changes = Changes()
    for _ in range(2):
        changes.see(slice_of("10.0.0.1"))
        changes.see(Upserted(builders.node("node-1")))
    assert changes.record.changes[Kind.ENDPOINT_SLICE, V4] == 1
    assert changes.record.changes[Kind.SERVICE, V4] == 0


def test_a_list_counts_each_object_that_it_changes() -> None:
    changes = Changes()
    changes.see(Listed(Kind.SERVICE, (builders.service("web"), builders.service("dns"))))
    changes.see(Listed(Kind.SERVICE, (builders.service("web"),)))
    assert changes.record.changes[Kind.SERVICE, V4] == 3


def test_changes_are_pending_until_they_are_acted_on() -> None:
    changes = Changes()
    changes.see(slice_of("10.0.0.1"))
    assert changes.record.pending[Kind.ENDPOINT_SLICE, V4] == 1
    changes.record.begin()
    assert changes.record.pending[Kind.ENDPOINT_SLICE, V4] == 0
    assert changes.record.changes[Kind.ENDPOINT_SLICE, V4] == 1


def test_a_change_is_timed_from_its_trigger_until_it_is_in_effect() -> None:
    changes = Changes()
    changes.see(slice_of("10.0.0.1"))
    changes.record.begin()
    changes.see(slice_of("10.0.0.2"))  # too late for this round
    changes.now = AT + 3
    changes.record.in_effect()
    assert (changes.timed(V4), changes.timed(V6)) == (1, 0)
    assert changes.record.programming[V4].sum == pytest.approx(3)
    changes.record.in_effect()
    assert changes.timed() == 1
    changes.record.begin()
    changes.record.in_effect()
    assert changes.timed() == 2


@pytest.mark.parametrize("text", ["", "yesterday", "2001-09-09T01:46:40"])
def test_what_is_no_time_is_not_timed(text: str) -> None:
    changes = Changes()
    changes.see(slice_of("10.0.0.1", trigger=text))
    changes.record.begin()
    changes.record.in_effect()
    assert changes.timed() == 0
    assert changes.record.changes[Kind.ENDPOINT_SLICE, V4] == 1


def test_a_clock_that_goes_back_makes_no_negative_time() -> None:
    changes = Changes(now=AT - 60)
    changes.see(slice_of("10.0.0.1"))
    changes.record.begin()
    changes.record.in_effect()
    assert changes.record.programming[V4].sum == 0
