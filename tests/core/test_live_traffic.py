"""What is said of connections, and which are meant."""

from __future__ import annotations

import pytest

from userspace_proxy.core.live_traffic import ConnectionQuery, ConnectionState, state_of
from userspace_proxy.core.relay_state import Half, HalfEvent, RelayState

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
