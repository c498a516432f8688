from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.port_claims import (
    DEFAULT_PROXY_PORT_RANGE,
    FrontendClaims,
    PortRange,
    ProxyPortClaims,
)
from userspace_proxy.core.service_port import (
    Frontend,
    IPFamily,
    Port,
    Protocol,
    ProxyPort,
    ServiceName,
    ServicePortName,
)

TCP, UDP = Protocol.TCP, Protocol.UDP


def test_a_range_holds_both_of_its_ends() -> None:
    ports = PortRange(11000, 11002)
    assert (str(ports), len(ports)) == ("11000-11002", 3)
    assert [port for port in range(10998, 11006) if port in ports] == [11000, 11001, 11002]


@pytest.mark.parametrize("port", [2379, 2380, 6443, 10248, 10259, 30000, 32767, 32768, 60999])
def test_the_default_range_has_no_port_that_somebody_else_is_handed(port: int) -> None:
    assert port not in DEFAULT_PROXY_PORT_RANGE


def claims_of(*taken: int) -> ProxyPortClaims:
    made = ProxyPortClaims(PortRange(11000, 11003))
    for port in taken:
        made.claim(TCP, ProxyPort(port))
    return made


@pytest.mark.parametrize(
    ("taken", "preferred", "start", "tried"),
    [
        pytest.param([], None, 0, [11000, 11001, 11002, 11003], id="from the first"),
        pytest.param([], None, 2, [11002, 11003, 11000, 11001], id="around"),
        pytest.param([], None, 4_000_000_001, [11001, 11002, 11003, 11000], id="any start"),
        pytest.param([], 11002, 1, [11002, 11001, 11003, 11000], id="the preferred one first, once"),
        pytest.param([11001], None, 0, [11000, 11002, 11003], id="not what is taken"),
        pytest.param([11002], 11002, 0, [11000, 11001, 11003], id="not a preferred one that is taken"),
        pytest.param([], 30080, 0, [11000, 11001, 11002, 11003], id="not a preferred one out of range"),
        pytest.param([11000, 11001, 11002, 11003], 11000, 0, [], id="all are taken"),
    ],
)
def test_which_proxy_ports_are_tried(
    taken: list[int], preferred: int | None, start: int, tried: list[int]
) -> None:
    wish = ProxyPort(preferred) if preferred is not None else None
    assert list(claims_of(*taken).candidates(TCP, wish, start)) == tried


def test_tcp_and_udp_have_numbers_of_their_own() -> None:
    assert next(claims_of(11000).candidates(UDP, None, 0)) == 11000


def test_a_released_port_can_be_had_again() -> None:
    claims = claims_of(11000, 11001)
    claims.release(TCP, ProxyPort(11000))
    claims.release(TCP, ProxyPort(11003))  # nobody had it
    assert list(claims.candidates(TCP, None, 0)) == [11000, 11002, 11003]


def owner(name: str) -> ServicePortName:
    return ServicePortName(ServiceName("default", name), "", TCP, IPFamily.IPV4)


def frontend(number: int) -> Frontend:
    return Frontend(f"10.96.0.{number}", TCP, Port(80))


OLD, YOUNG = owner("old"), owner("young")
ONE, TWO, THREE = frontend(1), frontend(2), frontend(3)


def test_the_oldest_has_a_frontend_and_the_next_oldest_takes_it_over() -> None:
    claims = FrontendClaims()
    assert claims.replace(YOUNG, "2026-02-02T00:00:00Z", [ONE]) == {ONE}
    assert claims.owner_of(ONE) == YOUNG
    assert claims.replace(OLD, "2026-01-01T00:00:00Z", [ONE]) == {ONE}
    assert claims.owner_of(ONE) == OLD
    assert claims.claimants_of(ONE) == (OLD, YOUNG)
    assert claims.replace(OLD, "2026-01-01T00:00:00Z", []) == {ONE}
    assert claims.owner_of(ONE) == YOUNG


def test_nobody_has_what_nobody_claims() -> None:
    claims = FrontendClaims()
    claims.replace(OLD, "", [ONE])
    assert ONE in claims
    claims.replace(OLD, "", [])
    assert ONE not in claims
    assert (claims.owner_of(ONE), claims.claimants_of(ONE)) == (None, ())
    assert claims.replace(OLD, "", []) == set()


@pytest.mark.parametrize(
    ("created", "wanted", "changed"),
    [
        pytest.param("1", [ONE, TWO], set(), id="nothing"),
        pytest.param("1", [ONE, TWO, ONE], set(), id="nothing, said twice"),
        pytest.param("1", [TWO, THREE], {ONE, TWO, THREE}, id="other frontends"),
        pytest.param("2", [ONE, TWO], {ONE, TWO}, id="another age"),
    ],
)
def test_a_claim_is_replaced_as_a_whole(created: str, wanted: list[Frontend], changed: set[Frontend]) -> None:
    claims = FrontendClaims()
    claims.replace(OLD, "1", [ONE, TWO])
    assert claims.replace(OLD, created, wanted) == changed
    assert {item for item in (ONE, TWO, THREE) if item in claims} == set(wanted)
    assert all(claims.claimants_of(item) == (OLD,) for item in wanted)


def test_of_two_that_are_as_old_the_first_by_name_has_it_whoever_came_first() -> None:
    for order in permutations([owner("a"), owner("b"), owner("c")]):
        claims = FrontendClaims()
        for name in order:
            claims.replace(name, "2026-01-01T00:00:00Z", [ONE])
        assert claims.claimants_of(ONE) == (owner("a"), owner("b"), owner("c"))


CLAIMS = st.tuples(
    st.sampled_from([owner(name) for name in "abcd"]),
    st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"]),
    st.lists(st.sampled_from([ONE, TWO, THREE]), max_size=4),
)


@given(st.lists(CLAIMS, max_size=12))
def test_only_the_last_claim_of_each_counts_and_the_oldest_owns(
    made: list[tuple[ServicePortName, str, list[Frontend]]],
) -> None:
    claims = FrontendClaims()
    last: dict[ServicePortName, tuple[str, list[Frontend]]] = {}
    for name, created, wanted in made:
        before = {item: claims.claimants_of(item) for item in (ONE, TWO, THREE)}
        changed = claims.replace(name, created, wanted)
        last[name] = (created, wanted)
        after = {item: claims.claimants_of(item) for item in (ONE, TWO, THREE)}
        assert {item for item in after if after[item] != before[item]} <= changed
    for item in (ONE, TWO, THREE):
        claiming = [(created, name.key, name) for name, (created, wanted) in last.items() if item in wanted]
        by_age = tuple(name for _, _, name in sorted(claiming, key=lambda entry: entry[:2]))
        assert claims.claimants_of(item) == by_age
        assert claims.owner_of(item) == (by_age[0] if by_age else None)
        assert (item in claims) is bool(by_age)
