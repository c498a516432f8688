from __future__ import annotations

import pytest

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.service_port import Port
from userspace_proxy.core.udp_silence import (
    ANSWERED_REPEAT_SECONDS,
    REPEAT_SECONDS,
    Answers,
    Silence,
    UdpSilence,
)

SILENT, OTHER = (Endpoint(f"10.1.0.{number}", Port(53)) for number in (1, 2))
ASKED = 100.0


def answering_service() -> tuple[UdpSilence, Answers]:
    """One whose other endpoint answers, and the answers of the silent one."""
    silence = UdpSilence()
    silence.answers_of(OTHER).last_at = 50.0
    return silence, silence.answers_of(SILENT)


@pytest.mark.parametrize(
    ("waited", "was_answered", "is_left_out", "verdict"),
    [
        (REPEAT_SECONDS - 0.01, False, False, Silence.MEANS_NOTHING),
        (REPEAT_SECONDS, False, False, Silence.MOVES),
        (REPEAT_SECONDS, True, False, Silence.MEANS_NOTHING),
        (REPEAT_SECONDS, True, True, Silence.MOVES),
        (ANSWERED_REPEAT_SECONDS, True, False, Silence.FAILED),
        (REPEAT_SECONDS - 0.01, True, True, Silence.MEANS_NOTHING),
    ],
)
def test_a_client_that_repeats_itself(
    waited: float, was_answered: bool, is_left_out: bool, verdict: Silence
) -> None:
    silence, answers = answering_service()
    judged = silence.judge(answers, ASKED, ASKED + waited, was_answered=was_answered, is_left_out=is_left_out)
    assert judged is verdict


def repeats(silence: UdpSilence, answers: Answers) -> Silence:
    return silence.judge(answers, ASKED, ASKED + 5, was_answered=False, is_left_out=False)


def test_where_nobody_ever_answers_silence_means_nothing() -> None:
    silence = UdpSilence()
    silence.answers_of(OTHER)
    assert repeats(silence, silence.answers_of(SILENT)) is Silence.MEANS_NOTHING


def test_who_answered_somebody_since_is_alive() -> None:
    silence, answers = answering_service()
    answers.last_at = ASKED + 2
    assert repeats(silence, answers) is Silence.IS_OVER


def test_who_answered_somebody_before_may_have_died_since() -> None:
    silence, answers = answering_service()
    answers.last_at = ASKED - 1
    assert repeats(silence, answers) is Silence.MOVES


def test_that_a_service_answers_is_known_though_who_answered_has_left() -> None:
    silence, answers = answering_service()
    silence.forget_all_but([SILENT])
    assert silence.answers_of(SILENT) is answers
    assert repeats(silence, answers) is Silence.MOVES


def test_an_endpoint_that_is_back_has_not_answered_yet() -> None:
    silence, _ = answering_service()
    before = silence.answers_of(OTHER)
    silence.forget_all_but([])
    assert silence.answers_of(OTHER) is not before
