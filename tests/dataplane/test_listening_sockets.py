"""Listening sockets: which port, and what becomes of a port that is taken."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from userspace_proxy.core.port_claims import PortRange, ProxyPortClaims
from userspace_proxy.core.proxy_plan import ListenerName
from userspace_proxy.core.service_port import (
    IPFamily,
    Protocol,
    ProxyPort,
    ServiceName,
    ServicePortName,
    TrafficPolicy,
)
from userspace_proxy.dataplane import listening_sockets
from userspace_proxy.dataplane.listening_sockets import ListenerError, ListeningSockets, open_listener
from userspace_proxy.dataplane.messages import ListenerKey

LOOPBACK = {IPFamily.IPV4: "127.0.0.1", IPFamily.IPV6: "::1"}


def name_of(
    service: str, protocol: Protocol = Protocol.TCP, family: IPFamily = IPFamily.IPV4
) -> ListenerName:
    service_port = ServicePortName(ServiceName("default", service), "", protocol, family)
    return ListenerName(service_port, TrafficPolicy.CLUSTER)


def open_sockets(first: int, last: int) -> ListeningSockets:
    return ListeningSockets(ProxyPortClaims(PortRange(first, last)), LOOPBACK, Random(1))


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("protocol", Protocol)
def test_a_listener_is_bound_where_it_says(family: IPFamily, protocol: Protocol) -> None:
    sockets = open_sockets(11000, 29999)
    name = name_of("web", protocol, family)
    port = sockets.open(name, None)
    sock = sockets.socket_of(ListenerKey(protocol.value, port))
    assert sock.getsockname()[:2] == (LOOPBACK[family], port)
    assert not sock.getblocking()
    sockets.close_all()
    assert len(sockets) == 0


def test_the_preferred_port_is_taken_if_it_is_free_and_in_the_range() -> None:
    sockets = open_sockets(12000, 12009)
    assert sockets.open(name_of("a"), ProxyPort(12003)) == 12003
    assert sockets.open(name_of("b"), ProxyPort(12003)) != 12003
    assert sockets.open(name_of("c"), ProxyPort(13000)) in range(12000, 12010)
    sockets.close_all()


def test_a_port_of_a_stranger_is_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 12020)):
        sockets = open_sockets(12020, 12021)
        assert sockets.open(name_of("a"), ProxyPort(12020)) == 12021
        with pytest.raises(ListenerError, match="no proxy port is free in 12020-12021"):
            sockets.open(name_of("b"), None)
        assert sockets.open(name_of("b", Protocol.UDP), None) in (12020, 12021)
        sockets.close_all()


def test_a_full_range_is_known_to_be_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask, a stranger's port is tried once until it is looked at again."""
    sockets = open_sockets(12020, 12023)
    tried: list[int] = []

    def counted(family: IPFamily, protocol: Protocol, address: str, port: int) -> socket.socket:
        tried.append(port)
        return open_listener(family, protocol, address, port)

    monkeypatch.setattr(listening_sockets, "open_listener", counted)
    with ExitStack() as strangers:
        for port in (12020, 12021, 12022):
            strangers.enter_context(socket.create_server(("127.0.0.1", port)))
        assert sockets.open(name_of("a"), None) == 12023
        for number in range(100):
            with pytest.raises(ListenerError, match="no proxy port is free"):
                sockets.open(name_of(f"b-{number}"), None)
        assert sorted(tried) == [12020, 12021, 12022, 12023]
    with pytest.raises(ListenerError):
        sockets.open(name_of("b"), None)
    sockets.look_again(1)
    assert sockets.open(name_of("b"), None) == 12020
    with pytest.raises(ListenerError):
        sockets.open(name_of("c"), None)
    assert sockets.open(name_of("c"), ProxyPort(12022)) == 12022
    sockets.close_all()


def test_a_port_that_is_kept_goes_to_nobody_but_who_prefers_it() -> None:
    sockets = open_sockets(12050, 12053)
    sockets.keep_ports([(Protocol.TCP, ProxyPort(12050)), (Protocol.TCP, ProxyPort(12052))])
    assert {sockets.open(name_of("a"), None), sockets.open(name_of("b"), None)} == {12051, 12053}
    with pytest.raises(ListenerError):
        sockets.open(name_of("c"), None)
    assert sockets.open(name_of("old"), ProxyPort(12052)) == 12052
    sockets.keep_ports(())
    assert sockets.open(name_of("c"), None) == 12050
    sockets.close_all()


def test_connections_to_a_reserved_port_are_reset_and_nobody_gets_it() -> None:
    sockets = open_sockets(12060, 12062)
    reserved = sockets.reserve_port("refusing", {})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", reserved), timeout=5)
    assert sockets.open(name_of("a"), reserved) != reserved
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", reserved))
    sockets.close_all()
    socket.create_server(("127.0.0.1", reserved)).close()


def test_a_closed_listener_gives_its_port_back() -> None:
    sockets = open_sockets(12030, 12030)
    first, second = name_of("a"), name_of("b")
    sockets.open(first, None)
    assert sockets.listeners_of(first.service_port) == (first,)
    sockets.close(first)
    assert sockets.listeners_of(first.service_port) == ()
    assert sockets.open(second, None) == 12030
    sockets.close_all()


def test_no_descriptor_is_left_behind() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    sockets = open_sockets(11000, 29999)
    for number in range(50):
        sockets.open(name_of(f"service-{number}"), None)
    with socket.create_server(("127.0.0.1", 12040)), pytest.raises(ListenerError):
        ListeningSockets(ProxyPortClaims(PortRange(12040, 12040)), LOOPBACK, Random(1)).open(
            name_of("x"), None
        )
    sockets.close_all()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
