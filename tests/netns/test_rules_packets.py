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
    TCP,
    UNNUMBERED,
    UNRELATED_PORT,
    V4,
    V6,
    WIRINGS,
    Sender,
    Sent,
    Wiring,
    packets,
    portals,
)
from userspace_proxy.core.service_port import IPFamily, Protocol
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import NodeNetwork, PodWiring
from userspace_proxy.iptables.capture import Capture
from userspace_proxy.iptables.packet_tracer import Delivered, Ending, Refused
from userspace_proxy.iptables.portal_rules import PortalRules
from userspace_proxy.iptables.variant import BackendChoice, open_backend
from userspace_proxy.netlink.node_network import read_node_network

SILENCE_SECONDS: Final = 0.4
PATIENCE_SECONDS: Final = 5.0
IP_PKTINFO: Final = 8
REFUSED, UNANSWERED = "refused", "unanswered"


class Answering:
    """Servers on TCP and UDP ports of the node; each says which port it is.

    A UDP answer leaves from the address that the question came to, as the workers' do.
    """

    def __init__(
        self, node: Namespace, ports: set[tuple[Protocol, int]], address: str = "", family: IPFamily = V4
    ) -> None:
        self._selector = selectors.DefaultSelector()
        self._stop, self._stopped = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ, None)
        in_order = sorted(ports, key=str)
        sockets = node.call(lambda: [new_socket(protocol, family) for protocol, _ in in_order])
        for server, (protocol, port) in zip(sockets, in_order, strict=True):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is V6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            server.bind((address, port))
            if protocol is TCP:
                server.listen()
            elif family is V6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
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
                    _, ((level, kind, info),), _, client = key.fileobj.recvmsg(100, 100)
                    # By whatever interface leads to the client: it need not be the one that has the address.
                    anywhere = bytes(4) + info[4:] if level == socket.IPPROTO_IP else info[:16] + bytes(4)
                    key.fileobj.sendmsg([key.data], [(level, kind, anywhere)], 0, client)


def new_socket(protocol: Protocol, family: IPFamily = V4) -> socket.socket:
    """A socket in the calling thread's namespace."""
    return socket.socket(
        socket.AF_INET if family is V4 else socket.AF_INET6,
        socket.SOCK_STREAM if protocol is TCP else socket.SOCK_DGRAM,
    )


def ask(
    sender: Namespace,
    protocol: Protocol,
    destination: str,
    port: int,
    patience_seconds: float = SILENCE_SECONDS,
) -> str:
    """The port that answered, or how none did."""
    family = V6 if ":" in destination else V4
    with sender.call(lambda: new_socket(protocol, family)) as client:
        return ask_by(client, destination, port, patience_seconds)


def ask_by(client: socket.socket, destination: str, port: int, patience_seconds: float) -> str:
    """The port that answered a new socket, or how none did."""
    client.settimeout(patience_seconds)
    try:
        client.connect((destination, port))
        if client.type == socket.SOCK_DGRAM:
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
    family, addresses = wiring.family, wiring.addresses
    pod_wiring = PodWiring.BRIDGE if "cni0" in wiring.node.interfaces else PodWiring.UNNUMBERED
    with (
        NodeNetwork(wiring=pod_wiring, ipv6=family is V6) as network,
        contextlib.ExitStack() as stack,
    ):
        pod, endpoint, node = network.add_pod("pod"), network.add_pod("endpoint"), network.node
        gateway = addresses.node
        network.outside.ip(f"route add {addresses.external_network} via {gateway}")
        # The table has more refusals than a second allows.
        node.sysctl("net.ipv4.icmp_ratelimit" if family is V4 else "net.ipv6.icmp.ratelimit", "0")
        ports = {(protocol, UNRELATED_PORT) for protocol in Protocol}
        stack.callback(Answering(node, ports, family=family).close)
        served = {
            (portal.frontend.protocol, int(place.proxy_port))
            for portal in portals(family)
            for place in (portal.outside, portal.inside)
            if place.refusal is None
        }
        stack.callback(Answering(node, served, wiring.settings.bind_address or "", family).close)
        capture = node.call(lambda: Capture(open_backend(choice, family)))
        node.call(lambda: capture.sync(PortalRules().rule_set(portals(family), wiring.settings)))
        yield {
            Sender.POD: pod,
            Sender.ENDPOINT: endpoint,
            Sender.OUTSIDE: network.outside,
            Sender.NODE: node,
        }


@pytest.mark.usefixtures("lock_file")
@pytest.mark.parametrize(
    "choice", [BackendChoice.NFT, BackendChoice.PYTHON_IPTABLES], ids=lambda choice: choice.value
)
@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_packets_end_where_they_must(wiring: Wiring, choice: BackendChoice) -> None:
    table = packets(wiring)
    expected = {str(sent): seen_by_client(sent.ending(wiring)) for sent in table}

    def send(sent: Sent) -> str:
        # Who waits for silence waits long enough, and who waits for an answer as long as it takes.
        patience = SILENCE_SECONDS if expected[str(sent)] == UNANSWERED else PATIENCE_SECONDS
        return ask_by(clients[str(sent)], sent.destination, sent.port, patience)

    with captured(wiring, choice) as senders, contextlib.ExitStack() as stack:
        clients = {
            str(sent): stack.enter_context(client)
            for sender in Sender
            for sent, client in senders[sender].call(partial(sockets_of, table, sender, wiring.family))
        }
        with ThreadPoolExecutor(len(table)) as threads:
            seen = dict(zip(map(str, table), threads.map(send, table), strict=True))
    assert seen == expected


def sockets_of(table: tuple[Sent, ...], sender: Sender, family: IPFamily) -> list[tuple[Sent, socket.socket]]:
    return [(sent, new_socket(sent.protocol, family)) for sent in table if sent.sender is sender]


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
