"""What is said of connections, and which are meant."""

from __future__ import annotations

import pytest

from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import (
    ConnectionQuery,
    ConnectionState,
    EndpointState,
    LiveClass,
    LiveEndpoint,
    LiveServicePort,
    ServicePortState,
    TrafficClassState,
    state_of,
    summed_up,
)
from userspace_proxy.core.relay_state import Half, HalfEvent, RelayState
from userspace_proxy.core.service_port import Port, TrafficPolicy

WEB = "default/web:http TCP IPv4"


@pytest.mark.parametrize(
    ("moves", "state"),
    [
        ((), ConnectionState.ESTABLISHED),
        (((Half.REQUEST, HalfEvent.SINK_FILLED),), ConnectionState.ESTABLISHED),
        (((Half.REQUEST, HalfEvent.SOURCE_ENDED),), ConnectionState.CLIENT_FINISHED),
        (((Half.RESPONSE, HalfEvent.SOURCE_ENDED),), ConnectionState.ENDPOINT_FINISHED),
    ],
)
def test_how_far_a_connection_is(moves: tuple[tuple[Half, HalfEvent], ...], state: ConnectionState) -> None:
    relay = RelayState()
    for half, event in moves:
        relay.move(half, event)
    assert state_of(relay) is state


@pytest.mark.parametrize(
    ("service", "is_meant"),
    [
        ("", True),
        ("default/web", True),
        ("web", True),
        ("web:http", True),
        ("web:https", False),
        ("default", False),
        ("default/web:http", True),
        ("default/web:https", False),
        ("default/we", False),
        ("other/web", False),
    ],
)
def test_whose_connections_are_meant(service: str, is_meant: bool) -> None:
    assert ConnectionQuery(service=service).has_service_port(WEB) is is_meant


@pytest.mark.parametrize(
    ("address", "port", "is_meant"),
    [
        ("", 0, True),
        ("10.1.0.1", 0, True),
        ("10.1.0.1", 80, True),
        ("10.1.0.1", 81, False),
        ("10.1.0.2", 0, False),
    ],
)
def test_where_connections_that_are_meant_lead(address: str, port: int, is_meant: bool) -> None:
    query = ConnectionQuery(endpoint_address=address, endpoint_port=port)
    assert query.has_endpoint(("10.1.0.1", 80)) is is_meant
    assert query.has_endpoint(None) is (not address)


def test_who_is_meant() -> None:
    assert ConnectionQuery().has_client("10.2.0.1")
    assert ConnectionQuery(client="10.2.0.1").has_client("10.2.0.1")
    assert not ConnectionQuery(client="10.2.0.1").has_client("10.2.0.10")


ONE, TWO, THREE = (Endpoint(f"10.1.0.{number}", Port(80)) for number in (1, 2, 3))


def key_of(endpoint: Endpoint) -> tuple[str, int]:
    return endpoint.address, endpoint.port


def worker(
    *endpoints: EndpointState,
    left_out: tuple[Endpoint, ...] = (),
    following: tuple[Endpoint, ...] = (),
    bound_to: Endpoint | None = None,
) -> ServicePortState:
    return ServicePortState(
        endpoints,
        (
            TrafficClassState(
                "Cluster",
                tuple(each.endpoint for each in endpoints),
                tuple(map(key_of, left_out)),
                tuple(map(key_of, following)),
            ),
        ),
        None if bound_to is None else key_of(bound_to),
    )


def test_what_several_workers_say_is_summed_up() -> None:
    live = summed_up(
        [
            worker(
                EndpointState(key_of(ONE), active=2, failures=3, ejected_seconds=0.5, is_probed=True),
                EndpointState(key_of(TWO), active=1),
                left_out=(ONE,),
                following=(TWO,),
                bound_to=ONE,
            ),
            worker(
                EndpointState(key_of(ONE), active=1, failures=1),
                EndpointState(key_of(TWO), failures=3, ejected_seconds=2.0),
                EndpointState(key_of(THREE), failures=3, ejected_seconds=4.0),
                left_out=(TWO,),
                following=(ONE, TWO),
                bound_to=ONE,
            ),
        ],
        {TWO: 12.5, THREE: None, Endpoint("10.1.0.9", Port(80)): None},
        now=10.0,
    )
    assert live.endpoints == {
        ONE: LiveEndpoint(active=3, failures=3, ejected_seconds=0.5, is_probed=True),
        TWO: LiveEndpoint(
            active=1, failures=3, ejected_seconds=2.0, is_taken_out=True, taken_out_seconds=2.5
        ),
        THREE: LiveEndpoint(failures=3, ejected_seconds=4.0, is_taken_out=True),
    }
    assert live.classes == {TrafficPolicy.CLUSTER: LiveClass(left_out=frozenset({ONE, TWO}), next=(TWO, ONE))}
    assert live.bound_to == (ONE,)


def test_a_service_port_that_no_worker_serves_is_nothing() -> None:
    assert summed_up([], {}, 0.0) == LiveServicePort({}, {}, ())
