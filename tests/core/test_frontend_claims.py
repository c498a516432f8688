from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userspace_proxy.core.frontend_claims import FrontendClaim, FrontendClaims, Precedence
from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, ServiceName, ServicePortName


def owner(name: str) -> ServicePortName:
    return ServicePortName(ServiceName("default", name), "", Protocol.TCP, IPFamily.IPV4)


def frontend(number: int) -> Frontend:
    return Frontend(f"10.96.0.{number}", Protocol.TCP, Port(80))


OLD, YOUNG = owner("old"), owner("young")
ONE, TWO, THREE = frontend(1), frontend(2), frontend(3)
IS_ITS_OWN = Precedence.CLUSTER_IP
EARLY, LATE = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"


def wants(*frontends: Frontend) -> list[FrontendClaim]:
    return [FrontendClaim(item) for item in frontends]


def cluster_ip(item: Frontend) -> list[FrontendClaim]:
    return [FrontendClaim(item, is_cluster_ip=True)]


def test_the_oldest_has_a_frontend_and_the_next_oldest_takes_it_over() -> None:
    claims = FrontendClaims()
    assert claims.replace(YOUNG, LATE, wants(ONE)) == {ONE}
    assert claims.owner_of(ONE) == YOUNG
    assert claims.replace(OLD, EARLY, wants(ONE)) == {ONE}
    assert claims.owner_of(ONE) == OLD
    assert claims.claimants_of(ONE) == (OLD, YOUNG)
    assert claims.replace(OLD, EARLY, []) == {ONE}
    assert claims.owner_of(ONE) == YOUNG


def test_nobody_has_what_nobody_claims() -> None:
    claims = FrontendClaims()
    claims.replace(OLD, "", wants(ONE))
    assert ONE in claims
    claims.replace(OLD, "", [])
    assert ONE not in claims
    assert (claims.owner_of(ONE), claims.claimants_of(ONE)) == (None, ())
    assert claims.replace(OLD, "", []) == set()


@pytest.mark.parametrize(
    ("created", "wanted", "changed"),
    [
        pytest.param("1", wants(ONE, TWO), set(), id="nothing"),
        pytest.param("1", wants(TWO, THREE), {ONE, TWO, THREE}, id="other frontends"),
        pytest.param("1", [*cluster_ip(ONE), *wants(TWO)], {ONE, TWO}, id="another reason"),
        pytest.param("2", wants(ONE, TWO), {ONE, TWO}, id="another age"),
    ],
)
def test_a_claim_is_replaced_as_a_whole(
    created: str, wanted: list[FrontendClaim], changed: set[Frontend]
) -> None:
    claims = FrontendClaims()
    claims.replace(OLD, "1", wants(ONE, TWO))
    assert claims.replace(OLD, created, wanted) == changed
    left = {claim.frontend for claim in wanted}
    assert {item for item in (ONE, TWO, THREE) if item in claims} == left
    assert all(claims.claimants_of(item) == (OLD,) for item in left)


def test_of_two_that_are_as_old_the_first_by_name_has_it_whoever_came_first() -> None:
    for order in permutations([owner("a"), owner("b"), owner("c")]):
        claims = FrontendClaims()
        for name in order:
            claims.replace(name, EARLY, wants(ONE))
        assert claims.claimants_of(ONE) == (owner("a"), owner("b"), owner("c"))


@pytest.mark.parametrize(
    ("old", "young", "first", "why"),
    [
        pytest.param((EARLY, wants(ONE)), (LATE, wants(ONE)), OLD, Precedence.OLDER, id="age"),
        pytest.param((EARLY, cluster_ip(ONE)), (LATE, cluster_ip(ONE)), OLD, Precedence.OLDER, id="both"),
        pytest.param((EARLY, wants(ONE)), (LATE, cluster_ip(ONE)), YOUNG, IS_ITS_OWN, id="clusterIP"),
        pytest.param(("", wants(ONE)), (LATE, wants(ONE)), OLD, Precedence.UNDATED, id="no time"),
        pytest.param(("", wants(ONE)), ("", wants(ONE)), OLD, Precedence.NAME, id="no times"),
        pytest.param((LATE, wants(ONE)), (LATE, wants(ONE)), OLD, Precedence.NAME, id="the same time"),
    ],
)
def test_why_a_frontend_is_somebodys(
    old: tuple[str, list[FrontendClaim]],
    young: tuple[str, list[FrontendClaim]],
    first: ServicePortName,
    why: Precedence,
) -> None:
    claims = FrontendClaims()
    claims.replace(YOUNG, *young)
    claims.replace(OLD, *old)
    assert claims.owner_of(ONE) == first
    assert claims.precedence_over(YOUNG if first == OLD else OLD, ONE) is why


CLAIMS = st.tuples(
    st.sampled_from([owner(name) for name in "abcd"]),
    st.sampled_from(["", EARLY, LATE]),
    st.lists(
        st.builds(FrontendClaim, st.sampled_from([ONE, TWO, THREE]), st.booleans()),
        max_size=3,
        unique_by=lambda claim: claim.frontend,
    ),
)


@given(st.lists(CLAIMS, max_size=12))
def test_only_the_last_claim_of_each_counts_and_the_clusterip_or_the_oldest_owns(
    made: list[tuple[ServicePortName, str, list[FrontendClaim]]],
) -> None:
    claims = FrontendClaims()
    last: dict[ServicePortName, tuple[str, dict[Frontend, bool]]] = {}
    for name, created, wanted in made:
        before = {item: claims.claimants_of(item) for item in (ONE, TWO, THREE)}
        changed = claims.replace(name, created, wanted)
        last[name] = (created, {claim.frontend: claim.is_cluster_ip for claim in wanted})
        after = {item: claims.claimants_of(item) for item in (ONE, TWO, THREE)}
        assert {item for item in after if after[item] != before[item]} <= changed
    for item in (ONE, TWO, THREE):
        claiming = [
            (not wanted[item], created, name.key, name)
            for name, (created, wanted) in last.items()
            if item in wanted
        ]
        ranked = tuple(name for *_, name in sorted(claiming, key=lambda entry: entry[:3]))
        assert claims.claimants_of(item) == ranked
        assert claims.owner_of(item) == (ranked[0] if ranked else None)
        assert (item in claims) is bool(ranked)
