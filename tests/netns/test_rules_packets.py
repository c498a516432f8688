"""The table of packets again, sent for real: the kernel ends them where the tracer says."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.iptables.packet_table import (
    BRIDGED,
    PACKETS,
    PORTALS,
    TCP,
    UNNUMBERED,
    UNRELATED_PORT,
    WIRINGS,
    Sender,
    Sent,
    Wiring,
)
from tests.support.packet_tracer import Delivered, Ending, Refused
from userspace_proxy.core.service_port import IPFamily, Protocol
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import NodeNetwork, PodWiring
from userspace_proxy.iptables.capture import Capture
from userspace_proxy.iptables.portal_rules import portal_rules
from userspace_proxy.iptables.variant import BackendChoice, open_backend
from userspace_proxy.netlink.node_network import read_node_network

SILENCE_SECONDS: Final = 0.4
IP_PKTINFO: Final = 8
REFUSED, UNANSWERED = "refused", "unanswered"


class Answering:
    """Servers on TCP and UDP ports of the node; each says which port it is.

    A UDP answer leaves from the address that the question came to, as the workers' do.
    """

    def __init__(self, node: Namespace, ports: set[tuple[Protocol, int]], address: str = "") -> None:
        self._selector = selectors.DefaultSelector()
        self._stop, self._stopped = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ, None)
        for protocol, port in ports:
            server = node.call(partial(socket.socket, type=socket_type(protocol)))
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            if protocol is TCP:
                server.listen()
            else:
                server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            self._selector.register(server, selectors.EVENT_READ, str(port).encode())
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._stop.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj.type == socket.SOCK_STREAM:
                    connection, _ = key.fileobj.accept()
                    with connection:
                        connection.sendall(key.data)
                else:
                    _, ancillary, _, client = key.fileobj.recvmsg(100, 100)
                    key.fileobj.sendmsg([key.data], ancillary, 0, client)


def socket_type(protocol: Protocol) -> socket.SocketKind:
    return socket.SOCK_STREAM if protocol is TCP else socket.SOCK_DGRAM


def ask(sender: Namespace, protocol: Protocol, destination: str, port: int) -> str:
    """The port that answered, or how none did."""
    with sender.call(lambda: socket.socket(type=socket_type(protocol))) as client:
        client.settimeout(SILENCE_SECONDS)
        try:
            client.connect((destination, port))
            if protocol is not TCP:
                client.send(b"which port are you?")
            return client.recv(100).decode()
        except ConnectionRefusedError:
            return REFUSED
        except TimeoutError:
            return UNANSWERED
        except OSError as error:  # what was passed on finds no way, since no router knows the clusterIPs
            assert error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH), error
            return UNANSWERED


def seen_by_client(ending: Ending) -> str:
    match ending:
        case Delivered(_, port):
            return str(port)
        case Refused():
            return REFUSED
        case _:
            return UNANSWERED


@pytest.fixture
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))


@contextlib.contextmanager
def captured(wiring: Wiring, choice: BackendChoice) -> Iterator[dict[Sender, Namespace]]:
    """A node with everything in place; who can send."""
    pod_wiring = PodWiring.UNNUMBERED if wiring is UNNUMBERED else PodWiring.BRIDGE
    with NodeNetwork(wiring=pod_wiring) as network, contextlib.ExitStack() as stack:
        pod, node = network.add_pod("pod"), network.node
        node.sysctl("net.ipv4.icmp_ratelimit", "0")  # the table has more refusals than a second allows
        ports = {(protocol, UNRELATED_PORT) for protocol in Protocol}
        stack.callback(Answering(node, ports).close)
        proxy_ports = {(portal.frontend.protocol, int(portal.proxy_port)) for portal in PORTALS}
        stack.callback(Answering(node, proxy_ports, wiring.settings.bind_address or "").close)
        capture = node.call(lambda: Capture(open_backend(choice, IPFamily.IPV4)))
        node.call(lambda: capture.sync(portal_rules(PORTALS, wiring.settings)))
        yield {Sender.POD: pod, Sender.OUTSIDE: network.outside, Sender.NODE: node}


@pytest.mark.usefixtures("lock_file")
@pytest.mark.parametrize("choice", [BackendChoice.NFT, BackendChoice.LEGACY], ids=lambda choice: choice.value)
@pytest.mark.parametrize("wiring", WIRINGS, ids=lambda wiring: wiring.name)
def test_packets_end_where_they_must(wiring: Wiring, choice: BackendChoice) -> None:
    with captured(wiring, choice) as senders, ThreadPoolExecutor(len(PACKETS)) as threads:

        def send(sent: Sent) -> str:
            return ask(senders[sent.sender], sent.protocol, sent.destination, sent.port)

        seen = dict(zip(map(str, PACKETS), threads.map(send, PACKETS), strict=True))
    assert seen == {str(sent): seen_by_client(sent.ending(wiring)) for sent in PACKETS}


def test_unnumbered_interfaces_are_found() -> None:
    for wiring in (BRIDGED, UNNUMBERED):
        pod_wiring = PodWiring.UNNUMBERED if wiring is UNNUMBERED else PodWiring.BRIDGE
        with NodeNetwork(wiring=pod_wiring) as network:
            network.add_pod("pod")
            found = network.node.call(lambda: read_node_network(IPFamily.IPV4))
        numbered = {(local.address, local.interface) for local in found.addresses}
        assert numbered == {("127.0.0.1", "lo")} | {
            (address, name) for name, own in wiring.node.interfaces.items() for address in own
        }
        assert found.unnumbered == tuple(name for name, own in wiring.node.interfaces.items() if not own)
