"""What a worker says of its connections and endpoints while it serves them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from tests.dataplane.test_worker import (
    WEB,
    RunningWorker,
    ask,
    key_of,
    listen,
    running_worker,
    service_port,
)
from tests.support.loopback import (
    DEADLINE_SECONDS,
    connect,
    echo,
    endpoint_of,
    refusing,
    reset,
    say_port,
    server,
    silent,
    wait_until,
)
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.live_traffic import (
    ConnectionQuery,
    ConnectionState,
    LiveConnection,
    ServicePortState,
)
from userspace_proxy.core.service_port import Port
from userspace_proxy.core.traffic_counters import EndpointKey
from userspace_proxy.dataplane.messages import ListenerKey, ServicePortConfig, TakenOut

MANY = 1 << 20
ALL = ConnectionQuery()


@pytest.fixture
def worker() -> Iterator[RunningWorker]:
    with running_worker() as running:
        yield running


def listed(
    worker: RunningWorker, query: ConnectionQuery = ALL, most: int = MANY
) -> tuple[list[LiveConnection], int]:
    def read() -> tuple[list[LiveConnection], int]:
        listing = worker.worker.list_connections(query)
        found: list[LiveConnection] = []
        left_out = 0
        while not listing.is_complete:
            described, more = listing.portion(most - len(found))
            found += described
            left_out += more
        return found, left_out

    return worker.call(read)


def only(worker: RunningWorker) -> LiveConnection:
    (connection,), _ = listed(worker)
    return connection


def state_of(worker: RunningWorker, client: str | None = None, key: str = WEB) -> ServicePortState:
    states, looked_at = worker.call(worker.worker.states, [key], client)
    assert looked_at == 1
    return states[key]


def key_at(endpoint: Endpoint) -> EndpointKey:
    return endpoint.address, endpoint.port


def test_a_connection_from_its_arrival_to_its_end(worker: RunningWorker) -> None:
    with server(echo) as pod:
        listener = worker.serve(pod)
        with connect(listener.proxy_port) as client:
            client.sendall(b"x" * 1000)
            assert len(receive(client, 1000)) == 1000
            wait_until(lambda: only(worker).bytes_out == 1000)
            connection = only(worker)
            assert connection.service_port == WEB
            assert connection.client == client.getsockname()
            assert connection.endpoint == key_at(pod)
            assert connection.frontend is None  # no rule has led it here
            assert connection.state is ConnectionState.ESTABLISHED
            assert not connection.is_draining
            assert (connection.bytes_in, connection.bytes_out) == (1000, 1000)
            assert 0 <= connection.age_seconds < DEADLINE_SECONDS
        wait_until(lambda: not listed(worker)[0])


def receive(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += sock.recv(size - len(received))
    return received


def test_who_has_finished_is_said_and_no_end_is_counted_as_a_byte(worker: RunningWorker) -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener = worker.serve(endpoint_of(listening))
        for first, state in (
            ("client", ConnectionState.CLIENT_FINISHED),
            ("endpoint", ConnectionState.ENDPOINT_FINISHED),
        ):
            client = stack.enter_context(connect(listener.proxy_port))
            endpoint = stack.enter_context(listening.accept()[0])
            client.sendall(b"abc")
            assert receive(endpoint, 3) == b"abc"
            endpoint.sendall(b"de")
            assert receive(client, 2) == b"de"
            one, other = (client, endpoint) if first == "client" else (endpoint, client)
            one.shutdown(socket.SHUT_WR)
            assert other.recv(1) == b""
            wait_until(lambda: (only(worker).bytes_in, only(worker).bytes_out) == (3, 2))
            assert only(worker).state is state
            other.close()
            wait_until(lambda: not listed(worker)[0])


def test_who_looks_for_an_endpoint_is_listed_with_whom_it_tries(worker: RunningWorker) -> None:
    with silent() as slow:
        listener = worker.serve(slow)
        with connect(listener.proxy_port) as client:
            wait_until(lambda: listed(worker)[0])
            connection = only(worker)
            assert connection.client == client.getsockname()
            assert connection.state is ConnectionState.CONNECTING
            assert connection.endpoint == key_at(slow)
            reset(client)
        wait_until(lambda: not listed(worker)[0])


def test_connections_to_endpoints_that_get_no_new_ones_are_draining(worker: RunningWorker) -> None:
    with server(echo) as pod, server(echo) as other:
        listener = worker.serve(pod)
        with connect(listener.proxy_port):
            wait_until(lambda: listed(worker)[0])
            worker.configure(service_port((listener, "Cluster", [other])))
            assert only(worker).is_draining
            worker.configure(service_port((listener, "Cluster", [other, pod])))
            assert not only(worker).is_draining
            worker.configure(removed=[WEB])
            assert only(worker).is_draining
            assert only(worker).service_port == WEB


def test_a_flow_is_listed_without_what_nobody_counts(worker: RunningWorker) -> None:
    with ExitStack() as stack:
        pod, client, listening = (
            stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(3)
        )
        for sock in (pod, client, listening):
            sock.settimeout(DEADLINE_SECONDS)
            sock.bind(("127.0.0.1", 0))
        listener = key_of(listening)
        dns = "kube-system/dns UDP IPv4"
        worker.configure(
            service_port((listener, "Cluster", [endpoint_of(pod)]), key=dns), sockets=[listening.dup()]
        )
        client.sendto(b"query", ("127.0.0.1", listener.proxy_port))
        _, flow = pod.recvfrom(100)
        connection = only(worker)
        assert connection.client == client.getsockname()
        assert connection.state is ConnectionState.UNANSWERED
        assert (connection.frontend, connection.bytes_in, connection.bytes_out) == (None, None, None)
        assert connection.age_seconds < DEADLINE_SECONDS
        pod.sendto(b"answer", flow)
        assert client.recv(100) == b"answer"
        assert only(worker).state is ConnectionState.ANSWERED
        assert len(listed(worker, ConnectionQuery(client="127.0.0.1"))[0]) == 1
        listing = worker.call(worker.worker.list_connections, ALL)
        worker.configure(removed=[dns])
        assert worker.call(listing.portion, MANY) == ([], 0)


def test_only_what_is_meant_is_listed(worker: RunningWorker) -> None:
    with ExitStack() as stack:
        one, two = (stack.enter_context(server(echo)) for _ in range(2))
        web, other = worker.serve(one), worker.serve(two, key="default/other TCP IPv4")
        for port, source in ((web, "127.0.0.1"), (web, "127.0.0.2"), (other, "127.0.0.2")):
            stack.enter_context(
                socket.create_connection(
                    ("127.0.0.1", port.proxy_port), DEADLINE_SECONDS, source_address=(source, 0)
                )
            )
        wait_until(lambda: [each.state for each in listed(worker)[0]] == [ConnectionState.ESTABLISHED] * 3)

        def count(**query: str | int) -> int:
            return len(listed(worker, ConnectionQuery(**query))[0])  # type: ignore[arg-type]

        assert count(service="default/web") == 2
        assert count(service="default/none") == 0
        assert count(client="127.0.0.2") == 2
        assert count(client="127.0.0.2", service="default/web:http") == 1
        assert count(endpoint_address=one.address, endpoint_port=int(two.port)) == 1
        assert count(endpoint_address=one.address) == 3


def test_many_are_listed_in_portions_and_what_is_left_out_is_counted(
    worker: RunningWorker,
) -> None:
    with ExitStack() as stack:
        pod = stack.enter_context(server(echo))
        listener = worker.serve(pod)
        clients = [stack.enter_context(connect(listener.proxy_port)) for _ in range(150)]
        wait_until(lambda: worker.counters().active == 150)
        found, left_out = listed(worker)
        names = [each.client for each in found]
        assert sorted(names) == sorted(client.getsockname() for client in clients)
        assert left_out == 0
        found, left_out = listed(worker, most=10)
        assert [each.client for each in found] == names[:10]
        assert left_out == 140
        listing = worker.call(worker.worker.list_connections, ALL)
        first, _ = worker.call(listing.portion, MANY)
        assert 0 < len(first) < 150
        assert not listing.is_complete
        for client in clients:
            reset(client)
        wait_until(lambda: not worker.counters().active)
        assert worker.call(listing.portion, MANY) == ([], 0), "those that have ended since are none"


def test_the_oldest_are_listed_first_however_far_they_are(worker: RunningWorker) -> None:
    """Where not all are asked for, these are."""
    with server(echo) as pod, silent() as slow:
        web, other = worker.serve(pod), worker.serve(slow, key="default/other TCP IPv4")
        with connect(web.proxy_port) as first:
            wait_until(lambda: [each.state for each in listed(worker)[0]] == [ConnectionState.ESTABLISHED])
            with connect(other.proxy_port) as second:
                wait_until(lambda: len(listed(worker)[0]) == 2)
                found, _ = listed(worker)
                assert [each.client for each in found] == [first.getsockname(), second.getsockname()]
                assert found[1].state is ConnectionState.CONNECTING


def test_an_endpoint_that_keeps_failing_is_seen_to_be_left_out(worker: RunningWorker) -> None:
    with ExitStack() as stack:
        pods = [stack.enter_context(server(say_port)) for _ in range(2)]
        dead = stack.enter_context(refusing())
        listener = worker.serve(dead, *pods)
        fresh = state_of(worker)
        assert sorted(each.endpoint for each in fresh.endpoints) == sorted(map(key_at, [dead, *pods]))
        assert {each.ejected_seconds for each in fresh.endpoints} == {None}
        assert fresh.classes[0].left_out == ()
        wait_until(lambda: ask(listener) and worker.counters().ejected == 1)
        state = state_of(worker)
        (failing,) = (each for each in state.endpoints if each.endpoint == key_at(dead))
        assert failing.failures == 3
        assert failing.ejected_seconds is not None
        assert failing.ejected_seconds <= 30
        (traffic,) = state.classes
        assert (traffic.policy, traffic.left_out) == ("Cluster", (key_at(dead),))
        assert sorted(traffic.usable) == sorted(map(key_at, [dead, *pods]))


def test_who_is_next_is_said_and_stays_next(worker: RunningWorker) -> None:
    with ExitStack() as stack:
        pods = [stack.enter_context(server(say_port)) for _ in range(3)]
        listener = worker.serve(*pods)
        for _ in range(5):
            (expected,) = state_of(worker).classes[0].next
            assert state_of(worker, "127.0.0.1").classes[0].next == (expected,)
            assert ask(listener) == expected[1]


def test_a_bound_client_is_next_where_it_is_bound_to(worker: RunningWorker) -> None:
    with ExitStack() as stack:
        pods = [stack.enter_context(server(say_port)) for _ in range(3)]
        listener = worker.serve(*pods, affinity_seconds=100)
        assert state_of(worker, "127.0.0.1").bound_to is None
        bound = ("127.0.0.1", ask(listener))
        state = state_of(worker, "127.0.0.1")
        assert state.bound_to == bound
        assert state.classes[0].next == (bound,)
        stranger = state_of(worker, "127.0.0.9")
        assert stranger.bound_to is None
        assert stranger.classes[0].next != (bound,)


def test_each_class_of_traffic_has_its_own_state_and_connections_are_counted(worker: RunningWorker) -> None:
    with server(echo) as one, server(echo) as two:
        cluster, local = listen(), listen()
        keys = key_of(cluster), key_of(local)
        worker.configure(
            service_port((keys[0], "Cluster", [one, two]), (keys[1], "Local", [two])),
            sockets=[cluster, local],
        )
        with connect(keys[1].proxy_port):
            wait_until(lambda: worker.counters().active == 1)
            state = state_of(worker)
            assert {each.policy: len(each.usable) for each in state.classes} == {"Cluster": 2, "Local": 1}
            expected = {key_at(one): 0, key_at(two): 1}
            assert {each.endpoint: each.active for each in state.endpoints} == expected
            worker.configure(service_port((keys[0], "Cluster", [one])))
            state = state_of(worker)
            assert {each.endpoint: each.active for each in state.endpoints} == expected, "wherever it is from"


def test_states_of_many_endpoints_come_in_portions(worker: RunningWorker) -> None:
    pods = [Endpoint(f"192.0.2.{number}", Port(80)) for number in range(1, 151)]
    names = [f"default/{number} TCP IPv4" for number in range(3)]
    for name in names:
        worker.serve(*pods, key=name)
    states, looked_at = worker.call(worker.worker.states, ["default/none TCP IPv4", *names], None)
    assert (list(states), looked_at) == (names[:2], 3)


def take_out(
    worker: RunningWorker, config: ServicePortConfig, *endpoints: Endpoint, seconds: float | None = None
) -> None:
    until = None if seconds is None else time.monotonic() + seconds
    worker.configure(
        msgspec.structs.replace(
            config, taken_out=tuple(TakenOut(each.address, each.port, until) for each in endpoints)
        )
    )


def test_an_endpoint_that_is_taken_out_gets_nothing_new_and_keeps_what_it_has(
    worker: RunningWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with ExitStack() as stack:
        one, two = (stack.enter_context(server(say_port_and_echo)) for _ in range(2))
        listener = worker.serve(one)
        client = stack.enter_context(connect(listener.proxy_port))
        assert int(client.recv(10)) == one.port
        config = service_port((listener, "Cluster", [one, two]))
        take_out(worker, config, one)
        assert {hear(listener) for _ in range(6)} == {two.port}
        client.sendall(b"still")
        assert receive(client, 5) == b"still"
        assert worker.counters().ejected == 0, "nobody has failed"
        assert state_of(worker).classes[0].left_out == (key_at(one),)
        take_out(worker, config, one, two)
        assert {hear(listener) for _ in range(6)} == {one.port, two.port}, "as a last resort"
        take_out(worker, config)
        assert {hear(listener) for _ in range(6)} == {one.port, two.port}
        assert state_of(worker).classes[0].left_out == ()
    said = [message for message in caplog.messages if "taken out no longer" in message]
    phrase = "Endpoint is taken out no longer: service_port=default/web:http endpoint="
    assert sorted(said) == sorted(f"{phrase}{each}" for each in (one, two))


def test_when_its_time_is_over_an_endpoint_is_used_again(worker: RunningWorker) -> None:
    with server(say_port) as one, server(say_port) as two:
        config = service_port((worker.serve(one, two), "Cluster", [one, two]))
        take_out(worker, config, one, seconds=0.05)
        wait_until(lambda: state_of(worker).classes[0].left_out == ())
        take_out(worker, config, one, seconds=DEADLINE_SECONDS * 10)
        assert state_of(worker).classes[0].left_out == (key_at(one),)
        worker.configure(removed=[WEB])  # and no timer is left to go off


def say_port_and_echo(sock: socket.socket) -> None:
    sock.sendall(str(sock.getsockname()[1]).encode())
    echo(sock)


def hear(listener: ListenerKey) -> int:
    with connect(listener.proxy_port) as client:
        return int(client.recv(10))
