"""Datagrams through a UDP listener: whole, in turn, in order, and back from the right address."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.support.loopback import open_descriptors, wait_until
from tests.support.udp import (
    Client,
    EchoingPod,
    Pod,
    Proxy,
    exchange,
    open_clients,
    open_udp,
    refusing_endpoint,
)
from userspace_proxy.dataplane import udp_listener


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("size", [0, 1, 1472, 8000, 60000, 65507])
def test_datagrams_pass_whole(address: str, size: int) -> None:
    datagram = os.urandom(size)
    with Pod(address) as pod, Proxy([pod], address=address) as proxy, Client(proxy) as client:
        client.send(datagram)
        assert pod.echo() == datagram
        assert client.receive() == datagram
        wait_until(lambda: proxy.counters.bytes_out == size)
        assert proxy.counters.bytes_in == size


def test_flows_go_to_the_endpoints_in_turn() -> None:
    with Pod() as a, Pod() as b, Pod() as c, Proxy([a, b, c]) as proxy:
        with open_clients(proxy, 90) as clients:
            shares = Counter(exchange(client, [a, b, c]) for client in clients)
        assert sorted(shares.values()) == [30, 30, 30]
        assert (proxy.counters.opened, proxy.counters.active) == (90, 90)


def test_a_flow_stays_with_its_endpoint() -> None:
    with Pod() as a, Pod() as b, Pod() as c, Proxy([a, b, c]) as proxy, Client(proxy) as client:
        assert len({exchange(client, [a, b, c]) for _ in range(10)}) == 1
        assert proxy.counters.opened == 1


def test_many_datagrams_at_once_arrive_in_order() -> None:
    with Pod() as pod, Proxy([pod]) as proxy, Client(proxy) as client:
        sent = [b"%d" % number for number in range(100)]
        for datagram in sent:
            client.send(datagram)
        assert [pod.echo() for _ in sent] == sent
        assert [client.receive() for _ in sent] == sent


def test_clients_whose_datagrams_are_read_at_once_are_told_apart() -> None:
    with EchoingPod() as pod, Proxy([pod]) as proxy, open_clients(proxy, 10) as clients:
        for _ in range(2):
            with proxy.busy_elsewhere():
                for number, client in enumerate(clients):
                    client.send(bytes(number))
            for number, client in enumerate(clients):
                assert client.receive() == bytes(number)
        assert proxy.counters.opened == 10
        assert proxy.counters.bytes_in == 2 * sum(range(10))


def test_an_answer_comes_from_the_address_that_was_sent_to() -> None:
    with Pod() as pod, Proxy([pod]) as proxy, open_udp("127.0.0.1") as sock:
        # One client port, two addresses of the listener: two flows, each with its own way back.
        for address in ("127.0.0.1", "127.0.0.2"):
            sock.sendto(address.encode(), (address, proxy.port))
            pod.echo()
            assert sock.recvfrom(100) == (address.encode(), (address, proxy.port))
        assert proxy.listener.active_flows == 2


def test_without_endpoints_datagrams_are_dropped_and_counted() -> None:
    with Pod() as pod, Proxy([pod]) as proxy, Client(proxy) as client:
        exchange(client, [pod])
        proxy.serve()
        client.send(b"to nobody")
        client.send(b"to nobody")
        wait_until(lambda: proxy.counters.failed == 2)
        assert proxy.listener.active_flows == 0
        proxy.serve(pod)
        assert exchange(client, [pod]) is pod


def test_closing_gives_back_every_descriptor() -> None:
    before = open_descriptors()
    with (
        Pod() as a,
        refusing_endpoint() as dead,
        Proxy([a, dead]) as proxy,
        open_clients(proxy, 20) as clients,
    ):
        for client in clients:
            exchange(client, [a])
    assert open_descriptors() == before


def test_a_drain_waits_for_answers_and_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pod() as pod, Proxy([pod]) as proxy, open_clients(proxy, 3) as (answered, waiting, forgotten):
        exchange(answered, [pod])
        flows = []
        for client in (waiting, forgotten):
            client.send(b"?")
            flows.append(pod.receive()[1])
        assert proxy.call(proxy.listener.drain) == 2
        answered.send(b"nothing new is taken")
        pod.sock.sendto(b"late", flows[0])
        assert waiting.receive() == b"late"
        assert proxy.call(proxy.listener.drain) == 1
        monkeypatch.setattr(udp_listener, "_DRAIN_SECONDS", 0.0)
        wait_until(lambda: proxy.call(proxy.listener.drain) == 0)
        assert pod.has_nothing()
