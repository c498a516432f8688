"""The order in which UDP flows leave, against a clock that is an argument."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.admission import Room
from userspace_proxy.core.udp_flows import Flow, UdpFlows, WorkerFlows


class Named(Flow):
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


CLIENT = "10.244.1.7"
OTHER = "10.244.1.8"


def worker_flows(max_flows: int = 100, descriptors: int = 1000) -> WorkerFlows[Named]:
    return WorkerFlows(max_flows, Room(descriptors))


def names(flows: list[Named]) -> str:
    return "".join(flow.name for flow in flows)


class Table:
    """Flows by one-letter name: 30 s unanswered, 120 s answered, as a Service port that is not DNS has."""

    def __init__(self, worker: WorkerFlows[Named] | None = None) -> None:
        self.worker = worker_flows() if worker is None else worker
        self.flows: UdpFlows[Named] = UdpFlows(self.worker)
        self.by_name: dict[str, Named] = {}

    def add(self, name: str, now: float, idle_seconds: float = 30, client: str = CLIENT) -> None:
        self.by_name[name] = Named(name)
        self.flows.add(self.by_name[name], client, idle_seconds, now)

    def use(self, name: str, now: float) -> None:
        self.flows.use(self.by_name[name], now)

    def answer(self, name: str, now: float, idle_seconds: float = 120) -> None:
        self.flows.answer(self.by_name[name], idle_seconds, now)

    def remove(self, name: str) -> None:
        self.flows.remove(self.by_name[name])

    def expire(self, now: float, limit: int = 100) -> str:
        expired = self.worker.expired(now, limit)
        for flow in expired:
            self.flows.remove(flow)
        return names(expired)

    def evict(self) -> str:
        victim = self.flows.evictable()
        if victim is None:
            return ""
        self.flows.remove(victim)
        return victim.name

    def leaving(self, client: str = CLIENT) -> str:
        """Who has to leave for one more of `client`."""
        victim = self.flows.leaving_for(client)
        return "" if victim is None else victim.name


def test_an_unanswered_flow_expires_after_its_idle_time() -> None:
    table = Table()
    table.add("a", now=0)
    assert table.expire(29.9) == ""
    assert table.expire(30) == "a"
    assert len(table.flows) == 0


def test_a_datagram_starts_the_idle_time_again() -> None:
    table = Table()
    table.add("a", now=0)
    table.add("b", now=1)
    table.use("a", now=20)
    assert table.expire(31) == "b"
    assert table.expire(49.9) == ""
    assert table.expire(50) == "a"


def test_an_answer_gives_a_flow_its_longer_idle_time() -> None:
    table = Table()
    table.add("a", now=0)
    table.answer("a", now=1)
    assert table.expire(120) == ""
    assert table.expire(121) == "a"


def test_an_answer_may_shorten_the_idle_time() -> None:
    table = Table()
    table.add("q", now=0, idle_seconds=10)
    table.answer("q", now=0.5, idle_seconds=1)
    assert table.expire(1.5) == "q"


def test_flows_of_different_idle_times_expire_independently() -> None:
    table = Table()
    table.add("a", now=0)
    table.add("q", now=5, idle_seconds=10)
    assert table.expire(15) == "q"
    assert table.expire(30) == "a"


def test_a_flow_that_moves_to_another_endpoint_is_unanswered_again() -> None:
    table = Table()
    table.add("a", now=0)
    table.answer("a", now=1)
    table.remove("a")
    table.flows.add(table.by_name["a"], CLIENT, 30, 2)
    assert not table.by_name["a"].answered
    assert table.expire(32) == "a"


def test_one_sweep_expires_no_more_than_it_is_asked_to() -> None:
    table = Table()
    for name in "abcde":
        table.add(name, now=0)
    assert [table.expire(60, limit=2), table.expire(60, limit=2), table.expire(60, limit=2)] == [
        "ab",
        "cd",
        "e",
    ]


def test_a_query_under_way_outlives_flows_that_were_answered() -> None:
    table = Table()
    for now, name in enumerate("abcdefgh"):
        table.add(name, now=now)
    for now, name in enumerate("abcdef", start=10):
        table.answer(name, now=now)
    table.use("a", now=20)
    assert table.evict() == "b"
    table.remove("h")
    assert [table.evict() for _ in range(4)] == ["c", "d", "e", "g"]
    assert [table.evict() for _ in range(3)] == ["f", "a", ""]


def test_more_unanswered_flows_than_a_quarter_displace_themselves() -> None:
    table = Table()
    for now, name in enumerate("abcdefgh"):
        table.add(name, now=now)
    for now, name in enumerate("abcd", start=10):
        table.answer(name, now=now)
    assert [table.evict() for _ in range(4)] == ["e", "f", "g", "a"]


def test_eviction_looks_across_idle_times() -> None:
    table = Table()
    table.add("a", now=3)
    table.add("q", now=2, idle_seconds=10)
    table.add("r", now=4, idle_seconds=10)
    assert [table.evict() for _ in range(3)] == ["q", "a", "r"]


def test_nobody_leaves_as_long_as_there_is_room() -> None:
    table = Table(worker_flows(max_flows=2))
    table.add("a", now=0)
    assert table.leaving() == ""
    table.add("b", now=1)
    assert table.leaving() == "a"
    table.remove("a")
    assert table.leaving() == ""


def test_tcp_connections_take_room_from_flows() -> None:
    room = Room(10)
    table = Table(WorkerFlows(100, room))
    table.add("a", now=0)
    assert (table.leaving(), room.taken) == ("", 1)
    room.taken += 9
    assert table.leaving() == "a"
    table.remove("a")
    assert room.taken == 9


def test_the_service_port_that_has_most_gives_way() -> None:
    worker = worker_flows(max_flows=6)
    flooded, quiet, late = Table(worker), Table(worker), Table(worker)
    quiet.add("q", now=0)
    for now, name in enumerate("abcde", start=1):
        flooded.add(name, now=now)
    assert (flooded.leaving(), quiet.leaving(), late.leaving()) == ("a", "a", "a")
    assert worker.evictable() is flooded.by_name["a"]


def test_service_ports_that_have_as_many_displace_their_own() -> None:
    worker = worker_flows(max_flows=4)
    first, second = Table(worker), Table(worker)
    for now, name in enumerate("ab"):
        first.add(name, now=now)
        second.add(name.upper(), now=now)
    assert (first.leaving(), second.leaving()) == ("a", "A")


def test_who_had_most_once_is_soon_forgotten() -> None:
    worker = worker_flows()
    before, now_most = Table(worker), Table(worker)
    for name in "abcd":
        before.add(name, now=0)
    for name in "xyz":
        now_most.add(name, now=0)
    for name in "abcd":
        before.remove(name)
    assert worker.evictable() is now_most.by_name["x"]
    assert worker.expired(1, 10) == []
    for name in "xyz":
        now_most.remove(name)
    assert worker.evictable() is None


def test_flows_of_several_service_ports_expire_together() -> None:
    worker = worker_flows()
    tables = [Table(worker) for _ in range(3)]
    for name, table in zip("abc", tables, strict=True):
        table.add(name, now=0)
    assert names(worker.expired(30, 2)) == "ab"
    assert names(worker.expired(30, 9)) == "abc"
    assert len(worker) == 3


def test_a_service_port_has_no_more_than_its_limit() -> None:
    table = Table()
    table.flows.max_flows = 2
    table.add("a", now=0)
    table.add("b", now=1)
    assert table.leaving() == "a"


def test_a_client_displaces_its_own_flows() -> None:
    table = Table()
    table.flows.max_per_client = 2
    table.add("o", now=0, client=OTHER)
    table.add("a", now=1)
    table.add("b", now=2)
    assert (table.leaving(), table.leaving(OTHER)) == ("a", "")


def test_a_client_keeps_the_flows_that_it_uses() -> None:
    table = Table()
    table.flows.max_per_client = 20
    used, idle = "abcdefghij", "klmnopqrst"
    for now, name in enumerate(used + idle):
        table.add(name, now=now)
    evicted = ""
    for now in range(100, 110):
        for name in set(used) - set(evicted):
            table.use(name, now=now)
        evicted += (victim := table.leaving())
        table.remove(victim)
        table.add(victim.upper(), now=now)
    assert len(set(evicted.lower()) & set(used)) <= 1
    assert len(table.flows) == 20


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "use", "answer", "remove", "evict"]), st.sampled_from("abcdef")),
        max_size=60,
    )
)
def test_agrees_with_looking_at_every_flow(steps: list[tuple[str, str]]) -> None:
    table = Table()
    alive: dict[str, tuple[bool, float]] = {}  # name: answered, last used
    for now, (verb, name) in enumerate(steps):
        if verb == "evict":
            waiting = [name for name, (answered, _) in alive.items() if not answered]
            many = len(waiting) > len(alive) // 4
            evictable = waiting if many or len(waiting) == len(alive) else alive.keys() - waiting
            expected = min(evictable, key=lambda name: alive[name], default="")
            assert table.evict() == expected
            alive.pop(expected, None)
        elif verb == "add" and name not in alive:
            table.add(name, now)
            alive[name] = (False, now)
        elif verb == "use" and name in alive:
            table.use(name, now)
            alive[name] = (alive[name][0], now)
        elif verb == "answer" and name in alive and not alive[name][0]:
            table.answer(name, now)
            alive[name] = (True, now)
        elif verb == "remove" and name in alive:
            table.remove(name)
            del alive[name]
        assert len(table.flows) == len(table.worker) == len(alive)
    now = len(steps) + 20
    due = {name for name, (answered, used) in alive.items() if used + (120 if answered else 30) <= now}
    assert set(table.expire(now)) == due


def test_addresses_of_one_64_are_one_client_but_those_of_pods() -> None:
    table = Table()
    table.flows.max_per_client = 2
    table.flows.pod_cidrs = ("fd00:10:244::/64",)
    for number, name in enumerate("ab"):
        table.add(name, number, client=f"2001:db8::{number}")
        table.add(name.upper(), number, client=f"fd00:10:244::{number}")
    leaving = table.flows.leaving_for("2001:db8::ffff")
    assert leaving is not None and leaving.name == "a"
    assert table.flows.leaving_for("2001:db8:0:1::1") is None
    assert table.flows.leaving_for("fd00:10:244::ffff") is None
    table.flows.pod_cidrs = ()  # as whom a flow counts was decided when it began
    for name in "abAB":
        table.remove(name)
    assert table.flows.leaving_for("2001:db8::ffff") is None
