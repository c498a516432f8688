"""Playbooks: what happens to the attempts of one connection, and what is to be done next.

`Player` carries the decisions out as the data path would, in a time of its own, and writes down who was tried
when.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.connect_attempts import (
    LIMIT_SECONDS,
    MAX_ATTEMPTS_BESIDE,
    ConnectAttempts,
    Decision,
    Verdict,
)
from userspace_proxy.core.ejection import FAILURES_TO_EJECT
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.load_balancer import LoadBalancer
from userspace_proxy.core.service_port import Port, TrafficPolicy

CLUSTER = TrafficPolicy.CLUSTER
CLIENT = "10.2.0.1"
ROUND_OF_REFUSALS_ENDS = 3.75


def endpoint(number: int) -> Endpoint:
    return Endpoint(f"10.1.0.{number}", Port(80))


class Player:
    """`refusing` endpoints fail at once, `answering` ones answer at once, all others are silent.

    No source port is left towards those that are `out_of_ports`.
    """

    def __init__(
        self,
        usable: int,
        *,
        refusing: Iterable[int] = (),
        out_of_ports: Iterable[int] = (),
        answering: Iterable[int] = (),
        affinity_seconds: float | None = None,
    ) -> None:
        self.balancer = LoadBalancer(Random(3))
        self.balancer.set_endpoints(CLUSTER, [endpoint(number) for number in range(usable)])
        self.balancer.set_affinity(affinity_seconds)
        self.refusing = {endpoint(number) for number in refusing}
        self.out_of_ports = {endpoint(number) for number in out_of_ports}
        self.answering = {endpoint(number) for number in answering}
        self.now = 0.0
        self.pending: list[Endpoint] = []
        self.tried: list[tuple[float, Endpoint]] = []
        self.schedule = ConnectAttempts(self.balancer, CLUSTER, CLIENT, self.now)
        self.answered_by: Endpoint | None = None
        self.outcome = self.carry_out(self.schedule.begin(self.now))

    def connect_again(self) -> None:
        """The next client comes."""
        self.pending.clear()
        self.schedule = ConnectAttempts(self.balancer, CLUSTER, CLIENT, self.now)
        self.outcome = self.carry_out(self.schedule.begin(self.now))

    def carry_out(self, decision: Decision) -> Verdict | None:
        """Follow the decisions until nothing is to be done now. None: an endpoint has answered."""
        while isinstance(decision, Endpoint):
            self.tried.append((self.now, decision))
            if len(self.pending) == MAX_ATTEMPTS_BESIDE:
                self.schedule.closed(self.pending.pop(0))
            if decision in self.answering:
                self.schedule.succeeded(decision, self.now)
                self.answered_by = decision
                return None
            if decision in self.refusing:
                decision = self.schedule.failed(decision, self.now)
            elif decision in self.out_of_ports:
                decision = self.schedule.passed_over(decision, self.now)
            else:
                self.pending.append(decision)
                decision = Verdict.WAIT
        return decision

    def fail(self, failed: Endpoint) -> None:
        self.fail_at(self.pending.index(failed))

    def fail_at(self, position: int) -> None:
        failed = self.pending.pop(position)
        self.outcome = self.carry_out(self.schedule.failed(failed, self.now))

    def wait(self) -> None:
        assert self.outcome is Verdict.WAIT
        assert self.schedule.due_at > self.now
        self.now = self.schedule.due_at
        self.outcome = self.carry_out(self.schedule.waited(self.now))

    def wait_for_the_end(self) -> None:
        while self.outcome is Verdict.WAIT:
            self.wait()

    @property
    def times(self) -> list[float]:
        return [when for when, _ in self.tried]


def test_an_endpoint_that_answers_is_the_only_one_tried() -> None:
    player = Player(3, answering=range(3))
    assert player.outcome is None
    assert player.schedule.made == 1


def test_no_endpoint_at_all() -> None:
    assert Player(0).outcome is Verdict.GIVE_UP


@pytest.mark.parametrize("alive", range(10))
def test_nine_of_ten_refuse_and_the_tenth_is_found_at_once(alive: int) -> None:
    player = Player(10, refusing=set(range(10)) - {alive}, answering=[alive])
    assert player.answered_by == endpoint(alive)
    assert set(player.times) == {0.0}
    assert len(set(player.tried)) == len(player.tried)


def test_a_silent_endpoint_gets_company_after_its_wait_and_each_wait_is_longer() -> None:
    player = Player(10)
    while player.now < 8:
        player.wait()
    assert player.times == [0.0, 0.25, 0.75, 1.75, 3.75, 5.75, 7.75, 9.75]
    assert len({tried for _, tried in player.tried}) == 8


def test_a_single_silent_endpoint_is_tried_again_beside_itself() -> None:
    player = Player(1)
    player.wait()
    assert player.times == [0.0, 0.25]
    assert player.pending == [endpoint(0), endpoint(0)]


def test_silence_ends_after_thirty_seconds() -> None:
    player = Player(2)
    player.wait_for_the_end()
    assert player.outcome is Verdict.GIVE_UP
    assert player.now == LIMIT_SECONDS


def test_a_single_refusing_endpoint_is_tried_again_after_each_wait_and_then_given_up() -> None:
    player = Player(1, refusing=[0])
    player.wait_for_the_end()
    assert player.times == [0.0, 0.25, 0.75, 1.75, 3.75]
    assert player.outcome is Verdict.GIVE_UP
    assert player.now == ROUND_OF_REFUSALS_ENDS


def test_every_round_of_refusals_tries_each_endpoint_once() -> None:
    player = Player(3, refusing=range(3))
    player.wait_for_the_end()
    assert player.times == [when for when in (0.0, 0.25, 0.75, 1.75, 3.75) for _ in range(3)]
    for start in range(0, 15, 3):
        assert len({tried for _, tried in player.tried[start : start + 3]}) == 3


def test_an_endpoint_that_comes_back_during_the_waits_is_found() -> None:
    player = Player(1, refusing=[0])
    player.wait()
    player.refusing, player.answering = set(), {endpoint(0)}
    player.wait()
    assert player.answered_by == endpoint(0)


def test_an_endpoint_that_joins_the_service_during_the_waits_is_tried() -> None:
    player = Player(1, refusing=[0])
    player.balancer.set_endpoints(CLUSTER, [endpoint(5)])
    player.answering = {endpoint(5)}
    player.wait()
    assert player.answered_by == endpoint(5)


def test_a_refusal_beside_a_silent_endpoint_moves_on_and_does_not_give_up() -> None:
    player = Player(2)
    (_, silent), *_ = player.tried
    (other,) = {endpoint(0), endpoint(1)} - {silent}
    player.refusing = {other}
    player.wait()
    assert player.times == [0.0, 0.25]
    assert player.outcome is Verdict.WAIT
    player.wait()
    assert player.tried[2:] == [(0.75, other)], "the next round begins with the one that is not pending"


def test_a_late_failure_of_a_silent_endpoint_moves_on_at_once() -> None:
    player = Player(3)
    player.wait()
    player.now = 0.3
    player.fail(player.pending[0])
    assert player.times == [0.0, 0.25, 0.3]


def test_at_most_four_attempts_stand_beside_each_other() -> None:
    player = Player(20)
    while player.now < 20:
        player.wait()
        assert len(player.pending) <= MAX_ATTEMPTS_BESIDE
    assert [tried for _, tried in player.tried[-4:]] == player.pending


@given(st.integers(1, 3), st.lists(st.integers(0, MAX_ATTEMPTS_BESIDE), max_size=40))
def test_any_of_the_attempts_beside_each_other_may_fail_first(usable: int, positions: list[int]) -> None:
    """Fewer endpoints than attempts: several attempts are to one endpoint."""
    player = Player(usable)
    for position in positions:
        if player.outcome is not Verdict.WAIT:
            break
        if position < len(player.pending):
            player.fail_at(position)
        else:
            player.wait()


def test_waiting_too_little_changes_nothing() -> None:
    player = Player(2)
    assert player.schedule.waited(0.1) is Verdict.WAIT
    assert player.schedule.due_at == 0.25


def test_endpoints_that_have_all_left_end_it_once_nothing_is_pending() -> None:
    silent = Player(1)
    silent.balancer.set_endpoints(CLUSTER, [])
    silent.wait()
    assert silent.outcome is Verdict.WAIT
    assert silent.times == [0.0]

    refused = Player(1, refusing=[0])
    refused.balancer.set_endpoints(CLUSTER, [])
    refused.wait()
    assert refused.outcome is Verdict.GIVE_UP


def test_an_attempt_that_could_not_be_started_is_nobodys_failure() -> None:
    player = Player(1, affinity_seconds=100)
    (only,) = player.pending
    player.schedule.postponed(only, 0.0)
    player.pending.clear()
    assert player.schedule.made == 0
    player.answering = {only}
    player.wait()
    assert player.tried[1:] == [(0.25, only)]
    assert player.answered_by == only


def test_the_first_failure_releases_affinity_and_the_winner_has_it() -> None:
    player = Player(3, affinity_seconds=100)
    first = player.pending[0]
    player.fail(first)
    second = player.pending[0]
    assert player.balancer.next_endpoint(CLUSTER, CLIENT, 0.0) == second


def test_affinity_goes_along_with_the_attempts_and_the_silent_one_may_still_win() -> None:
    player = Player(3, affinity_seconds=100)
    player.wait()
    slow, beside = player.pending
    assert player.balancer.next_endpoint(CLUSTER, CLIENT, player.now) == beside
    player.schedule.succeeded(slow, player.now)
    assert player.balancer.next_endpoint(CLUSTER, CLIENT, player.now) == slow


def test_a_failed_attempt_is_not_made_pending_twice() -> None:
    player = Player(1)
    player.wait()
    player.fail(endpoint(0))
    assert player.outcome is Verdict.WAIT
    player.fail(endpoint(0))
    assert player.pending == []


@given(
    st.integers(1, 8),
    st.sets(st.integers(0, 7)),
    st.data(),
)
def test_it_always_ends_in_time_and_each_usable_endpoint_was_tried(
    usable: int, refusing: set[int], data: st.DataObject
) -> None:
    player = Player(usable, refusing=refusing)
    while player.outcome is Verdict.WAIT:
        failed: Endpoint | None = data.draw(st.sampled_from([*player.pending, None]))
        if failed is not None:
            player.fail(failed)
        else:
            player.wait()
    assert player.outcome is Verdict.GIVE_UP
    assert player.now <= LIMIT_SECONDS
    assert {tried for _, tried in player.tried} == {endpoint(number) for number in range(usable)}


def eject_by_refusal(player: Player, refusing: int) -> None:
    for _ in range(FAILURES_TO_EJECT):
        player.balancer.failed(CLIENT, endpoint(refusing), player.now)


def test_endpoints_that_refuse_connections_one_after_the_other_are_tried_no_more() -> None:
    player = Player(3, refusing=[0], answering=[1, 2])
    for _ in range(9):
        player.connect_again()
    assert [tried for _, tried in player.tried].count(endpoint(0)) == FAILURES_TO_EJECT


def test_an_endpoint_that_is_silent_while_another_answers_has_failed() -> None:
    player = Player(2, answering=[1])
    while not player.balancer.left_out:
        player.connect_again()
        if player.outcome is Verdict.WAIT:
            player.wait()
        assert player.answered_by == endpoint(1)
        assert player.now < 0.25 * FAILURES_TO_EJECT + 0.1
    assert player.balancer.left_out == {endpoint(0)}


def test_want_of_source_ports_is_nobodys_failure_and_others_are_tried() -> None:
    player = Player(2, out_of_ports=[0], answering=[1])
    for _ in range(FAILURES_TO_EJECT + 1):
        player.connect_again()
        assert player.answered_by == endpoint(1)
    assert not player.balancer.ejections.suspects


def test_where_no_source_port_is_left_at_all_it_is_tried_again_and_then_given_up() -> None:
    player = Player(1, out_of_ports=[0])
    player.wait()
    assert [now for now, _ in player.tried] == [0, 0.25]
    while player.outcome is Verdict.WAIT:
        player.wait()
    assert player.now == ROUND_OF_REFUSALS_ENDS


def test_where_nobody_answers_nobody_has_failed() -> None:
    player = Player(4)
    player.wait_for_the_end()
    assert not player.balancer.ejections.suspects


def test_who_had_no_time_to_answer_has_not_failed() -> None:
    """Both are silent at first; then the one that was tried earlier answers."""
    player = Player(2)
    player.wait()
    first, second = player.pending
    player.schedule.succeeded(first, player.now + 0.01)
    assert not player.balancer.ejections.suspects
    assert first != second


def test_a_success_of_the_last_resort_ends_its_ejection() -> None:
    player = Player(2, refusing=[1], answering=[0])
    eject_by_refusal(player, 0)
    player.connect_again()
    assert player.answered_by == endpoint(0)
    assert not player.balancer.left_out


def test_an_endpoint_that_leaves_the_service_is_followed_by_the_next_and_nothing_is_held_against_it() -> None:
    player = Player(2)
    player.wait()
    player.wait()  # both are silent by now
    gone, other = player.pending[:2]
    player.balancer.set_endpoints(TrafficPolicy.CLUSTER, [other])
    player.pending.remove(gone)
    player.outcome = player.carry_out(player.schedule.left(gone, player.now))
    player.schedule.succeeded(other, player.now)
    assert gone not in player.balancer.ejections.suspects
