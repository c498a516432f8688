"""A worker as the agent sees it: told whole states, it serves them."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from random import Random

import pytest

from tests.support.loopback import (
    DEADLINE_SECONDS,
    LoopThread,
    at_once,
    connect,
    echo,
    endpoint_of,
    is_reset,
    open_descriptors,
    receive_all,
    refusing,
    reset,
    say_port,
    server,
    serving,
    silent,
    wait_until,
)
from userspace_proxy.core.endpoint import Endpoint
from userspace_proxy.core.service_port import Port
from userspace_proxy.core.traffic_counters import EndpointCounters, ServicePortCounters
from userspace_proxy.dataplane.messages import (
    ListenerConfig,
    ListenerKey,
    ServicePortConfig,
    WorkerLimits,
)
from userspace_proxy.dataplane.tcp_relay import TcpRelays
from userspace_proxy.dataplane.worker import Worker
from userspace_proxy.errors import WorkerError

WEB = "default/web:http TCP IPv4"


def listen() -> socket.socket:
    """As the agent opens it: non-blocking from the start, because duplicates share that flag."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=512)
    sock.setblocking(False)
    return sock


def key_of(sock: socket.socket) -> ListenerKey:
    protocol = "TCP" if sock.type == socket.SOCK_STREAM else "UDP"
    return ListenerKey(protocol, sock.getsockname()[1])


def service_port(
    *listeners: tuple[ListenerKey, str, Sequence[Endpoint]],
    key: str = WEB,
    affinity_seconds: int | None = None,
    drain_removed_seconds: float | None = None,
    idle: Sequence[Endpoint] = (),
) -> ServicePortConfig:
    return ServicePortConfig(
        key=key,
        label=key.split()[0],
        protocol=listeners[0][0].protocol if listeners else "TCP",
        family="IPv4",
        affinity_timeout_seconds=affinity_seconds,
        udp_unanswered_seconds=30,
        udp_answered_seconds=120,
        listeners=tuple(
            ListenerConfig(
                policy,
                listener.proxy_port,
                tuple((endpoint.address, endpoint.port) for endpoint in endpoints),
            )
            for listener, policy, endpoints in listeners
        ),
        drain_removed_seconds=drain_removed_seconds,
        idle_endpoints=tuple((endpoint.address, endpoint.port) for endpoint in idle),
    )


class RunningWorker:
    """A worker in a loop's thread."""

    def __init__(self, thread: LoopThread) -> None:
        self.call = thread.call
        self.worker = thread.call(
            lambda: Worker(
                thread.loop, limits=WorkerLimits(max_udp_flows=100, dials_any_address=True), random=Random(11)
            )
        )

    def configure(
        self,
        *service_ports: ServicePortConfig,
        removed: Sequence[str] = (),
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self.call(self.worker.configure, service_ports, removed, {key_of(sock): sock for sock in sockets})

    def serve(self, *endpoints: Endpoint, key: str = WEB, affinity_seconds: int | None = None) -> ListenerKey:
        """A new Service port with one listener."""
        sock = listen()
        listener = key_of(sock)
        self.configure(
            service_port((listener, "Cluster", endpoints), key=key, affinity_seconds=affinity_seconds),
            sockets=[sock],
        )
        return listener

    def counters(self, key: str = WEB) -> ServicePortCounters:
        return self.call(lambda: self.worker.counters([key]))[key]

    def is_counted(self, key: str = WEB) -> bool:
        return key in self.call(self.worker.counted)

    def close(self) -> None:
        self.call(self.worker.close)


@contextmanager
def running_worker() -> Iterator[RunningWorker]:
    with LoopThread() as thread:
        worker = RunningWorker(thread)
        try:
            yield worker
        finally:
            worker.close()


@pytest.fixture
def worker() -> Iterator[RunningWorker]:
    with running_worker() as running:
        yield running


@pytest.fixture
def pods() -> Iterator[list[Endpoint]]:
    """Three endpoints that say who they are."""
    with server(say_port) as one, server(say_port) as two, server(say_port) as three:
        yield [one, two, three]


def ask(listener: ListenerKey) -> int:
    with connect(listener.proxy_port) as client:
        return int(receive_all(client))


def is_refused(listener: ListenerKey) -> bool:
    try:
        connect(listener.proxy_port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_ninety_connections_are_thirty_each_strictly_in_turn(
    worker: RunningWorker, pods: list[Endpoint]
) -> None:
    listener = worker.serve(*pods)
    answers = [ask(listener) for _ in range(90)]
    assert Counter(answers) == {pod.port: 30 for pod in pods}
    assert all(answers[index] == answers[index + 3] for index in range(87))
    wait_until(lambda: worker.counters().active == 0)
    assert worker.counters().opened == 90
    assert worker.counters().bytes_out == sum(len(str(answer)) for answer in answers)


def test_each_endpoint_is_counted_by_itself(worker: RunningWorker, pods: list[Endpoint]) -> None:
    with server(echo) as pod, refusing() as dead:
        listener = worker.serve(pod, dead)
        with connect(listener.proxy_port) as first, connect(listener.proxy_port) as second:
            for client in (first, second):
                client.sendall(b"four")
                assert client.recv(4) == b"four"
            counters = worker.counters()
            assert counters.at(pod.address, pod.port) == EndpointCounters(2, 2, bytes_in=8, bytes_out=8)
            assert counters.at(dead.address, dead.port).failed >= 1
            assert sum(counters.connects) == 2
            assert 0 < counters.connect_seconds < DEADLINE_SECONDS
            worker.configure(service_port((listener, "Cluster", pods)))
            assert (pod.address, pod.port) in worker.counters().endpoints  # it has connections
            assert (dead.address, dead.port) not in worker.counters().endpoints
        wait_until(lambda: not worker.counters().endpoints)
        assert (worker.counters().bytes_in, worker.counters().bytes_out) == (8, 8)


def test_saying_it_again_changes_nothing(worker: RunningWorker, pods: list[Endpoint]) -> None:
    listener = worker.serve(*pods)
    answers = []
    for _ in range(12):
        answers.append(ask(listener))
        worker.configure(service_port((listener, "Cluster", pods)), removed=["default/unknown TCP IPv4"])
    assert all(answers[index] == answers[index + 3] for index in range(9))


def test_connections_to_removed_endpoints_end_as_the_service_wants_it(
    worker: RunningWorker, pods: list[Endpoint]
) -> None:
    with server(echo) as one, server(echo) as two:
        listener = worker.serve(one, two)
        with connect(listener.proxy_port) as first, connect(listener.proxy_port) as second:
            clients = [first, second]
            for client in clients:
                client.sendall(b"?")
                assert client.recv(1) == b"?"

            def tell(seconds: float | None, *idle: Endpoint) -> None:
                worker.configure(
                    service_port((listener, "Cluster", pods), drain_removed_seconds=seconds, idle=idle)
                )

            tell(None)
            tell(0, one, two)
            tell(60, two)  # `one` has a minute from now on
            assert worker.counters().active == 2
            tell(0.05, two)  # … and now less
            wait_until(lambda: worker.counters().active == 1)
            assert worker.counters().removed == 1
            tell(60)
            tell(None)  # kept after all
            [left] = [client for client in clients if not was_reset(client)]
            left.sendall(b"!")
            assert left.recv(1) == b"!"
            tell(0)
            assert worker.counters().removed == 2
            wait_until(lambda: was_reset(left))


def test_nobody_on_the_way_to_a_removed_endpoint_arrives_there(worker: RunningWorker) -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(silent_for_now())
        slow = endpoint_of(listening)
        listener = worker.serve(slow)
        client = stack.enter_context(connect(listener.proxy_port))
        wait_until(lambda: worker.call(lambda: worker.worker.active))
        worker.configure(service_port((listener, "Cluster", []), drain_removed_seconds=0))
        stack.enter_context(serving(listening, echo))
        with pytest.raises(ConnectionResetError):
            client.sendall(b"?")
            client.recv(1)


def test_who_is_on_the_way_to_a_removed_endpoint_goes_to_another_one(
    worker: RunningWorker, pods: list[Endpoint]
) -> None:
    with silent() as slow:
        listener = worker.serve(slow)
        with connect(listener.proxy_port) as client:
            wait_until(lambda: worker.call(lambda: worker.worker.active))
            worker.configure(service_port((listener, "Cluster", pods), drain_removed_seconds=60))
            assert int(receive_all(client)) in {pod.port for pod in pods}
        assert not worker.counters().failed


@contextmanager
def silent_for_now() -> Iterator[socket.socket]:
    """A listener whose backlog is full until somebody accepts."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield listening


def test_however_many_service_ports_change_all_connections_are_looked_at_once(
    worker: RunningWorker, pods: list[Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners = {
        f"default/{number} TCP IPv4": worker.serve(*pods, key=f"default/{number} TCP IPv4")
        for number in range(5)
    }
    looks = []
    endpoints_of = TcpRelays.endpoints_of

    def count(relays: TcpRelays, service_ports: Collection[int]) -> dict[int, set[Endpoint]]:
        looks.append(len(service_ports))
        return endpoints_of(relays, service_ports)

    monkeypatch.setattr(TcpRelays, "endpoints_of", count)
    for seconds in (0, None):
        worker.configure(
            *(
                service_port((listener, "Cluster", pods[:1]), key=key, drain_removed_seconds=seconds)
                for key, listener in listeners.items()
            )
        )
    assert looks == [5]


def test_a_class_of_traffic_that_is_gone_leaves_no_endpoint_out(
    worker: RunningWorker, pods: list[Endpoint]
) -> None:
    with refusing() as dead:
        inside, outside = listen(), listen()
        cluster, local = key_of(inside), key_of(outside)
        both = [(cluster, "Cluster", pods), (local, "Local", [dead, pods[0]])]
        worker.configure(service_port(*both), sockets=[inside, outside])
        wait_until(lambda: ask(local) and worker.counters().ejected == 1)
        worker.configure(service_port(both[0]))
        assert worker.counters().ejected == 0


def test_who_waits_is_left_to_the_heir_of_a_listener(worker: RunningWorker, pods: list[Endpoint]) -> None:
    sock = listen()
    with sock.dup() as heir:
        worker.configure(service_port((key_of(heir), "Cluster", pods)), sockets=[sock])

        def hand_over_in_front_of_them() -> list[socket.socket]:
            waiting = [connect(heir.getsockname()[1]) for _ in range(3)]
            worker.worker.hand_over([WEB], most_flows=10, most_clients=10)
            return waiting

        for client in worker.call(hand_over_in_front_of_them):
            with client, heir.accept()[0] as accepted:
                accepted.sendall(b"heir")
                assert client.recv(10) == b"heir"


def test_no_room_is_promised_that_others_have(worker: RunningWorker, pods: list[Endpoint]) -> None:
    listener = worker.serve(*pods)
    worker.call(worker.worker.leave_room, 1 << 20)
    assert is_reset(listener.proxy_port)
    worker.call(worker.worker.leave_room, 0)
    assert ask(listener)


def was_reset(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        client.recv(1)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        client.settimeout(DEADLINE_SECONDS)
    raise AssertionError("it ended in order")


def test_ejections_are_counted_and_logged(
    worker: RunningWorker, pods: list[Endpoint], caplog: pytest.LogCaptureFixture
) -> None:
    with refusing() as dead:
        listener = worker.serve(dead, *pods)
        assert {ask(listener) for _ in range(20)} == {pod.port for pod in pods}
        assert worker.counters().ejections >= 1
        assert worker.counters().ejected == 1
        assert f"service_port=default/web:http endpoint={dead}" in caplog.text
        worker.configure(service_port((listener, "Cluster", pods)))
        assert worker.counters().ejected == 0


def test_endpoints_are_replaced_while_connections_go_on(worker: RunningWorker, pods: list[Endpoint]) -> None:
    with ExitStack() as stack:
        old = stack.enter_context(server(echo))
        listener = worker.serve(old)
        idle = [stack.enter_context(connect(listener.proxy_port)) for _ in range(40)]
        wait_until(lambda: worker.counters().active == 40)
        worker.configure(service_port((listener, "Cluster", pods[:1])))
        assert ask(listener) == pods[0].port
        worker.configure(removed=[WEB])
        assert is_refused(listener)
        for client in idle:
            client.sendall(b"still here")
            assert client.recv(100) == b"still here"
        assert worker.counters().active == 40


def test_a_removed_service_port_is_counted_until_its_last_connection_ends(worker: RunningWorker) -> None:
    with server(echo) as endpoint:
        listener = worker.serve(endpoint)
        with connect(listener.proxy_port) as client:
            wait_until(lambda: worker.counters().active == 1)
            worker.configure(removed=[WEB])
            client.sendall(b"xyz")
            assert client.recv(100) == b"xyz"
            assert worker.counters().bytes_out == 3
        wait_until(lambda: not worker.is_counted())


def test_a_removed_service_port_is_counted_while_somebody_looks_for_an_endpoint(
    worker: RunningWorker,
) -> None:
    with silent() as endpoint:
        listener = worker.serve(endpoint)
        with connect(listener.proxy_port) as client:
            worker.configure(removed=[WEB])  # which accepts who waits
            assert worker.is_counted()
            reset(client)
        wait_until(lambda: not worker.is_counted())


def test_a_service_port_that_comes_back_goes_on_counting(worker: RunningWorker, pods: list[Endpoint]) -> None:
    with server(echo) as endpoint:
        listener = worker.serve(endpoint)
        with connect(listener.proxy_port):
            wait_until(lambda: worker.counters().active == 1)
            worker.configure(removed=[WEB])
            ask(worker.serve(*pods))
            assert worker.counters().opened == 2


def test_a_new_proxy_port_takes_the_place_of_the_old(worker: RunningWorker, pods: list[Endpoint]) -> None:
    old = worker.serve(*pods)
    first = ask(old)
    sock = listen()
    new = key_of(sock)
    worker.configure(service_port((new, "Cluster", pods)), sockets=[sock])
    assert is_refused(old)
    assert len({first, ask(new), ask(new)}) == 3, "the turn goes on"


def test_each_listener_uses_the_endpoints_of_its_policy(worker: RunningWorker, pods: list[Endpoint]) -> None:
    cluster, local = listen(), listen()
    keys = key_of(cluster), key_of(local)
    worker.configure(
        service_port((keys[0], "Cluster", pods), (keys[1], "Local", pods[:1])), sockets=[cluster, local]
    )
    assert len({ask(keys[0]) for _ in range(3)}) == 3
    assert {ask(keys[1]) for _ in range(3)} == {pods[0].port}
    worker.configure(service_port((keys[0], "Cluster", pods)))
    assert is_refused(keys[1])
    assert len({ask(keys[0]) for _ in range(3)}) == 3


def test_affinity_is_switched_while_it_serves(worker: RunningWorker, pods: list[Endpoint]) -> None:
    listener = worker.serve(*pods, affinity_seconds=100)
    assert len(set(at_once(40, lambda _: ask(listener)))) == 1
    worker.configure(service_port((listener, "Cluster", pods)))
    assert len({ask(listener) for _ in range(3)}) == 3


def test_a_service_port_that_loses_its_endpoints_and_finds_some(
    worker: RunningWorker, pods: list[Endpoint]
) -> None:
    listener = worker.serve()
    assert is_reset(listener.proxy_port)
    worker.configure(service_port((listener, "Cluster", pods)))
    assert ask(listener) in {pod.port for pod in pods}


def test_a_missing_socket_is_an_error_and_nothing_changes(
    worker: RunningWorker, pods: list[Endpoint]
) -> None:
    listener = worker.serve(*pods)
    before = open_descriptors()
    unused = listen()
    missing = service_port((ListenerKey("TCP", 1), "Cluster", pods), key="default/other TCP IPv4")
    with pytest.raises(WorkerError, match="default/other: no socket came for TCP port 1"):
        worker.configure(missing, removed=[WEB], sockets=[unused])
    assert open_descriptors() == before
    assert ask(listener) in {pod.port for pod in pods}


def test_a_listener_whose_policy_changed_needs_a_socket(worker: RunningWorker, pods: list[Endpoint]) -> None:
    listener = worker.serve(*pods)
    with pytest.raises(WorkerError):
        worker.configure(service_port((listener, "Local", pods)))


def test_a_socket_that_comes_again_takes_the_place_of_the_one_before(
    worker: RunningWorker, pods: list[Endpoint]
) -> None:
    sock = listen()
    listener = key_of(sock)
    with sock.dup() as duplicate:
        worker.configure(service_port((listener, "Cluster", pods)), sockets=[sock])
        worker.configure(service_port((listener, "Cluster", pods)), sockets=[duplicate.dup()])
    assert ask(listener) in {pod.port for pod in pods}


def test_udp_is_served_beside_tcp(worker: RunningWorker) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as pod, socket.socket(type=socket.SOCK_DGRAM) as client:
        for sock in (pod, client):
            sock.settimeout(DEADLINE_SECONDS)
            sock.bind(("127.0.0.1", 0))
        listening = socket.socket(type=socket.SOCK_DGRAM)
        listening.bind(("127.0.0.1", 0))
        listener = key_of(listening)
        address, port = pod.getsockname()
        dns = "kube-system/dns UDP IPv4"
        worker.configure(
            service_port((listener, "Cluster", [Endpoint(address, port)]), key=dns), sockets=[listening]
        )
        client.sendto(b"query", ("127.0.0.1", listener.proxy_port))
        query, flow = pod.recvfrom(100)
        pod.sendto(b"answer to " + query, flow)
        assert client.recv(100) == b"answer to query"
        assert worker.counters(dns).active == 1
        worker.configure(removed=[dns])
        wait_until(lambda: not worker.is_counted(dns))


def test_without_a_limit_udp_flows_may_have_half_of_the_descriptors() -> None:
    with LoopThread() as thread:
        worker = thread.call(
            lambda: Worker(thread.loop, limits=WorkerLimits(dials_any_address=True), random=Random(1))
        )
        thread.call(worker.close)


def test_closing_leaves_waiting_clients_to_a_successor_and_nothing_open(pods: list[Endpoint]) -> None:
    with running_worker():
        pass  # what libraries open once and keep
    before = open_descriptors()
    sock = listen()
    listener = key_of(sock)
    with sock.dup() as duplicate:
        with running_worker() as worker, server(echo) as endpoint:
            worker.configure(service_port((listener, "Cluster", [endpoint])), sockets=[sock])
            with connect(listener.proxy_port) as relayed:
                relayed.sendall(b"x")
                assert relayed.recv(1) == b"x"
                waiting: list[socket.socket] = []

                def close_in_front_of_a_client() -> None:
                    waiting.append(connect(listener.proxy_port))
                    worker.worker.close()

                worker.call(close_in_front_of_a_client)
                with pytest.raises(ConnectionResetError):
                    relayed.recv(1)
        with waiting[0] as client, duplicate.accept()[0] as accepted:
            accepted.sendall(b"successor")
            assert client.recv(100) == b"successor"
    wait_until(lambda: open_descriptors() == before)


def test_endpoints_that_are_never_dialled_are_refused_when_they_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server listens there, and would answer: the worker resets instead, and says so once."""
    sock = listen()
    listener = key_of(sock)
    with LoopThread() as thread, socket.create_server(("127.0.0.1", 0)) as server:
        worker = thread.call(lambda: Worker(thread.loop, limits=WorkerLimits(), random=Random(1)))
        port = Port(server.getsockname()[1])
        told = [Endpoint("127.0.0.1", port), Endpoint("169.254.169.254", Port(80)), Endpoint("::1", port)]
        thread.call(worker.configure, [service_port((listener, "Cluster", told))], [], {listener: sock})
        assert is_reset(listener.proxy_port)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
        thread.call(worker.close)
        thread.unseen.clear()
    said = [message for message in caplog.messages if "refused" in message]
    assert said == ["Endpoints refused that no worker dials: service_port=default/web:http endpoints=3"]
