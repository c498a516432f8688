"""What becomes of connections to endpoints that were removed, and to peers that vanish without a word."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support import objects
from tests.support.clients import connect
from tests.support.service_node import ENDPOINT_PORTS, PORTS, ServedService, ServiceNode
from tests.support.waiting import wait_until
from userspace_proxy.demo.namespaces import Namespace

REMOVED_ENDPOINTS = "userspace-proxy.io/removed-endpoints"
PEER_TIMEOUT_SECONDS = 4.0
SWEEP_SECONDS = PEER_TIMEOUT_SECONDS / 8
SLACK_SECONDS = 20.0
"""For a machine that has other things to do: the shortest times are exact, the longest are not."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceNode]:
    flags = ("--tcp-peer-timeout", f"{PEER_TIMEOUT_SECONDS:g}s")
    with ServiceNode(tmp_path_factory.mktemp("node"), *flags) as node:
        node.agent.start()
        yield node


def serve(node: ServiceNode, policy: str) -> ServedService:
    """A Service with one endpoint, the first pod, whose annotation says what becomes of its connections."""
    service = node.serve("digest", endpoints=node.endpoint_addresses[:1])
    annotate(node, service, policy)
    return service


def annotate(node: ServiceNode, service: ServedService, policy: str) -> None:
    node.objects.apply(
        objects.service(
            service.name,
            at=service.cluster_ip,
            ports=[f"digest:{PORTS['digest']}"],
            annotations={REMOVED_ENDPOINTS: policy},
        )
    )


def established(node: ServiceNode, service: ServedService) -> socket.socket:
    """A connection that has reached its endpoint."""
    client = connect(node.client, service["digest"])
    client.sendall(b"some")
    endpoint = f"{node.endpoints[0].address}:{ENDPOINT_PORTS['digest']}"
    wait_until(lambda: node.node.run("ss", "-Htn", "state", "established", "dst", endpoint).stdout)
    return client


def is_usable(client: socket.socket) -> bool:
    """Whether the whole conversation works: half-close, and an answer to all that was sent."""
    client.shutdown(socket.SHUT_WR)
    return len(client.recv(1000)) > 0


def seconds_until_reset(client: socket.socket) -> float:
    began = time.monotonic()
    client.settimeout(60)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    return time.monotonic() - began


def test_by_default_connections_to_a_removed_endpoint_go_on(node: ServiceNode) -> None:
    service = node.serve("digest", endpoints=node.endpoint_addresses[:1])
    with established(node, service) as client:
        node.set_endpoints(service, node.endpoint_addresses[1:2])
        reset = serve(node, "reset")
        with established(node, reset) as later:
            node.set_endpoints(reset, node.endpoint_addresses[1:2])
            seconds_until_reset(later)  # by then the earlier change is in effect as well
        assert is_usable(client)


def test_connections_are_reset_at_once_where_the_service_says_so(node: ServiceNode) -> None:
    service = serve(node, "reset")
    with established(node, service) as client:
        node.set_endpoints(service, node.endpoint_addresses[1:2])
        seconds_until_reset(client)
    with connect(node.client, service["digest"]) as client:
        assert is_usable(client)


def test_connections_drain_where_the_service_says_so(node: ServiceNode) -> None:
    service = serve(node, "drain=2s")
    with established(node, service) as client:
        began = time.monotonic()
        node.set_endpoints(service, node.endpoint_addresses[1:2])
        seconds_until_reset(client)
        assert time.monotonic() - began >= 2


def test_connections_to_an_endpoint_that_is_not_ready_or_terminates_go_on(node: ServiceNode) -> None:
    service = serve(node, "reset")
    first, second, _ = node.endpoint_addresses
    with established(node, service) as client:
        for still_listed in (
            objects.endpoint(first, ready=False),
            objects.endpoint(first, ready=False, serving=False, terminating=True),
        ):
            node.objects.apply(
                objects.endpoint_slice(
                    f"{service.name}-1",
                    of=service.name,
                    ports=[f"digest:{ENDPOINT_PORTS['digest']}"],
                    endpoints=[still_listed, second],
                )
            )
            with established(node, serve(node, "reset")):
                pass  # a later change is in effect
        client.sendall(b"more")
        node.set_endpoints(service, [second])
        seconds_until_reset(client)


def test_a_service_that_changes_its_mind_lets_go_of_whom_it_kept(node: ServiceNode) -> None:
    service = serve(node, "keep")
    with established(node, service) as client:
        node.set_endpoints(service, node.endpoint_addresses[1:2])
        with established(node, serve(node, "keep")):
            pass
        annotate(node, service, "reset")
        seconds_until_reset(client)


def test_an_annotation_that_cannot_be_used_is_named_once_and_the_default_holds(node: ServiceNode) -> None:
    service = serve(node, "drain")
    wait_until(lambda: node.agent.lines_with(service.name, REMOVED_ENDPOINTS, "'drain' is not keep, reset"))
    with established(node, service) as client:
        node.set_endpoints(service, node.endpoint_addresses[1:2])
        with established(node, serve(node, "reset")):
            pass
        assert is_usable(client)
    assert len(node.agent.lines_with(service.name, REMOVED_ENDPOINTS)) == 1


def cut_off(pod: Namespace) -> None:
    """What is sent to the pod is lost, and it sends nothing: powered off, as far as anybody can tell."""
    pod.run("iptables", "-A", "INPUT", "-j", "DROP")
    pod.run("iptables", "-A", "OUTPUT", "-j", "DROP")


def mend(pod: Namespace) -> None:
    pod.run("iptables", "-F")


@pytest.mark.parametrize("is_asking", [False, True], ids=["idle", "with bytes under way"])
def test_a_connection_to_an_endpoint_that_was_powered_off_ends_in_its_time(
    node: ServiceNode, is_asking: bool
) -> None:
    service = serve(node, "keep")
    with established(node, service) as client:
        time.sleep(2 * SWEEP_SECONDS)  # it has been there for a while
        cut_off(node.endpoints[0])
        try:
            if is_asking:
                client.sendall(b"more")
            seconds = seconds_until_reset(client)
        finally:
            mend(node.endpoints[0])
    assert seconds < PEER_TIMEOUT_SECONDS + SWEEP_SECONDS + SLACK_SECONDS
    print(f"ended after {seconds:.1f} s")


def test_a_client_that_was_powered_off_leaves_nothing_behind(node: ServiceNode) -> None:
    service = serve(node, "keep")
    endpoint = f"{node.endpoints[0].address}:{ENDPOINT_PORTS['digest']}"
    with ExitStack() as stack:
        away = node.network.add_pod("away")
        client = stack.enter_context(connect(away, service["digest"]))
        client.sendall(b"some")

        def legs() -> str:
            return node.node.run("ss", "-Htn", "state", "established", "dst", endpoint).stdout

        wait_until(legs)
        time.sleep(2 * SWEEP_SECONDS)
        cut_off(away)
        wait_until(lambda: not legs(), PEER_TIMEOUT_SECONDS + SWEEP_SECONDS + SLACK_SECONDS)


def test_an_endpoint_that_reads_nothing_is_there_and_is_waited_for(node: ServiceNode) -> None:
    """TCP_USER_TIMEOUT would have ended this: the window is closed for longer than the timeout."""
    pod = node.endpoints[0]

    def listen() -> socket.socket:
        return socket.create_server((pod.address, 9000))

    with pod.call(listen) as listener:
        node.objects.apply(objects.service("slow", at="10.96.0.9", ports=["9000"]))
        node.objects.apply(
            objects.endpoint_slice("slow-1", of="slow", ports=["9000"], endpoints=[pod.address])
        )
        wait_until(lambda: any('"default/slow"' in rule for rule in node.rules()))
        with connect(node.client, ("10.96.0.9", 9000)) as client:
            server, _ = listener.accept()
            with server:
                client.settimeout(0.5)
                sent = 0
                with pytest.raises(TimeoutError):
                    while True:
                        sent += client.send(bytes(1 << 16))
                time.sleep(2 * PEER_TIMEOUT_SECONDS)
                client.shutdown(socket.SHUT_WR)
                received = 0
                while chunk := server.recv(1 << 18):
                    received += len(chunk)
                assert received == sent
