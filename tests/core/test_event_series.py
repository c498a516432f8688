"""Which Events are written, and when: one for many, few at a time, none without bound."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.objects import endpoint_slice, service
from userspace_proxy.core.cluster_state import ClusterState, ObjectId
from userspace_proxy.core.event_reasons import (
    INVALID_ANNOTATION,
    LISTENER_NOT_OPENED,
    RULES_REPAIRED,
    Reason,
)
from userspace_proxy.core.event_series import (
    ENDS_SECONDS,
    MOST,
    MOST_OF_ONE,
    SPACING_SECONDS,
    EventSeries,
    EventWrite,
    Outcome,
    Regarding,
    outcome_of,
    regarding_of,
    service_id,
    shortened,
    unrecorded,
)
from userspace_proxy.core.object_names import is_dns_subdomain
from userspace_proxy.core.objects import Kind, Upserted
from userspace_proxy.core.service_port import ServiceName

NODE = Regarding("v1", "Node", "", "node-1", "node-1")
WEB = Regarding("v1", "Service", "shop", "web", "1234")
WALL = 1_700_000_000.0


class Told:
    """A series with a clock, and an API server that answers as `outcome` says."""

    def __init__(self, instance: str = "node-1") -> None:
        self.series = EventSeries(instance)
        self.now = 0.0
        self.outcome = Outcome.WRITTEN

    def record(self, reason: Reason = RULES_REPAIRED, about: Regarding = NODE, note: str = "note") -> None:
        self.series.record(reason, about, note, self.now, WALL + self.now)

    def written(self) -> list[EventWrite]:
        """All that is due now, each answered."""
        writes = []
        while (write := self.series.due(self.now)) is not None:
            writes.append(write)
            self.series.settle(write, self.outcome, self.now)
            if self.outcome is Outcome.FAILED:
                break
        return writes


def counts(writes: list[EventWrite]) -> list[tuple[int, bool]]:
    return [(write.count, write.is_new) for write in writes]


@pytest.fixture
def told() -> Told:
    return Told()


def test_what_happens_is_written_at_once(told: Told) -> None:
    assert told.series.due_at() is None
    told.record(LISTENER_NOT_OPENED, WEB, "why")
    assert told.series.due_at() == 0.0
    [write] = told.written()
    assert (write.namespace, write.regarding, write.note, write.instance) == ("shop", WEB, "why", "node-1")
    assert (write.first, write.last, write.count, write.is_new) == (WALL, WALL, 1, True)
    assert told.series.due_at() is None
    assert (told.series.written, told.series.dropped) == (1, 0)


def test_a_nodes_events_are_in_the_namespace_default(told: Told) -> None:
    told.record()
    [write] = told.written()
    assert write.namespace == "default"


def test_the_same_again_is_counted_and_written_once_a_minute(told: Told) -> None:
    told.record()
    [first] = told.written()
    for _ in range(100):
        told.now += 1.0
        told.record()
        if told.now == 10.0:
            assert told.series.due_at() == SPACING_SECONDS
        if told.now == 60.0:
            [second] = told.written()
            assert (second.name, second.count, second.is_new, second.last) == (
                first.name,
                61,
                False,
                WALL + 60,
            )
        else:
            assert told.written() == []


def test_what_happens_twice_before_it_is_written_is_created_with_its_count(told: Told) -> None:
    told.record()
    told.now = 2.0
    told.record()
    assert counts(told.written()) == [(2, True)]


def test_what_happens_while_it_is_written_is_written_later(told: Told) -> None:
    told.record()
    write = told.series.due(told.now)
    assert write is not None
    told.record()
    told.series.settle(write, Outcome.WRITTEN, told.now)
    assert told.written() == []
    told.now = SPACING_SECONDS
    assert counts(told.written()) == [(2, False)]


def test_other_notes_reasons_and_objects_are_other_events(told: Told) -> None:
    told.record(note="a")
    told.record(note="b")
    told.record(INVALID_ANNOTATION, WEB, "a")
    told.record(LISTENER_NOT_OPENED, WEB, "a")
    assert len({write.name for write in told.written()}) == 4


def test_after_six_quiet_minutes_it_is_a_new_event(told: Told) -> None:
    told.record()
    [first] = told.written()
    told.now = ENDS_SECONDS
    told.record()
    [second] = told.written()
    assert second.is_new
    assert second.name != first.name


def test_what_is_gone_is_created_again(told: Told) -> None:
    told.record()
    told.written()
    told.now = 100.0
    told.record()
    told.outcome = Outcome.IS_GONE
    write = told.series.due(told.now)
    assert write is not None
    told.series.settle(write, Outcome.IS_GONE, told.now)
    told.outcome = Outcome.WRITTEN
    [again] = told.written()
    assert (again.count, again.is_new, again.first) == (1, True, WALL + 100)


def test_what_is_the_same_everywhere_has_one_name_and_is_left_to_who_came_first() -> None:
    first, second = Told("node-1"), Told("node-2")
    second.now = 5.0
    names = []
    for told in (first, second):
        told.record(INVALID_ANNOTATION, WEB)
        told.outcome = Outcome.WRITTEN if told is first else Outcome.IS_THERE
        names += [write.name for write in told.written()]
        told.now += 100.0
        told.record(INVALID_ANNOTATION, WEB)
    assert len(set(names)) == 1
    assert counts(first.written()) == [(2, False)]
    assert second.written() == []
    second.now += ENDS_SECONDS
    second.record(INVALID_ANNOTATION, WEB)
    assert counts(second.written()) == [(1, True)]


def test_what_happens_while_others_turn_out_to_have_written_it_is_theirs_too(told: Told) -> None:
    told.record(INVALID_ANNOTATION, WEB)
    write = told.series.due(told.now)
    assert write is not None
    told.record(INVALID_ANNOTATION, WEB)
    told.series.settle(write, Outcome.IS_THERE, told.now)
    assert told.series.due_at() is None


def test_who_missed_the_answer_finds_its_own_event_there(told: Told) -> None:
    told.record()
    told.outcome = Outcome.IS_THERE
    told.written()
    told.outcome = Outcome.WRITTEN
    told.now = 60.0
    told.record()
    assert counts(told.written()) == [(2, False)]


def test_a_failure_waits_behind_the_others_and_is_tried_again(told: Told) -> None:
    told.record(note="a")
    told.record(note="b")
    told.outcome = Outcome.FAILED
    assert [write.note for write in told.written()] == ["a"]
    told.outcome = Outcome.WRITTEN
    assert [write.note for write in told.written()] == ["b", "a"]
    assert told.series.dropped == 0


def test_what_is_refused_is_dropped_and_counted(told: Told) -> None:
    told.record()
    told.outcome = Outcome.REFUSED
    assert len(told.written()) == 1
    assert told.series.due_at() is None
    assert (told.series.written, told.series.dropped) == (0, 1)


def test_one_object_has_few_events_at_a_time(told: Told) -> None:
    for number in range(MOST_OF_ONE + 3):
        told.record(INVALID_ANNOTATION, WEB, f"{number}")
    told.record()
    assert len(told.written()) == MOST_OF_ONE + 1
    assert told.series.dropped == 3
    told.now = ENDS_SECONDS
    told.record(INVALID_ANNOTATION, WEB, "later")
    assert len(told.written()) == 1


def test_what_waits_is_bounded(told: Told) -> None:
    for number in range(2 * MOST):
        told.record(INVALID_ANNOTATION, Regarding("v1", "Service", "shop", f"web-{number}", ""), "note")
    assert told.series.dropped == MOST
    told.now = 2 * ENDS_SECONDS  # the API server was away all the time: nothing is lost of what waits
    assert len(told.written()) == MOST


def test_what_concerns_the_node_has_room_and_comes_first(told: Told) -> None:
    for number in range(MOST):
        told.record(INVALID_ANNOTATION, Regarding("v1", "Service", "shop", f"web-{number}", ""), "note")
    told.now = 1.0
    told.record()
    assert told.series.dropped == 0
    assert told.written()[0].regarding == NODE


def test_an_answer_for_what_is_not_known_any_more_is_nobodys(told: Told) -> None:
    other = Told()
    other.record()
    write = other.series.due(0.0)
    assert write is not None
    told.series.settle(write, Outcome.WRITTEN, 0.0)
    assert told.series.written == 0


@pytest.mark.parametrize(
    ("is_new", "status", "outcome"),
    [
        (True, 201, Outcome.WRITTEN),
        (False, 200, Outcome.WRITTEN),
        (True, 409, Outcome.IS_THERE),
        (False, 409, Outcome.FAILED),
        (False, 404, Outcome.IS_GONE),
        (True, 404, Outcome.REFUSED),
        (True, 403, Outcome.REFUSED),
        (False, 422, Outcome.REFUSED),
        (True, None, Outcome.FAILED),
        (True, 401, Outcome.FAILED),
        (True, 429, Outcome.FAILED),
        (True, 503, Outcome.FAILED),
    ],
)
def test_what_an_answer_means(is_new: bool, status: int | None, outcome: Outcome) -> None:
    assert outcome_of(is_new, status) is outcome


@given(st.text(max_size=3000))
@example("x" * 1025)
@example("…" * 400)
def test_a_note_is_one_that_the_api_takes(text: str) -> None:
    note = shortened(text)
    assert len(note.encode()) <= 1024
    assert not any(character < " " or character == "\x7f" for character in note)


@pytest.mark.parametrize("end", ["a", ".", "-"])
@pytest.mark.parametrize("length", [1, 236, 237, 253])
def test_an_events_name_is_one_however_long_the_nodes(length: int, end: str) -> None:
    name = ("a" * (length - 1) + end + "a" * 300)[:253] if length > 1 else "a"
    told = Told(name)
    told.record(about=Regarding("v1", "Node", "", name, name))
    [write] = told.written()
    assert is_dns_subdomain(write.name)
    assert len(write.instance) <= 128


def test_a_node_that_kubernetes_could_not_know_has_events_all_the_same(told: Told) -> None:
    told.record(about=Regarding("v1", "Node", "", "My Node", "My Node"))
    [write] = told.written()
    assert write.name.startswith("node.")
    assert is_dns_subdomain(write.name)


def test_whom_an_event_is_about() -> None:
    state = ClusterState("node-1")
    item = service("web")
    known = replace(item, metadata=replace(item.metadata, uid="1234"))
    state.apply(Upserted(known), lambda _: "API server")
    state.apply(Upserted(endpoint_slice("web-1", of="web")), lambda _: "API server")
    web = Regarding("v1", "Service", "default", "web", "1234")
    assert regarding_of(None, state) == NODE
    assert regarding_of(ObjectId(Kind.NODE, "", "node-1"), state) == NODE
    assert regarding_of(service_id(ServiceName("default", "web")), state) == web
    assert regarding_of(ObjectId(Kind.ENDPOINT_SLICE, "default", "web-1"), state) == web
    assert regarding_of(ObjectId(Kind.ENDPOINT_SLICE, "default", "lost"), state) == Regarding(
        "discovery.k8s.io/v1", "EndpointSlice", "default", "lost", ""
    )
    assert regarding_of(service_id(ServiceName("default", "new")), state).uid == ""


def test_nobody_need_listen() -> None:
    unrecorded(RULES_REPAIRED, "note")
