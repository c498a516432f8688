"""Nothing is excused but what was not promised, to whom it was not promised, while it was not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.ledger import ALL_PHASES, Conversation, Excuse, Ledger, Phase, WrongAnswerError

CONNECTING = Conversation(
    "short", "greet", began_at=10.0, heard_at=10.0, ended_at=12.0, failure=ConnectionResetError()
)
ESTABLISHED = replace(CONNECTING, heard_at=11.0, phase=Phase.ESTABLISHED, endpoint="web-1")


def is_excused(conversation: Conversation, excuse: Excuse, since: float, until: float) -> bool:
    ledger = Ledger()
    ledger.excuse(excuse, since).until = until
    ledger.begin(conversation)
    ledger.end(conversation)
    assert len(ledger.failures) + ledger.excused.total() == (conversation.failure is not None)
    return bool(ledger.excused)


@pytest.mark.parametrize(
    ("since", "until", "is_covered"),
    [(9.0, 10.5, True), (11.5, 11.6, True), (8.0, 9.9, False), (12.1, 13.0, False)],
)
def test_what_happened_between_the_last_good_news_and_the_failure_excuses_it(
    since: float, until: float, is_covered: bool
) -> None:
    assert is_excused(CONNECTING, Excuse("gone", ALL_PHASES), since, until) is is_covered


def test_what_a_client_outlived_is_no_excuse() -> None:
    worker_died = Excuse("died", ALL_PHASES)
    assert is_excused(ESTABLISHED, worker_died, 11.5, 11.6)
    assert not is_excused(replace(ESTABLISHED, heard_at=60.0, ended_at=61.0), worker_died, 11.5, 11.6)


@pytest.mark.parametrize(
    ("excuse", "is_covered"),
    [
        (Excuse("", {Phase.ESTABLISHED}), True),
        (Excuse("", {Phase.CONNECTING}), False),
        (Excuse("", ALL_PHASES, endpoints={"web-1"}), True),
        (Excuse("", ALL_PHASES, endpoints={"web-2"}), False),
        (Excuse("", ALL_PHASES, service_ports={"greet"}), True),
        (Excuse("", ALL_PHASES, service_ports={"name"}), False),
    ],
)
def test_an_excuse_is_for_those_whom_it_names(excuse: Excuse, is_covered: bool) -> None:
    assert is_excused(ESTABLISHED, excuse, 10.0, 12.0) is is_covered


def test_a_wrong_answer_has_no_excuse() -> None:
    wrong = replace(ESTABLISHED, failure=WrongAnswerError())
    assert not is_excused(wrong, Excuse("anything", ALL_PHASES), 0.0, 100.0)


def test_who_is_served_needs_none() -> None:
    assert not is_excused(replace(ESTABLISHED, failure=None), Excuse("anything", ALL_PHASES), 0.0, 100.0)


def test_who_is_connecting_is_known() -> None:
    ledger, conversation = Ledger(), replace(CONNECTING)
    ledger.begin(conversation)
    assert ledger.are_connecting_since(10.0)
    assert not ledger.are_connecting_since(9.9)
    conversation.hear(11.0)
    assert not ledger.are_connecting_since(11.0)


def test_who_was_there_may_meet_late_what_the_agent_has_learnt_late() -> None:
    removed = Excuse("removed", {Phase.ESTABLISHED}, late_seconds=40.0)
    late = replace(ESTABLISHED, heard_at=30.0, ended_at=31.0)
    assert is_excused(late, removed, 10.5, 11.0)
    assert not is_excused(replace(late, began_at=20.0), removed, 10.5, 11.0)
    assert not is_excused(replace(late, heard_at=60.0, ended_at=61.0), removed, 10.5, 11.0)
