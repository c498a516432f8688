"""What a worker remembers for the next agent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from userspace_proxy.dataplane.messages import ListenerConfig, ListenerKey, ServicePortConfig
from userspace_proxy.dataplane.worker_holdings import WorkerHoldings


@pytest.fixture
def sockets() -> Iterator[dict[ListenerKey, socket.socket]]:
    with ExitStack() as stack:
        yield {ListenerKey("TCP", port): stack.enter_context(socket.socket()) for port in (1, 2, 3)}


def service_port(key: str, *ports: int) -> ServicePortConfig:
    listeners = tuple(ListenerConfig("Cluster", port, ()) for port in ports)
    return ServicePortConfig(key, key, "TCP", "IPv4", None, 30.0, 120.0, listeners)


def held(holdings: WorkerHoldings, sockets: dict[ListenerKey, socket.socket]) -> dict[str, list[int]]:
    """The ports of each Service port, if what is handed back are their sockets."""
    answer, descriptors = holdings.handed_back(1, 0)
    ports = {each.key: [port for _, port in each.listeners] for each in answer.service_ports}
    expected = [sockets[ListenerKey("TCP", port)].fileno() for each in ports.values() for port in each]
    assert descriptors == expected
    return ports


def test_what_is_served_is_remembered_change_by_change(sockets: dict[ListenerKey, socket.socket]) -> None:
    one, two, three = sockets.items()
    holdings = WorkerHoldings()
    holdings.serve([service_port("a", 1), service_port("b", 2)], (), dict([one, two]))
    assert held(holdings, sockets) == {"a": [1], "b": [2]}
    holdings.serve([service_port("a", 1, 3)], (), dict([three]))  # 1 is known
    assert held(holdings, sockets) == {"b": [2], "a": [1, 3]}
    holdings.serve([service_port("a", 3)], ["b", "unknown"], {})
    assert held(holdings, sockets) == {"a": [3]}
    holdings.serve([service_port("c", 3)], ["a"], {})  # in one message from one to the other
    assert held(holdings, sockets) == {"c": [3]}
    holdings.serve((), ["c"], {})
    assert not holdings.has_listeners


def test_a_listener_that_is_replaced_is_handed_back_as_the_new_one(
    sockets: dict[ListenerKey, socket.socket],
) -> None:
    key = ListenerKey("TCP", 1)
    holdings = WorkerHoldings()
    holdings.serve([service_port("a", 1)], (), {key: sockets[ListenerKey("TCP", 2)]})
    holdings.serve([service_port("a", 1)], (), {key: sockets[key]})
    assert held(holdings, sockets) == {"a": [1]}
