"""Clients who repeat themselves to a silent endpoint, over loopback; in a tenth of the real times."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.loopback import DEADLINE_SECONDS, wait_until
from tests.support.udp import CLUSTER, Client, EchoingPod, Pod, Proxy, exchange, open_clients
from userspace_proxy.core import udp_silence
from userspace_proxy.dataplane import udp_flow

REPEAT_SECONDS = 0.1


@pytest.fixture(autouse=True)
def short_silences(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (udp_silence, udp_flow):
        monkeypatch.setattr(module, "REPEAT_SECONDS", REPEAT_SECONDS)
    monkeypatch.setattr(udp_silence, "ANSWERED_REPEAT_SECONDS", 3 * REPEAT_SECONDS)


def is_answered(client: Client) -> bool:
    """Send, and look for an answer for a moment."""
    client.send(b"?")
    return bool(select.select([client.sock], [], [], 0.02)[0])


@contextmanager
def unlucky_client(proxy: Proxy, silent: Pod) -> Iterator[Client]:
    """Of two clients, whose turns come one after the other, the one that has the silent endpoint."""
    with open_clients(proxy, 2) as clients:
        for client in clients:
            client.send(b"?")
        [answered], _, _ = select.select([client.sock for client in clients], [], [], DEADLINE_SECONDS)
        silent.receive()
        yield next(client for client in clients if client.sock is not answered)


def test_a_flow_that_has_no_answer_moves_when_its_client_repeats_itself() -> None:
    with (
        EchoingPod() as alive,
        Pod() as silent,
        Proxy([alive, silent]) as proxy,
        unlucky_client(proxy, silent) as client,
    ):
        began = time.monotonic()
        wait_until(lambda: is_answered(client))
        assert time.monotonic() - began >= REPEAT_SECONDS - 0.05
        assert proxy.counters.failed == 0


def test_it_moves_elsewhere_though_it_is_the_silent_endpoints_turn() -> None:
    with (
        EchoingPod() as alive,
        Pod() as silent,
        Proxy([alive, silent]) as proxy,
        unlucky_client(proxy, silent) as client,
    ):
        while proxy.call(proxy.balancer.next_endpoint, CLUSTER, "127.0.0.9", 0.0) != alive.endpoint:
            pass
        time.sleep(1.5 * REPEAT_SECONDS)
        client.send(b"again")
        assert client.receive() == b"again"
        assert silent.has_nothing()


def test_datagrams_sent_at_once_are_no_repetition() -> None:
    with (
        EchoingPod() as alive,
        Pod() as silent,
        Proxy([alive, silent]) as proxy,
        unlucky_client(proxy, silent) as client,
    ):
        with proxy.busy_elsewhere():
            for _ in range(20):
                client.send(b"?")
        wait_until(lambda: proxy.counters.bytes_in == 22)
        assert not proxy.balancer.ejections.suspects
        assert client.hears_nothing(0.01)


def test_where_nobody_ever_answers_flows_stay() -> None:
    with Pod() as one, Pod() as two, Proxy([one, two]) as proxy, Client(proxy) as client:
        ends = time.monotonic() + 5 * REPEAT_SECONDS
        while time.monotonic() < ends:
            client.send(b"line of a log")
            time.sleep(0.01)
        assert one.has_nothing() or two.has_nothing()
        assert not proxy.balancer.ejections.suspects


def test_the_only_endpoint_is_asked_again_and_again() -> None:
    with Pod() as only, Proxy([only]) as proxy, Client(proxy) as client, Client(proxy) as other:
        exchange(other, [only])
        for _ in range(5):
            client.send(b"?")
            only.receive()
            time.sleep(1.5 * REPEAT_SECONDS)
        exchange(client, [only])
        assert proxy.counters.opened == 2
        assert proxy.counters.failed == 0


def test_a_flow_that_had_answers_moves_once_its_endpoint_is_left_out() -> None:
    with Pod() as dies, EchoingPod() as alive, Proxy([dies]) as proxy, Client(proxy) as client:
        exchange(client, [dies])
        proxy.serve(dies, alive)
        wait_until(lambda: is_answered(client))
        assert not dies.has_nothing()
        assert proxy.counters.ejections == 0  # nobody counts here; see the balancer
        assert proxy.balancer.left_out == {dies.endpoint}


def test_new_clients_are_kept_from_an_endpoint_that_answers_nobody() -> None:
    with (
        EchoingPod() as alive,
        Pod() as silent,
        Proxy([alive, silent]) as proxy,
        unlucky_client(proxy, silent),
        open_clients(proxy, 6) as clients,
    ):
        for client in clients:
            wait_until(lambda client=client: is_answered(client))  # type: ignore[misc]
        assert proxy.balancer.left_out == {silent.endpoint}
        while not silent.has_nothing():
            silent.receive()
        with open_clients(proxy, 10) as later:
            for client in later:
                client.send(b"?")
            wait_until(lambda: proxy.counters.opened == 18)
        probes = 0
        while not silent.has_nothing():
            silent.receive()
            probes += 1
        assert probes <= 1


def test_an_answer_ends_the_ejection() -> None:
    with Pod() as one, Pod() as two, Proxy([one, two]) as proxy, open_clients(proxy, 2) as clients:
        assert {exchange(client, [one, two]) for client in clients} == {one, two}
        for _ in range(3):
            proxy.call(proxy.balancer.failed, "127.0.0.9", one.endpoint, proxy.loop.time())
        assert proxy.balancer.left_out == {one.endpoint}
        for client in clients:
            exchange(client, [one, two])
        wait_until(lambda: not proxy.balancer.left_out)
