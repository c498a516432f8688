"""Ports that processes listen on, as the kernel lists them."""

from __future__ import annotations

import socket

from userspace_proxy.core.service_port import Protocol
from userspace_proxy.netlink.listening_ports import listening_ports


def test_who_listens_is_seen_in_both_families_and_protocols() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as tcp6,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp6,
    ):
        udp.bind(("127.0.0.1", 0))
        udp6.bind(("::1", 0))
        expected = {(Protocol.TCP, sock.getsockname()[1]) for sock in (tcp, tcp6)}
        expected |= {(Protocol.UDP, sock.getsockname()[1]) for sock in (udp, udp6)}
        assert expected <= listening_ports()
    assert not expected & listening_ports()


def test_a_connection_is_no_listener() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert (Protocol.TCP, client.getsockname()[1]) not in listening_ports()
