from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from userspace_proxy.core.balancing import Balancing
from userspace_proxy.core.ejection import FAILURES_TO_EJECT, FIRST_SECONDS, Ejections, most_left_out
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.load_balancer import ClientAffinity, LoadBalancer
from userspace_proxy.core.pickers.round_robin import RoundRobin
from userspace_proxy.core.service_port import Port, TrafficPolicy

CLUSTER, LOCAL = TrafficPolicy.CLUSTER, TrafficPolicy.LOCAL
CLIENT = "10.2.0.1"
TIMEOUT = 100.0


def endpoints(count: int, *, first: int = 1) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(f"10.1.0.{number}", Port(80)) for number in range(first, first + count))


def balancer(*usable: Endpoint, affinity: float | None = None, seed: int = 1) -> LoadBalancer:
    made = LoadBalancer(Random(seed), max_affine_clients=3)
    made.set_endpoints(CLUSTER, usable)
    made.set_affinity(affinity)
    return made


def picks(made: LoadBalancer, count: int, client: str = CLIENT, now: float = 0.0) -> list[Endpoint | None]:
    return [made.next_endpoint(CLUSTER, client, now) for _ in range(count)]


def test_ninety_connections_over_three_endpoints_are_thirty_each_strictly_in_turn() -> None:
    served = picks(balancer(*endpoints(3)), 90)
    assert set(Counter(served).values()) == {30}
    assert all(served[index] == served[index + 3] for index in range(87))


def test_the_start_is_shuffled() -> None:
    assert len({tuple(picks(balancer(*endpoints(4), seed=seed), 4)) for seed in range(50)}) > 12


def test_the_order_of_the_endpoints_in_the_configuration_does_not_matter() -> None:
    one, two, three = endpoints(3)
    assert picks(balancer(one, two, three), 3) == picks(balancer(three, one, two), 3)


def test_nothing_usable_gives_none() -> None:
    empty = balancer()
    assert picks(empty, 2) == [None, None]
    assert empty.next_endpoint(LOCAL, CLIENT, 0) is None


def test_nothing_usable_gives_a_client_with_affinity_none_too() -> None:
    made = balancer(affinity=TIMEOUT)
    assert picks(made, 1) == [None]


def test_each_class_of_traffic_has_its_own_endpoints() -> None:
    one, two = endpoints(2)
    made = balancer(one, two)
    made.set_endpoints(LOCAL, (two,))
    assert {made.next_endpoint(LOCAL, CLIENT, 0) for _ in range(5)} == {two}
    assert set(picks(made, 2)) == {one, two}


@given(
    st.sets(st.integers(1, 20), min_size=1),
    st.sets(st.integers(1, 20), min_size=1),
    st.integers(0, 50),
    st.randoms(use_true_random=False),
)
def test_the_turn_survives_a_change(before: set[int], after: set[int], served: int, random: Random) -> None:
    """Those that stay are served in the order in which they would have been; new ones follow them."""
    old = [endpoint for number in before for endpoint in endpoints(1, first=number)]
    new = [endpoint for number in after for endpoint in endpoints(1, first=number)]
    changed, unchanged = (RoundRobin(Random(7), Ejections(), lambda _endpoint: 0) for _ in range(2))
    for turn in (changed, unchanged):
        turn.update(old)
        for _ in range(served):
            turn.pick(CLIENT, (), 0)
    changed.update(random.sample(new, len(new)))
    expected = [endpoint for _ in old if (endpoint := unchanged.pick(CLIENT, (), 0)) in new]
    order = [changed.pick(CLIENT, (), 0) for _ in new]
    assert order[: len(expected)] == expected
    assert set(order) == set(new)


def test_a_failed_endpoints_share_is_spread_over_all_others() -> None:
    dead, *_ = everyone = endpoints(3)
    made = balancer(*everyone)
    served = Counter[Endpoint | None]()
    for _ in range(90):
        endpoint = made.next_endpoint(CLUSTER, CLIENT, 0)
        if endpoint == dead:
            endpoint = made.another_endpoint(CLUSTER, CLIENT, 0, [dead])
        served[endpoint] += 1
    assert sorted(served.values()) == [45, 45]


def test_another_endpoint_is_none_once_all_were_tried() -> None:
    one, two = endpoints(2)
    made = balancer(one, two)
    assert made.another_endpoint(CLUSTER, CLIENT, 0, [one]) == two
    assert made.another_endpoint(CLUSTER, CLIENT, 0, [one, two]) is None


def test_affinity_holds_and_is_refreshed_by_every_connection() -> None:
    made = balancer(*endpoints(3), affinity=TIMEOUT)
    (first,) = picks(made, 1)
    assert all(picks(made, 1, now=now) == [first] for now in (0, 99, 198, 297))
    assert picks(made, 1, now=397) != [first]


def test_clients_have_endpoints_of_their_own() -> None:
    made = balancer(*endpoints(3), affinity=TIMEOUT)
    assert len({made.next_endpoint(CLUSTER, f"10.2.0.{number}", 0) for number in range(3)}) == 3


def test_a_changed_timeout_takes_effect_for_clients_that_are_known() -> None:
    made = balancer(*endpoints(3), affinity=TIMEOUT)
    (first,) = picks(made, 1)
    made.set_affinity(1000.0)
    assert picks(made, 1, now=900) == [first]
    made.set_affinity(5.0)
    assert picks(made, 1, now=906) != [first]


def test_affinity_can_be_switched_on_and_off() -> None:
    made = balancer(*endpoints(3))
    assert len(set(picks(made, 3))) == 3
    made.set_affinity(TIMEOUT)
    assert len(set(picks(made, 3))) == 1
    made.set_affinity(None)
    assert len(set(picks(made, 3))) == 3


def test_affinity_moves_when_its_endpoint_leaves() -> None:
    one, two = endpoints(2)
    made = balancer(one, affinity=TIMEOUT)
    assert picks(made, 1) == [one]
    made.set_endpoints(CLUSTER, (two,))
    assert picks(made, 1) == [two]
    made.set_endpoints(CLUSTER, (one, two))
    assert picks(made, 3) == [two, two, two]


def test_affinity_is_shared_by_the_classes_of_traffic_where_they_may_use_the_endpoint() -> None:
    one, two, three = endpoints(3)
    made = balancer(two, affinity=TIMEOUT)
    made.set_endpoints(LOCAL, (one, two, three))
    assert picks(made, 1) == [two]
    assert [made.next_endpoint(LOCAL, CLIENT, 1) for _ in range(4)] == [two] * 4


def test_a_failure_releases_the_client_and_its_other_connections_follow() -> None:
    made = balancer(*endpoints(3), affinity=TIMEOUT)
    (dead,) = picks(made, 1)
    assert dead is not None
    for _ in range(3):  # three connections of one client, all to the endpoint that died
        made.failed(CLIENT, dead, 0)
        chosen = made.another_endpoint(CLUSTER, CLIENT, 1, [dead])
        assert chosen not in (None, dead)
        assert picks(made, 1, now=1) == [chosen]


def test_releasing_an_endpoint_that_the_client_has_not_changes_nothing() -> None:
    made = balancer(*endpoints(3), affinity=TIMEOUT)
    (first,) = picks(made, 1)
    (other, *_) = (endpoint for endpoint in endpoints(3) if endpoint != first)
    made.failed(CLIENT, other, 0)
    made.failed("10.2.0.99", other, 0)
    assert picks(made, 1) == [first]


def test_settling_binds_the_client_to_the_winner() -> None:
    made = balancer(*endpoints(3), affinity=TIMEOUT)
    picks(made, 1)
    for winner in endpoints(3):
        made.settle(CLIENT, winner, 1)
        assert picks(made, 1, now=2) == [winner]


def test_without_affinity_releasing_and_settling_do_nothing() -> None:
    made = balancer(*endpoints(2))
    made.failed(CLIENT, endpoints(1)[0], 0)
    made.settle(CLIENT, endpoints(1)[0], 0)
    assert len(set(picks(made, 2))) == 2


def test_the_least_recently_seen_client_is_forgotten_first() -> None:
    (one,) = endpoints(1)
    affinity = ClientAffinity(TIMEOUT, max_clients=3)
    for now, client in enumerate(["a", "b", "c", "a", "d"]):
        affinity.remember(client, one, now)
    assert [client for client in "abcd" if affinity.endpoint_of(client, 5)] == ["a", "c", "d"]


def test_expired_clients_run_out_as_others_come() -> None:
    (one,) = endpoints(1)
    affinity = ClientAffinity(TIMEOUT, max_clients=1000)
    for number in range(100):
        affinity.remember(f"old {number}", one, 0)
    for number in range(50):
        affinity.remember(f"new {number}", one, TIMEOUT)
    assert len(affinity) == 50


CLIENT = "10.2.0.1"


def eject(made: LoadBalancer, *dead: Endpoint, now: float = 0.0) -> None:
    for endpoint in dead:
        for _ in range(FAILURES_TO_EJECT):
            made.failed(CLIENT, endpoint, now)


def test_an_ejected_endpoint_loses_its_turn_and_the_rest_stay_strictly_in_turn() -> None:
    dead, *alive = endpoints(5)
    made = balancer(dead, *alive)
    eject(made, dead)
    served = picks(made, 40)
    assert set(served) == {*alive}
    assert all(served[index] == served[index + 4] for index in range(36))


def test_one_connection_probes_at_its_turn_and_the_others_go_elsewhere() -> None:
    dead, *alive = endpoints(3)
    made = balancer(dead, *alive)
    eject(made, dead)
    for now in (FIRST_SECONDS, 2 * FIRST_SECONDS):
        assert picks(made, 30, now=now).count(dead) == 1


def test_a_probe_that_succeeds_gives_the_endpoint_its_turn_back() -> None:
    dead, *alive = endpoints(3)
    made = balancer(dead, *alive)
    eject(made, dead)
    assert dead in picks(made, 3, now=FIRST_SECONDS)
    made.succeeded(dead)
    assert picks(made, 30, now=FIRST_SECONDS).count(dead) == 10


def test_where_all_others_were_tried_those_left_out_are_tried_too_one_after_the_other() -> None:
    one, two, three, four = endpoints(4)
    made = balancer(one, two, three, four)
    eject(made, one, two)
    tried: list[Endpoint] = []
    while endpoint := made.another_endpoint(CLUSTER, CLIENT, 0, tried):
        tried.append(endpoint)
    assert {*tried[:2]} == {three, four}
    assert {*tried[2:]} == {one, two}


def test_several_that_are_left_out_take_turns_as_the_last_resort() -> None:
    one, two, three, four = endpoints(4)
    made = balancer(one, two, three, four)
    eject(made, one, two)
    last = [made.another_endpoint(CLUSTER, CLIENT, 0, (three, four)) for _ in range(4)]
    assert {*last[:2]} == {one, two}
    assert last[:2] == last[2:]


def test_the_only_endpoint_is_used_however_often_it_fails() -> None:
    (one,) = endpoints(1)
    made = balancer(one)
    eject(made, one)
    assert picks(made, 3) == [one] * 3
    assert not made.left_out


def test_a_class_of_traffic_keeps_its_only_endpoint_while_another_leaves_it_out() -> None:
    dead, *alive = endpoints(3)
    made = balancer(dead, *alive)
    made.set_endpoints(LOCAL, (dead,))
    eject(made, dead)
    assert dead not in picks(made, 6)
    assert made.next_endpoint(LOCAL, CLIENT, 0) == dead
    assert made.left_out == {dead}
    assert made.leaves_out(CLUSTER, dead)
    assert not made.leaves_out(LOCAL, dead)


def test_a_class_without_endpoints_leaves_nobody_out() -> None:
    made = LoadBalancer(Random(1))
    (one,) = endpoints(1)
    assert not made.leaves_out(CLUSTER, one)
    assert not made.has_other(CLUSTER, one)


def test_there_is_another_endpoint_unless_it_is_the_only_one() -> None:
    one, two = endpoints(2)
    assert balancer(one, two).has_other(CLUSTER, one)
    assert balancer(two).has_other(CLUSTER, one)
    assert not balancer(one).has_other(CLUSTER, one)


def test_a_client_bound_to_an_ejected_endpoint_goes_elsewhere_and_stays_there() -> None:
    made = balancer(*endpoints(3), affinity=TIMEOUT)
    (dead,) = picks(made, 1)
    assert dead is not None
    for number in range(FAILURES_TO_EJECT):
        made.failed(f"10.3.0.{number}", dead, 0)
    (other,) = picks(made, 1)
    assert other not in (None, dead)
    made.succeeded(dead)
    assert picks(made, 3) == [other] * 3


def test_a_client_bound_to_an_ejected_endpoint_may_probe_it() -> None:
    made = balancer(*endpoints(3), affinity=TIMEOUT)
    (dead,) = picks(made, 1)
    assert dead is not None
    for number in range(FAILURES_TO_EJECT):
        made.failed(f"10.3.0.{number}", dead, 0)
    assert picks(made, 2, now=FIRST_SECONDS)[0] == dead


def test_a_resurrected_endpoint_starts_clean() -> None:
    dead, *alive = endpoints(3)
    made = balancer(dead, *alive)
    eject(made, dead)
    made.set_endpoints(CLUSTER, alive)
    made.set_endpoints(CLUSTER, (dead, *alive))
    assert dead in picks(made, 3)
    made.failed(CLIENT, dead, 0)
    assert dead in picks(made, 3)


def test_when_endpoints_go_those_ejected_last_are_used_again() -> None:
    one, two, three, four = endpoints(4)
    made = balancer(one, two, three, four)
    eject(made, one, two)
    made.set_endpoints(CLUSTER, (one, two))
    assert made.left_out == {one}
    assert set(picks(made, 4)) == {two}


def test_ejections_and_returns_are_told() -> None:
    told: list[tuple[Endpoint, float | None]] = []
    dead, *alive = endpoints(3)
    made = LoadBalancer(Random(1), lambda endpoint, seconds: told.append((endpoint, seconds)))
    made.set_endpoints(CLUSTER, (dead, *alive))
    eject(made, dead)
    assert told == [(dead, FIRST_SECONDS)]
    assert dead in picks(made, 3, now=FIRST_SECONDS)
    made.failed(CLIENT, dead, FIRST_SECONDS)
    assert told[1:] == [(dead, 2 * FIRST_SECONDS)]
    made.succeeded(dead)
    assert told[2:] == [(dead, None)]


def test_neither_the_only_endpoint_nor_one_that_left_is_told_of() -> None:
    told: list[Endpoint] = []
    one, two = endpoints(2)
    made = LoadBalancer(Random(1), lambda endpoint, _seconds: told.append(endpoint))
    made.set_endpoints(CLUSTER, (one,))
    eject(made, one)
    made.succeeded(one)
    made.succeeded(one)
    assert told == []
    made.set_endpoints(CLUSTER, (one, two))
    eject(made, one)
    made.set_endpoints(CLUSTER, (two,))
    assert told == [one]


def numbered(number: int) -> Endpoint:
    return endpoints(1, first=number)[0]


class TroubledService(RuleBasedStateMachine):
    """Endpoints of two classes come, go, fail and recover in any order."""

    @initialize()
    def begin(self) -> None:
        self.made = LoadBalancer(Random(5))
        self.usable: dict[TrafficPolicy, frozenset[Endpoint]] = {CLUSTER: frozenset(), LOCAL: frozenset()}
        for policy in self.usable:
            self.made.set_endpoints(policy, ())
        self.now = 0.0

    @rule(policy=st.sampled_from(TrafficPolicy), numbers=st.sets(st.integers(1, 6)))
    def update(self, policy: TrafficPolicy, numbers: set[int]) -> None:
        self.usable[policy] = frozenset(map(numbered, numbers))
        self.made.set_endpoints(policy, self.usable[policy])

    @rule(affinity=st.sampled_from([None, TIMEOUT]))
    def bind(self, affinity: float | None) -> None:
        self.made.set_affinity(affinity)

    @rule(number=st.integers(1, 6), times=st.integers(1, 4))
    def fail(self, number: int, times: int) -> None:
        for _ in range(times):
            self.made.failed(CLIENT, numbered(number), self.now)

    @rule(number=st.integers(1, 6))
    def succeed(self, number: int) -> None:
        self.made.succeeded(numbered(number))

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def half_are_left_out_at_most(self) -> None:
        for policy, usable in self.usable.items():
            left_out = [endpoint for endpoint in usable if self.made.leaves_out(policy, endpoint)]
            assert len(left_out) <= most_left_out(len(usable))

    @invariant()
    def whoever_is_usable_is_tried_in_the_end(self) -> None:
        for policy, usable in self.usable.items():
            tried: list[Endpoint] = []
            while endpoint := self.made.another_endpoint(policy, CLIENT, self.now, tried):
                tried.append(endpoint)
            assert {*tried} == usable
            assert len(tried) == len(usable)


TestTroubledService = TroubledService.TestCase


def test_who_is_bound_to_what_can_be_told_to_another_balancer() -> None:
    usable = endpoints(3)
    assert balancer(*usable).affine_clients(0.0) == []
    before, after = balancer(*usable, affinity=TIMEOUT), balancer(*usable, affinity=TIMEOUT, seed=2)
    [first], [second] = picks(before, 1, CLIENT, 1.0), picks(before, 1, "10.2.0.2", 2.0)
    bound = before.affine_clients(5.0, 0, 1) + before.affine_clients(5.0, 1, 5)
    assert bound == before.affine_clients(5.0)
    assert bound == [(CLIENT, first, 4.0), ("10.2.0.2", second, 3.0)]
    for client, endpoint, silent_seconds in bound:
        after.settle(client, endpoint, 5.0 - silent_seconds)
    assert picks(after, 3, CLIENT, 6.0) + picks(after, 3, "10.2.0.2", 6.0) == [first] * 3 + [second] * 3


def test_a_class_without_traffic_is_forgotten_and_with_it_what_only_it_leaves_out() -> None:
    dead, alive, *others = endpoints(4)
    made = balancer(*others)
    made.set_endpoints(LOCAL, (dead, alive))
    eject(made, dead)
    assert made.left_out == {dead}
    made.keep_classes({CLUSTER})
    assert not made.left_out
    assert not made.ejections.suspects
    made.keep_classes({CLUSTER})
    assert {*picks(made, 2)} == {*others}


def test_who_is_on_the_way_of_a_class_that_is_gone_goes_where_another_class_goes() -> None:
    one, two = endpoints(2)
    made = balancer(one)
    made.set_endpoints(LOCAL, (two,))
    made.keep_classes({CLUSTER})
    assert made.another_endpoint(LOCAL, CLIENT, 0, (two,)) == one
    made.keep_classes(())
    assert LoadBalancer(Random(1)).next_endpoint(LOCAL, CLIENT, 0) is None
    assert made.another_endpoint(LOCAL, CLIENT, 0, (two,)) == one


def test_endpoints_are_chosen_in_another_way_from_now_on() -> None:
    one, two, three = everyone = endpoints(3)
    loads = {one: 1, two: 0, three: 2}
    made = LoadBalancer(Random(1), load=loads.__getitem__)
    made.set_endpoints(CLUSTER, everyone)
    assert set(picks(made, 3)) == set(everyone)
    for _ in range(2):  # saying it again changes nothing
        made.set_balancing(Balancing.LEAST_CONNECTIONS)
        assert picks(made, 3) == [two] * 3


def test_a_look_at_who_is_next_changes_nothing() -> None:
    made = balancer(*endpoints(3))
    assert set(made.usable(CLUSTER)) == set(endpoints(3))
    assert set(made.usable(LOCAL)) == set()
    for _ in range(7):
        shown = made.peek(CLUSTER, CLIENT, 0)
        assert made.peek(CLUSTER, None, 0) == shown
        assert (made.next_endpoint(CLUSTER, CLIENT, 0),) == shown
    assert made.peek(LOCAL, CLIENT, 0) == made.peek(CLUSTER, CLIENT, 0), "as `next_endpoint` has it"
    assert balancer().peek(CLUSTER, CLIENT, 0) == ()
    assert LoadBalancer(Random(1)).peek(CLUSTER, CLIENT, 0) == ()


def test_a_look_knows_whom_a_client_is_bound_to() -> None:
    made = balancer(*endpoints(3), affinity=TIMEOUT)
    (bound,) = picks(made, 1)
    assert bound is not None
    other = made.peek(CLUSTER, "10.2.0.9", 0)
    assert other not in ((bound,), ())
    assert made.peek(CLUSTER, None, 0) == other
    for _ in range(2):
        assert made.peek(CLUSTER, CLIENT, TIMEOUT - 1) == (bound,)
    assert made.bound_endpoint(CLIENT, TIMEOUT - 1) == bound
    assert made.bound_endpoint(CLIENT, TIMEOUT) is None
    assert balancer(*endpoints(3)).bound_endpoint(CLIENT, 0) is None
    made.take_out(frozenset({bound}))
    assert made.peek(CLUSTER, CLIENT, 0) == other
    assert picks(made, 1) == list(other), "a client moves when its endpoint is taken out, and stays there"
    assert made.bound_endpoint(CLIENT, 0) in other


def test_a_look_at_a_probe_takes_it_from_nobody() -> None:
    dead, *_ = everyone = endpoints(2)
    made = balancer(*everyone)
    for _ in range(FAILURES_TO_EJECT):
        made.failed(CLIENT, dead, 0)
    while made.peek(CLUSTER, CLIENT, FIRST_SECONDS) != (dead,):
        picks(made, 1)
    assert picks(made, 1, now=FIRST_SECONDS) == [dead]


def test_what_an_operator_took_out_is_no_ejection() -> None:
    told: list[tuple[Endpoint, float | None]] = []
    made = LoadBalancer(Random(1), lambda endpoint, seconds: told.append((endpoint, seconds)))
    one, two, three = everyone = endpoints(3)
    made.set_endpoints(CLUSTER, everyone)
    made.take_out(frozenset({one}))
    assert (made.left_out, made.ejected) == (frozenset({one}), frozenset())
    for endpoint in (one, two):
        for _ in range(FAILURES_TO_EJECT):
            made.failed(CLIENT, endpoint, 0)
    assert (made.left_out, made.ejected) == (frozenset({one, two}), frozenset({two}))
    made.succeeded(one)
    made.set_endpoints(CLUSTER, (one, three))
    made.set_endpoints(CLUSTER, everyone)
    assert made.left_out == {one}, "it is still out; the other one has come back and is well"
    made.take_out(frozenset())
    assert not made.left_out
    assert told == [(two, FIRST_SECONDS)]
