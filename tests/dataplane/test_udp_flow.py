"""A UDP flow over loopback: where it moves, what it repeats, when it ends, and how many there may be."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
from contextlib import ExitStack

import pytest

from tests.support.loopback import open_descriptors, wait_until
from tests.support.udp import (
    CLUSTER,
    Client,
    EchoingPod,
    Pod,
    Proxy,
    exchange,
    open_clients,
    open_udp,
    refusing_endpoint,
)
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.service_port import Port
from userspace_proxy.core.traffic_counters import EndpointCounters, ServicePortCounters
from userspace_proxy.dataplane import udp_flow
from userspace_proxy.dataplane.limit_reports import LimitReports
from userspace_proxy.dataplane.udp_flow import MAX_KEPT_DATAGRAM
from userspace_proxy.dataplane.udp_flow_cap import FlowShare
from userspace_proxy.dataplane.udp_listener import UdpListener

ICMP_HOST_UNREACH = 1
ICMP_PROT_UNREACH = 2


def send_icmp_unreachable(flow: tuple[str, int], pod: Pod, code: int) -> None:
    """What a router sends when a datagram from `flow` cannot reach `pod`: RFC 792."""
    loopback = socket.inet_aton("127.0.0.1")
    udp = struct.pack("!HHHH", flow[1], pod.endpoint.port, 8, 0)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0, loopback, loopback)
    message = struct.pack("!BBHI", 3, code, 0, 0) + ip + udp
    words = sum(struct.unpack(f"!{len(message) // 2}H", message))
    checksum = ~((words & 0xFFFF) + (words >> 16)) & 0xFFFF
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError:
        pytest.skip("raw sockets need CAP_NET_RAW")
    with raw:
        raw.sendto(message[:2] + struct.pack("!H", checksum) + message[4:], ("127.0.0.1", 0))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_refused_flow_moves_and_repeats_its_datagram(address: str) -> None:
    with (
        refusing_endpoint(address) as dead,
        Pod(address) as alive,
        Proxy([dead, alive], address=address) as proxy,
    ):
        with open_clients(proxy, 10) as clients:
            for client in clients:
                client.send(b"once")
                assert alive.echo() == b"once"
                assert client.receive() == b"once"
        assert alive.has_nothing()
        assert proxy.counters.opened == 10
        assert proxy.counters.retried > 0
        assert proxy.counters.failed == 0


def test_a_datagram_that_is_too_long_to_keep_is_the_clients_to_repeat() -> None:
    with Pod() as alive, Pod() as dies, Proxy([dies]) as proxy, Client(proxy) as client:
        client.send(b"short")
        dies.receive()
        dies.sock.close()
        proxy.serve(dies, alive)
        client.send(bytes(MAX_KEPT_DATAGRAM + 1))
        wait_until(lambda: proxy.counters.retried == 1)
        assert exchange(client, [alive], b"again") is alive


def test_an_answered_flow_moves_when_its_endpoint_dies() -> None:
    with Pod() as alive, Pod() as dies, Proxy([dies]) as proxy, Client(proxy) as client:
        exchange(client, [dies])
        dies.sock.close()
        proxy.serve(dies, alive)
        client.send(b"lost")
        wait_until(lambda: proxy.counters.retried == 1)
        assert exchange(client, [alive], b"again") is alive
        assert proxy.counters.opened == 1


def test_each_endpoint_is_tried_once_when_all_refuse() -> None:
    with (
        refusing_endpoint() as a,
        refusing_endpoint() as b,
        refusing_endpoint() as c,
        Proxy([a, b, c]) as proxy,
        Client(proxy) as client,
    ):
        client.send(b"?")
        wait_until(lambda: proxy.counters.failed == 1)
        assert proxy.counters.retried == 2
        assert proxy.listener.active_flows == 0
        assert proxy.call(lambda: len(proxy.cap.flows)) == 0


def test_a_datagram_that_meets_the_error_of_an_earlier_one_is_not_lost() -> None:
    with Pod() as alive, Pod() as dies, Proxy([dies]) as proxy, Client(proxy) as client:
        exchange(client, [dies])
        dies.sock.close()
        proxy.serve(dies, alive)
        with proxy.busy_elsewhere():
            client.send(b"refused")
            client.send(b"not sent because of that")
        assert alive.echo() == b"not sent because of that"


def test_a_later_datagram_may_try_every_endpoint_again() -> None:
    with Pod() as second, Pod() as first, Proxy([first]) as proxy, Client(proxy) as client:
        client.send(b"?")
        first.receive()
        first.sock.close()
        proxy.serve(first, second)
        client.send(b"moves")
        assert second.receive()[0] == b"moves"
        client.send(b"later")
        second.receive()
        second.sock.close()
        with Pod(port=first.endpoint.port) as restarted:
            client.send(b"moves back")
            assert restarted.receive()[0] == b"moves back"


def test_a_host_out_of_reach_counts_as_refused() -> None:
    with Pod() as silent, Pod() as alive, Proxy([silent]) as proxy, Client(proxy) as client:
        client.send(b"?")
        _, flow = silent.receive()
        proxy.serve(silent, alive)
        send_icmp_unreachable(flow, silent, ICMP_HOST_UNREACH)
        assert alive.receive()[0] == b"?"
        assert proxy.is_quiet()


def test_other_icmp_errors_are_read_and_the_flow_stays() -> None:
    with Pod() as pod, Proxy([pod]) as proxy, Client(proxy) as client:
        client.send(b"?")
        _, flow = pod.receive()
        send_icmp_unreachable(flow, pod, ICMP_PROT_UNREACH)
        wait_until(proxy.is_quiet)
        assert exchange(client, [pod]) is pod
        assert proxy.counters.opened == 1


def test_an_endpoint_without_a_route_is_passed_over() -> None:
    class Unroutable(Pod):
        def __init__(self) -> None:
            self.endpoint = Endpoint("255.255.255.255", Port(9))

    with Pod() as pod, Proxy([Unroutable(), pod]) as proxy:
        for _ in range(4):
            with Client(proxy) as client:
                assert exchange(client, [pod]) is pod
        assert proxy.counters.retried > 0


def test_a_flow_leaves_an_endpoint_that_is_no_longer_listed() -> None:
    with Pod() as old, Pod() as new, Proxy([old]) as proxy, Client(proxy) as client:
        client.send(b"slow question")
        _, peer = old.receive()
        proxy.serve(new)
        old.sock.sendto(b"late answer", peer)
        assert client.receive() == b"late answer"
        assert exchange(client, [new]) is new
        assert old.has_nothing()
        assert (proxy.counters.opened, proxy.counters.failed) == (1, 0)


def test_a_flow_stays_when_its_endpoint_is_still_listed() -> None:
    with Pod() as old, Pod() as new, Proxy([old]) as proxy, Client(proxy) as client:
        exchange(client, [old])
        proxy.serve(new, old)
        assert exchange(client, [old, new]) is old


def test_clients_with_affinity_stay_until_their_endpoint_fails() -> None:
    with Pod() as a, Pod() as b, Proxy([a, b]) as proxy:
        proxy.call(lambda: proxy.balancer.set_affinity(60))
        chosen = set()
        for _ in range(6):
            with Client(proxy) as client:
                chosen.add(exchange(client, [a, b]))
        assert len(chosen) == 1
        first = chosen.pop()
        other = b if first is a else a
        first.sock.close()
        with Client(proxy) as client:
            assert exchange(client, [other]) is other
        with Client(proxy, source="127.0.0.9") as client:
            exchange(client, [other])


def test_idle_flows_end() -> None:
    with Pod() as pod, Proxy([pod]) as proxy, Client(proxy) as silent, Client(proxy) as answered:
        proxy.call(lambda: proxy.listener.update(0.3, 600.0))
        exchange(answered, [pod])
        silent.send(b"?")
        pod.receive()
        wait_until(lambda: proxy.counters.active == 1)
        exchange(answered, [pod])
        assert proxy.counters.opened == 2
        proxy.call(lambda: proxy.listener.update(600.0, 0.05))
        with Client(proxy) as brief:
            exchange(brief, [pod])
            wait_until(lambda: proxy.counters.opened == 3 and proxy.counters.active == 1)


def test_the_cap_evicts_unanswered_flows_first() -> None:
    with Pod() as pod, Proxy([pod], max_flows=3) as proxy, open_clients(proxy, 4) as clients:
        talking, silent, *late = clients
        exchange(talking, [pod])
        silent.send(b"?")
        pod.receive()
        for client in late:
            exchange(client, [pod])
        assert proxy.counters.evicted == 1
        exchange(talking, [pod])
        assert proxy.counters.opened == 4, "the answered flow should have stayed"
        exchange(silent, [pod])
        assert (proxy.counters.opened, proxy.counters.active) == (5, 3)


def test_a_flood_of_clients_is_bounded_and_others_are_still_answered() -> None:
    with EchoingPod() as pod, Proxy([pod], max_flows=500) as proxy, Client(proxy) as steady:
        for number in range(5000):
            with Client(proxy, source=f"127.1.{number // 256}.{number % 256}") as client:
                client.send(b"ignore")
            if number % 100 == 0:  # before the listener's queue overflows
                proxy.wait_for_opened(number + 1)
                steady.send(b"%d" % number)
                assert steady.receive() == b"%d" % number
                assert proxy.counters.active <= 500
        proxy.wait_for_opened(5001)
        assert proxy.counters.active == proxy.call(lambda: len(proxy.cap.flows)) == 500
        assert proxy.counters.evicted == 4501
        assert len(proxy.poller) == 501


def test_running_out_of_descriptors_evicts_a_flow() -> None:
    with Pod() as pod, Proxy([pod]) as proxy, Client(proxy) as first, Client(proxy) as second:
        exchange(first, [pod])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            with pytest.raises(OSError) as raised:
                os.dup(0)
            assert raised.value.errno == errno.EMFILE
            exchange(second, [pod])
            exchange(first, [pod])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (proxy.counters.evicted, proxy.share.exhausted) == (2, 2)
        assert (proxy.counters.active, proxy.counters.failed) == (1, 0)


def test_without_a_descriptor_or_a_flow_to_evict_the_datagram_is_dropped() -> None:
    with Pod() as pod, Proxy([pod]) as proxy, Client(proxy) as client:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            client.send(b"?")
            wait_until(lambda: proxy.counters.failed == 1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        exchange(client, [pod])


def test_two_listeners_share_the_cap() -> None:
    with Pod() as pod, Proxy([pod], max_flows=2) as proxy:
        counters = ServicePortCounters()
        share = FlowShare(proxy.cap, LimitReports("default/other", counters))
        sock = open_udp("127.0.0.1")
        sock.setblocking(False)
        target = sock.getsockname()
        other = proxy.call(
            lambda: UdpListener(sock, proxy.poller, proxy.loop, proxy.balancer, CLUSTER, counters, share)
        )
        with Client(proxy) as first, Client(proxy) as second, Client(proxy) as third:
            exchange(first, [pod])
            exchange(second, [pod])
            third.target = target
            exchange(third, [pod])
        assert (proxy.counters.active, counters.active) == (1, 1)
        proxy.call(other.close)


def test_a_flooded_service_port_leaves_the_flows_of_others_alone() -> None:
    with EchoingPod() as pod, Proxy([pod], max_flows=100) as proxy, ExitStack() as stack:
        counters = ServicePortCounters()
        share = FlowShare(proxy.cap, LimitReports("default/quiet", counters))
        sock = open_udp("127.0.0.1")
        sock.setblocking(False)
        quiet = proxy.call(
            lambda: UdpListener(sock, proxy.poller, proxy.loop, proxy.balancer, CLUSTER, counters, share)
        )
        clients = [stack.enter_context(Client(proxy)) for _ in range(40)]
        for client in clients:
            client.target = sock.getsockname()
            client.send(b"before")
            assert client.receive() == b"before"
        for number in range(500):
            with Client(proxy, source=f"127.1.0.{number % 256}") as flooding:
                flooding.send(b"ignore")
            if number % 100 == 99:
                proxy.wait_for_opened(number + 1)
        for client in clients:
            client.send(b"after")
            assert client.receive() == b"after"
        assert (counters.opened, counters.active, counters.evicted) == (40, 40, 0)
        assert (proxy.counters.active, proxy.counters.evicted) == (60, 440)
        proxy.call(quiet.close)


def test_a_flow_whose_socket_cannot_be_set_up_keeps_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    with Pod() as pod, Proxy([pod]) as proxy, Client(proxy) as client:
        before = open_descriptors()
        monkeypatch.setattr(udp_flow, "_IP_RECVERR", 10_000)  # no such option
        client.send(b"?")
        wait_until(lambda: proxy.counters.failed == 1)
        assert open_descriptors() == before
        monkeypatch.undo()
        exchange(client, [pod])


def test_queries_under_way_are_not_given_up_for_new_ones() -> None:
    with Pod() as pod, Proxy([pod], max_flows=8) as proxy:
        for _ in range(10):
            with open_clients(proxy, 2) as clients:
                for client in clients:
                    client.send(b"?")
                for _ in clients:
                    pod.echo()
                for client in clients:
                    assert client.receive() == b"?"
        assert proxy.counters.evicted == 12


def test_each_endpoint_is_counted_by_itself() -> None:
    with Pod() as first, Pod() as second, Proxy([first]) as proxy, Client(proxy) as client:
        exchange(client, [first], b"four")
        proxy.serve(second)
        exchange(client, [second], b"seven..")

        def counted(pod: Pod) -> EndpointCounters:
            return proxy.counters.at(pod.endpoint.address, pod.endpoint.port)

        wait_until(lambda: counted(second).bytes_out == 7)
        assert (counted(first).opened, counted(first).active) == (1, 0)
        assert (counted(first).bytes_out, proxy.counters.bytes_in) == (4, 11)
        assert (counted(second).opened, counted(second).active) == (1, 1)
