from __future__ import annotations

import pytest

from userspace_proxy.core.port_claims import (
    DEFAULT_PROXY_PORT_RANGE,
    PortRange,
    ProxyPortClaims,
)
from userspace_proxy.core.service_port import Protocol, ProxyPort

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


def test_ports_of_strangers_are_passed_over_until_they_are_looked_at_again() -> None:
    claims = claims_of(11000)
    for port in (11001, 11003):
        claims.pass_over(TCP, ProxyPort(port))
    assert list(claims.candidates(TCP, None, 0)) == [11002]
    assert next(claims.candidates(TCP, ProxyPort(11003), 0)) == 11003
    assert len(list(claims.candidates(UDP, None, 0))) == 4
    claims.look_again(3)
    assert list(claims.candidates(TCP, None, 0)) == [11001, 11002]
    claims.look_again(3)
    assert list(claims.candidates(TCP, None, 0)) == [11001, 11002, 11003]


def test_looking_again_goes_around() -> None:
    claims = claims_of()
    for _ in range(3):
        for port in range(11000, 11004):
            claims.pass_over(TCP, ProxyPort(port))
        claims.look_again(2)
        assert list(claims.candidates(TCP, None, 0)) == [11000, 11001]
        claims.look_again(2)
        assert list(claims.candidates(TCP, None, 0)) == [11000, 11001, 11002, 11003]


def test_a_port_may_be_kept_claimed_and_a_strangers_in_any_order() -> None:
    claims = claims_of(11000)
    claims.keep([(TCP, ProxyPort(11000)), (TCP, ProxyPort(11001)), (TCP, ProxyPort(30080))])
    assert (claims.room(TCP), claims.room(UDP)) == (3, 4)
    assert list(claims.candidates(TCP, None, 0)) == [11002, 11003]
    claims.pass_over(TCP, ProxyPort(11001))
    claims.release(TCP, ProxyPort(11000))
    assert list(claims.candidates(TCP, None, 0)) == [11002, 11003]
    claims.keep(())
    assert list(claims.candidates(TCP, None, 0)) == [11000, 11002, 11003]
    assert claims.room(TCP) == 3
    claims.look_again(4)
    assert list(claims.candidates(TCP, None, 0)) == [11000, 11001, 11002, 11003]


def test_a_port_that_is_claimed_while_others_are_tried_is_not_tried() -> None:
    claims = claims_of()
    tried = claims.candidates(TCP, None, 1)
    assert next(tried) == 11001
    claims.claim(TCP, ProxyPort(11002))
    assert list(tried) == [11003, 11000]


def test_a_released_port_can_be_had_again() -> None:
    claims = claims_of(11000, 11001)
    claims.release(TCP, ProxyPort(11000))
    claims.release(TCP, ProxyPort(11003))  # nobody had it
    assert list(claims.candidates(TCP, None, 0)) == [11000, 11002, 11003]
