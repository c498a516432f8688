"""Which TCP conntrack entries go: of a SYN that nobody has replied to, and that met no rule, or another's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.waiting import wait_until
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Frontend, IPFamily, Port, Protocol, ProxyPort
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.netlink.conntrack import delete_stale_entries
from userspace_proxy.netlink.ctnetlink import ConntrackSocket

PROXY_PORT, OTHER_PORT = ProxyPort(20001), ProxyPort(20002)
OURS = PortRange(20000, 20010)
REPEATED_SECONDS = 40.0
"""A SYN is repeated after 1, 3, 7, 15 and 31 s; which of these finds the rule is the machine's to say."""
BLACK_HOLE = {IPFamily.IPV4: "10.96.0.0/16", IPFamily.IPV6: "fd00:96::/112"}
AF = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}


class Clients:
    """A namespace whose packets vanish, unless they are redirected to PROXY_PORT, where somebody listens."""

    def __init__(self, namespace: Namespace, nowhere: Namespace, family: IPFamily, stack: ExitStack) -> None:
        self.namespace, self.family, self._stack = namespace, family, stack
        self._iptables = "iptables-nft" if family is IPFamily.IPV4 else "ip6tables-nft"
        namespace.ip(
            f"link add hole type veth peer name far netns {nowhere.name}",
            "link set hole up arp off",
            f"addr add {self.frontend(99).address} dev hole nodad",
            f"route add {BLACK_HOLE[family]} dev hole",
        )
        nowhere.ip("link set far up")
        namespace.run(self._iptables, "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW")
        self._listener = self._keep(self._socket())
        self._listener.bind(("", PROXY_PORT))
        self._listener.listen(0)

    def frontend(self, host: int) -> Frontend:
        address = f"10.96.0.{host}" if self.family is IPFamily.IPV4 else f"fd00:96::{host}"
        return Frontend(address, Protocol.TCP, Port(80))

    def _keep(self, sock: socket.socket) -> socket.socket:
        return self._stack.enter_context(sock)

    def _socket(self) -> socket.socket:
        return self.namespace.call(lambda: socket.socket(AF[self.family], socket.SOCK_STREAM))

    def lead(self, frontend: Frontend, *target: str) -> None:
        rule = ("OUTPUT", "-p", "tcp", "-d", frontend.address, "--dport", str(frontend.port), "-j")
        self.namespace.run(self._iptables, "-t", "nat", "-A", *rule, *target)

    def redirect(self, frontend: Frontend) -> None:
        self.lead(frontend, "REDIRECT", "--to-ports", str(PROXY_PORT))

    def connect(self, frontend: Frontend) -> socket.socket:
        """A client that does not wait until it is connected."""
        client = self._keep(self._socket())
        client.setblocking(False)
        client.connect_ex((frontend.address, frontend.port))
        return client

    def accept(self) -> socket.socket:
        self._listener.settimeout(REPEATED_SECONDS)
        return self._keep(self._listener.accept()[0])

    def entries(self, frontend: Frontend) -> int:
        command = ("conntrack", "-L", "-f", self.family.value.lower(), "-p", "tcp")
        return len(self.namespace.run(*command, "--orig-dst", frontend.address).stdout.splitlines())

    def delete_stale(
        self, allowed: dict[Frontend, list[ProxyPort]], captured_ports: PortRange | None = None
    ) -> int:
        return self.namespace.call(
            lambda: delete_stale_entries(self.family, allowed, captured_ports=captured_ports)
        )


@pytest.fixture(params=list(IPFamily), ids=lambda family: family.value)
def clients(request: pytest.FixtureRequest) -> Iterator[Clients]:
    with Namespace("conntrack") as namespace, Namespace("nowhere") as nowhere, ExitStack() as stack:
        yield Clients(namespace, nowhere, request.param, stack)


@pytest.fixture(params=["filtered by the kernel", "filtered here"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is how it is before Linux 5.8."""
    if request.param == "filtered here":
        monkeypatch.setattr(ConntrackSocket, "_wanted", lambda *_: b"")


@pytest.mark.usefixtures("way")
def test_what_met_no_rule_goes(clients: Clients) -> None:
    ours, others = clients.frontend(1), clients.frontend(2)
    clients.connect(ours)
    clients.connect(others)
    assert clients.delete_stale({others: [], clients.frontend(3): [PROXY_PORT]}) == 1
    assert (clients.entries(ours), clients.entries(others)) == (1, 0)
    assert clients.delete_stale({ours: [PROXY_PORT]}) == 1


def test_whose_syn_met_no_rule_is_served_by_its_repetition(clients: Clients) -> None:
    frontend = clients.frontend(1)
    client = clients.connect(frontend)
    clients.redirect(frontend)
    assert clients.delete_stale({frontend: [PROXY_PORT]}) == 1
    clients.accept().sendall(b"here")
    client.settimeout(REPEATED_SECONDS)
    assert client.recv(10) == b"here"


def test_what_met_others_rule_goes(clients: Clients) -> None:
    frontend, elsewhere = clients.frontend(1), clients.frontend(2)
    at = f"[{elsewhere.address}]" if clients.family is IPFamily.IPV6 else elsewhere.address
    clients.lead(frontend, "DNAT", "--to-destination", f"{at}:80")
    clients.connect(frontend)
    assert clients.delete_stale({frontend: [PROXY_PORT]}) == 1


@pytest.mark.usefixtures("way")
def test_a_connection_stays_wherever_it_leads(clients: Clients) -> None:
    frontend = clients.frontend(1)
    clients.redirect(frontend)
    clients.connect(frontend)
    clients.accept()
    assert clients.delete_stale({frontend: [OTHER_PORT]}, OURS) == 0
    assert clients.entries(frontend) == 1


@pytest.mark.usefixtures("way")
def test_who_waits_for_room_in_a_backlog_stays_if_it_leads_to_the_right_port(clients: Clients) -> None:
    frontend = clients.frontend(1)
    clients.redirect(frontend)
    for number in range(1, 4):  # the kernel takes two, and drops the third's SYN
        clients.connect(frontend)
        wait_until(lambda number=number: clients.entries(frontend) == number)  # type: ignore[misc]
    assert clients.delete_stale({frontend: [PROXY_PORT]}, OURS) == 0
    assert clients.delete_stale({frontend: [OTHER_PORT]}) >= 1
