"""What capture takes for granted of the kernel. If one of these fails, so does what is built on it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from tests.netns.test_rules_packets import IP_PKTINFO, REFUSED, UNANSWERED, Answering, ask
from userspace_proxy.core.service_port import IPFamily, Protocol
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import NodeNetwork, PodWiring

TCP, UDP = Protocol.TCP, Protocol.UDP
VIP = "10.96.0.1"
PROXY_PORT = 20001
BRIDGE_SETTING = "net.bridge.bridge-nf-call-iptables"


class Node:
    """A node with a pod, an answering proxy port, and whatever rules a test adds."""

    def __init__(self, network: NodeNetwork, stack: ExitStack) -> None:
        self.pod = network.add_pod("pod")
        self.node = network.node
        self.outside = network.outside
        ports = {(protocol, PROXY_PORT) for protocol in Protocol}
        stack.callback(Answering(self.node, ports).close)

    def iptables(self, rule: str) -> None:
        self.node.run("iptables-nft", *rule.split())

    def capture(self, hook: str, target: str = f"REDIRECT --to-ports {PROXY_PORT}") -> None:
        for protocol in ("tcp", "udp"):
            self.iptables(f"-t nat -A {hook} -d {VIP} -p {protocol} --dport 80 -j {target}")

    def entries(self) -> str:
        return self.node.run("conntrack", "-L", "--orig-dst", VIP).stdout


@pytest.fixture
def bridged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with NodeNetwork() as network, ExitStack() as stack:
        yield Node(network, stack)


@pytest.fixture
def unnumbered() -> Iterator[Node]:
    with NodeNetwork(wiring=PodWiring.UNNUMBERED) as network, ExitStack() as stack:
        yield Node(network, stack)


@pytest.mark.parametrize("protocol", list(Protocol))
def test_redirect_goes_to_an_address_of_the_incoming_interface(bridged: Node, protocol: Protocol) -> None:
    bridged.capture("PREROUTING")
    assert ask(bridged.pod, protocol, VIP, 80) == str(PROXY_PORT)
    assert "src=10.244.1.1 " in bridged.entries()
    assert ask(bridged.outside, protocol, VIP, 80) == str(PROXY_PORT)
    assert "src=192.0.2.10 " in bridged.entries()


@pytest.mark.parametrize("protocol", list(Protocol))
def test_redirect_loses_packets_where_the_interface_has_no_address_and_dnat_does_not(
    unnumbered: Node, protocol: Protocol
) -> None:
    unnumbered.capture("PREROUTING")
    assert ask(unnumbered.pod, protocol, VIP, 80) == UNANSWERED
    unnumbered.iptables("-t nat -F")
    unnumbered.capture("PREROUTING", f"DNAT --to-destination 192.0.2.10:{PROXY_PORT}")
    assert ask(unnumbered.pod, protocol, VIP, 80) == str(PROXY_PORT)


@pytest.mark.parametrize("protocol", list(Protocol))
def test_redirect_of_the_node_s_own_traffic_goes_to_loopback_and_answers_come_back(
    bridged: Node, protocol: Protocol
) -> None:
    bridged.capture("OUTPUT")
    assert ask(bridged.node, protocol, VIP, 80) == str(PROXY_PORT)
    assert "src=127.0.0.1 " in bridged.entries()


def test_a_udp_answer_to_redirected_local_traffic_must_leave_from_where_the_question_came_to(
    bridged: Node,
) -> None:
    """Why the workers answer with the packet information that they received."""
    bridged.capture("OUTPUT", "REDIRECT --to-ports 20002")
    with (
        bridged.node.call(partial(socket.socket, type=socket.SOCK_DGRAM)) as server,
        bridged.node.call(partial(socket.socket, type=socket.SOCK_DGRAM)) as client,
    ):
        server.bind(("", 20002))
        server.settimeout(20)
        client.settimeout(0.2)
        client.connect((VIP, 80))
        client.send(b"?")
        _, address = server.recvfrom(10)
        server.sendto(b"from an address that the kernel picks", address)
        with pytest.raises(TimeoutError):
            client.recv(100)


NODE_PORT = 30080
LOOPBACK = {"iptables-nft": "127.0.0.1", "ip6tables-nft": "::1"}
NODE_ADDRESS = {"iptables-nft": "192.0.2.10", "ip6tables-nft": "2001:db8::a"}


@pytest.fixture
def dual_stack() -> Iterator[Namespace]:
    """A node with addresses of both families."""
    with NodeNetwork(ipv6=True) as network:
        yield network.node


def capture_node_port(node: Namespace, program: str, protocol: Protocol, target: str) -> None:
    match = f"-m addrtype --dst-type LOCAL -p {protocol.value.lower()} --dport {NODE_PORT}"
    node.run(program, *f"-t nat -A OUTPUT {match} -j {target}".split())


@pytest.mark.parametrize("protocol", list(Protocol))
@pytest.mark.parametrize("program", list(LOOPBACK))
@pytest.mark.parametrize("to", ["loopback", "node address"])
def test_node_ports_on_loopback_need_no_route_localnet(
    dual_stack: Namespace, program: str, protocol: Protocol, to: str
) -> None:
    """By REDIRECT, and by DNAT to the one address that listeners are bound to."""
    family = IPFamily.IPV4 if program == "iptables-nft" else IPFamily.IPV6
    address = NODE_ADDRESS[program]
    host = f"[{address}]" if family is IPFamily.IPV6 else address
    target = f"DNAT --to-destination {host}:{PROXY_PORT}"
    if to == "loopback":
        address, target = LOOPBACK[program], f"REDIRECT --to-ports {PROXY_PORT}"
    capture_node_port(dual_stack, program, protocol, target)
    assert dual_stack.call(Path("/proc/sys/net/ipv4/conf/all/route_localnet").read_text) == "0\n"
    with closing(Answering(dual_stack, {(protocol, PROXY_PORT)}, address, family)):
        for destination in (LOOPBACK[program], NODE_ADDRESS[program]):
            assert ask(dual_stack, protocol, destination, NODE_PORT) == str(PROXY_PORT)


def test_an_answer_that_must_leave_by_the_interface_of_its_address_does_not_reach_loopback(
    dual_stack: Namespace,
) -> None:
    """Why workers give the address that an answer leaves from, and not the interface."""
    capture_node_port(dual_stack, "iptables-nft", UDP, f"DNAT --to-destination 192.0.2.10:{PROXY_PORT}")
    with (
        dual_stack.call(partial(socket.socket, type=socket.SOCK_DGRAM)) as server,
        dual_stack.call(partial(socket.socket, type=socket.SOCK_DGRAM)) as client,
    ):
        server.bind(("192.0.2.10", PROXY_PORT))
        server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        server.settimeout(20)
        client.settimeout(0.2)
        client.connect(("127.0.0.1", NODE_PORT))
        client.send(b"?")
        _, ((level, kind, info),), _, address = server.recvmsg(10, 100)
        server.sendmsg([b"by that interface"], [(level, kind, info)], 0, address)
        with pytest.raises(TimeoutError):
            client.recv(100)
        server.sendmsg([b"by any"], [(level, kind, bytes(4) + info[4:])], 0, address)
        assert client.recv(100) == b"by any"


def test_a_closed_port_behind_dnat_resets_what_127_0_0_1_sent_but_not_what_ipv6_loopback_sent(
    dual_stack: Namespace,
) -> None:
    """Why the guard has a rule for ::1, whose REJECT does reach it."""
    for program, host in (("iptables-nft", "192.0.2.10"), ("ip6tables-nft", "[2001:db8::a]")):
        capture_node_port(dual_stack, program, TCP, f"DNAT --to-destination {host}:{PROXY_PORT}")
    assert ask(dual_stack, TCP, "127.0.0.1", NODE_PORT) == REFUSED
    assert ask(dual_stack, TCP, "::1", NODE_PORT) == UNANSWERED
    reject = f"-A INPUT -s ::1 -p tcp --dport {PROXY_PORT} -j REJECT --reject-with tcp-reset"
    dual_stack.run("ip6tables-nft", *reject.split())
    assert ask(dual_stack, TCP, "::1", NODE_PORT) == REFUSED


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_a_chain_s_name_has_at_most_28_characters(bridged: Node, variant: str) -> None:
    for length, is_fine in ((28, True), (29, False)):
        made = bridged.node.run(f"iptables-{variant}", "-t", "nat", "-N", "K" * length, check=False)
        assert (made.returncode == 0) is is_fine


def test_rules_that_jump_too_deep_are_refused(bridged: Node) -> None:
    """Why chains branch to a depth that nobody who chooses addresses can drive further."""
    for number in range(20):
        bridged.iptables(f"-t nat -N DEEP{number}")
    for number in range(14):
        bridged.iptables(f"-t nat -A DEEP{number} -j DEEP{number + 1}")
    bridged.iptables("-t nat -A PREROUTING -j DEEP0")
    deeper = [f"-t nat -A DEEP{number} -j DEEP{number + 1}" for number in range(14, 19)]
    refused = [
        rule for rule in deeper if bridged.node.run("iptables-nft", *rule.split(), check=False).returncode
    ]
    assert refused


def test_the_node_s_own_traffic_needs_a_route_before_any_rule_sees_it(bridged: Node) -> None:
    bridged.capture("OUTPUT")
    bridged.node.ip("route del default")
    with bridged.node.call(socket.socket) as client, pytest.raises(OSError, match="unreachable") as failure:
        client.connect((VIP, 80))
    assert failure.value.errno == errno.ENETUNREACH
    bridged.node.ip("route add 10.96.0.0/16 dev lo")
    assert ask(bridged.node, TCP, VIP, 80) == str(PROXY_PORT)


@pytest.mark.parametrize("protocol", list(Protocol))
@pytest.mark.parametrize("hook", ["PREROUTING", "OUTPUT"])
def test_in_input_redirected_packets_have_state_dnat_and_direct_hits_do_not(
    bridged: Node, hook: str, protocol: Protocol
) -> None:
    bridged.capture(hook)
    bridged.iptables(
        f"-A INPUT -p {protocol.value.lower()} --dport {PROXY_PORT} -m conntrack ! --ctstate DNAT -j DROP"
    )
    sender = bridged.pod if hook == "PREROUTING" else bridged.node
    assert ask(sender, protocol, VIP, 80) == str(PROXY_PORT)
    for address in ["192.0.2.10"] + (["127.0.0.1"] if sender is bridged.node else []):
        assert ask(sender, protocol, address, PROXY_PORT) == UNANSWERED


def reject(node: Node, protocol: Protocol, reply: str) -> None:
    node.iptables(
        f"-A INPUT -p {protocol.value.lower()} --dport {PROXY_PORT} -m conntrack --ctstate NEW "
        f"-j REJECT --reject-with {reply}"
    )


def test_a_rejected_udp_flow_is_refused_at_once_and_leaves_no_entry_that_leads_astray(bridged: Node) -> None:
    bridged.capture("PREROUTING")
    bridged.capture("OUTPUT")
    reject(bridged, UDP, "icmp-port-unreachable")
    assert ask(bridged.pod, UDP, VIP, 80) == REFUSED
    assert bridged.entries() == ""
    assert ask(bridged.node, UDP, VIP, 80) == REFUSED
    assert f"src=127.0.0.1 dst=192.0.2.10 sport={PROXY_PORT} " in bridged.entries()


def test_a_rejected_tcp_connection_is_reset_unless_it_came_over_a_bridge(bridged: Node) -> None:
    """Why TCP is refused at a closed port: the reset that REJECT sends over a bridge is not translated."""
    bridged.capture("PREROUTING")
    bridged.capture("OUTPUT")
    reject(bridged, TCP, "tcp-reset")
    assert ask(bridged.outside, TCP, VIP, 80) == REFUSED
    assert ask(bridged.node, TCP, VIP, 80) == REFUSED
    setting = Path("/proc/sys", *BRIDGE_SETTING.split("."))
    if not bridged.node.call(setting.exists):
        pytest.skip("this kernel does not lead bridged packets through iptables")
    bridged.node.sysctl(BRIDGE_SETTING, "1")
    assert ask(bridged.pod, TCP, VIP, 80) == UNANSWERED
    bridged.node.sysctl(BRIDGE_SETTING, "0")
    assert ask(bridged.pod, TCP, VIP, 80) == REFUSED


def test_a_closed_port_refuses_redirected_tcp_from_everywhere_and_a_bound_one_is_closed(
    bridged: Node,
) -> None:
    for hook in ("PREROUTING", "OUTPUT"):
        bridged.capture(hook, "REDIRECT --to-ports 20000")
    with bridged.node.call(socket.socket) as keeps_it_closed:
        keeps_it_closed.bind(("", 20000))
        for sender in (bridged.pod, bridged.outside, bridged.node):
            assert ask(sender, TCP, VIP, 80) == REFUSED


def test_the_kernel_limits_how_often_icmp_refuses(bridged: Node) -> None:
    """Why no TCP connection is refused by ICMP: a client that tries often would be left waiting."""
    bridged.capture("PREROUTING")
    reject(bridged, UDP, "icmp-port-unreachable")
    assert UNANSWERED in [ask(bridged.pod, UDP, VIP, 80) for _ in range(8)]


@pytest.mark.parametrize("protocol", list(Protocol))
def test_an_established_flow_goes_on_when_its_rule_is_gone(bridged: Node, protocol: Protocol) -> None:
    """Why a change of rules cuts no connection, and why UDP entries must be deleted.

    It takes some rule that needs conntrack, as the guard's do: without any the kernel stops translating.
    """
    bridged.iptables("-A INPUT -m conntrack --ctstate INVALID -j DROP")
    bridged.capture("PREROUTING", "REDIRECT --to-ports 20002")
    kind = socket.SOCK_STREAM if protocol is TCP else socket.SOCK_DGRAM
    with (
        bridged.node.call(partial(socket.socket, type=kind)) as listener,
        bridged.pod.call(partial(socket.socket, type=kind)) as client,
        ExitStack() as stack,
    ):
        listener.bind(("", 20002))
        listener.settimeout(20)
        client.settimeout(20)
        if protocol is TCP:
            listener.listen()
        client.connect((VIP, 80))
        server = stack.enter_context(listener.accept()[0]) if protocol is TCP else listener
        server.settimeout(20)
        client.send(b"before")
        assert server.recv(10) == b"before"
        bridged.iptables("-t nat -F")
        client.send(b"after")
        assert server.recv(10) == b"after"


def test_drop_is_no_target_in_nat_and_reject_none_in_prerouting(bridged: Node) -> None:
    """Why the guard is in filter."""
    for rule in ("-t nat -A PREROUTING -j DROP", "-t mangle -A PREROUTING -j REJECT"):
        for program in ("iptables-nft", "iptables-legacy"):
            assert bridged.node.run(program, *rule.split(), check=False).returncode != 0, (program, rule)


def test_reading_with_the_legacy_program_registers_no_tables_unless_it_names_one() -> None:
    """Why a host's variant can be looked for without changing it."""
    names = Path("/proc/thread-self/net/ip_tables_names")
    with Namespace("reading") as namespace:
        namespace.run("iptables-legacy-save")
        assert namespace.call(names.read_text) == ""
        namespace.run("iptables-legacy-save", "-t", "nat")
        assert namespace.call(names.read_text) == "nat\n"
