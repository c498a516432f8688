"""How a connection is told of."""

from __future__ import annotations

import msgspec

from userspace_proxy.core.answers.connections import (
    ConnectionsAnswer,
    ConnectionsQuestion,
    describe_connection,
)
from userspace_proxy.core.live_traffic import ConnectionState, LiveConnection

CONNECTION = LiveConnection(
    "default/web:http TCP IPv6",
    ("fd00::1", 40000),
    ("fd00:96::10", 80),
    ("fd00:1::1", 8080),
    ConnectionState.CLIENT_FINISHED,
    True,
    1.23456,
    10,
    20,
)


def test_all_that_is_known_is_said() -> None:
    assert msgspec.to_builtins(describe_connection(CONNECTION, 4711, ("fd00:96::99", 81))) == {
        "servicePort": "default/web:http",
        "protocol": "TCP",
        "family": "IPv6",
        "client": "[fd00::1]:40000",
        "frontend": "[fd00:96::10]:80",
        "endpoint": "[fd00:1::1]:8080",
        "state": "client-finished",
        "draining": True,
        "ageSeconds": 1.235,
        "bytesIn": 10,
        "bytesOut": 20,
        "worker": 4711,
    }


def test_what_is_not_known_is_none_unless_there_is_but_one_frontend() -> None:
    flow = LiveConnection(
        "default/dns UDP IPv4", ("10.2.0.1", 5353), None, None, ConnectionState.UNANSWERED, False, 0.0
    )
    told = describe_connection(flow, 0, None)
    assert (told.frontend, told.endpoint, told.bytes_in, told.bytes_out) == (None, None, None, None)
    assert describe_connection(flow, 0, ("10.96.0.10", 53)).frontend == "10.96.0.10:53"


def test_all_connections_are_meant_unless_it_is_said_which() -> None:
    assert msgspec.json.decode(b"{}", type=ConnectionsQuestion) == ConnectionsQuestion()
    assert ConnectionsAnswer() == ConnectionsAnswer(connections=(), left_out=0, workers_not_asked=())
