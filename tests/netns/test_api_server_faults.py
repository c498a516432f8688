"""Everything that an API server can do to an agent, while traffic runs: no connection fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.support import objects
from tests.support.clients import greeting, sockets, who_greets
from tests.support.cluster_objects import manifest_of
from tests.support.faulty_api_server import API_FAULTS, FaultyApiServer, running_faulty_api_server
from tests.support.service_node import ServedService, ServiceNode
from tests.support.waiting import wait_until

MANY = 10_000
CONVERGED_SECONDS = 90.0
MANY_CONNECTIONS_SECONDS = 120.0


class Traffic:
    """One connection after the other; how long each took to be greeted, and every failure."""

    def __init__(self, node: ServiceNode, service: ServedService) -> None:
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self._node, self._service = node, service
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                [client] = sockets(self._node.client, 1)
                with client:
                    client.connect(self._service["greet"])
                    greeting(client)
            except OSError as error:
                self.failures.append(repr(error))
            self.seconds.append(time.monotonic() - began)
            time.sleep(0.002)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(1) as thread:
            job: Future[None] = thread.submit(self.run)
            try:
                yield
            finally:
                self._ended.set()
            job.result()

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        p50, p99 = (ordered[int(len(ordered) * share)] * 1e3 for share in (0.5, 0.99))
        return f"{len(ordered)} connections, {len(self.failures)} failed, p50 {p50:.1f} ms, p99 {p99:.1f} ms"


@contextmanager
def serving(tmp_path: Path) -> Iterator[tuple[FaultyApiServer, ServiceNode]]:
    with (
        running_faulty_api_server(tmp_path) as (server, cluster),
        ServiceNode(tmp_path, cluster=cluster) as node,
        cluster.reachable_inside(node.node),
    ):
        node.agent.start()
        yield server, node


def test_traffic_runs_through_every_fault_and_what_is_newest_counts_after_it(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, node):
        service = node.serve("greet")
        traffic = Traffic(node, service)

        def was_asked_since(count: int) -> bool:
            return len(server.requests) > count + 1

        def all_meet(names: set[str]) -> bool:
            return set(who_greets(node.client, service["greet"], 3)) == names

        with traffic.running():
            for number, (name, fault) in enumerate(API_FAULTS.items()):
                server.do(partial(setattr, server, "fault", fault))
                server.do(server.end_watches)
                wait_until(partial(was_asked_since, len(server.requests)), CONVERGED_SECONDS)
                # Meanwhile the endpoints change, and nobody can hear of it.
                chosen = node.endpoints[number % 3]
                node.set_endpoints(service, [chosen.address])
                server.do(partial(setattr, server, "fault", None))
                took = wait_until(partial(all_meet, {chosen.name}), CONVERGED_SECONDS)
                print(f"{name}: {took:.1f} s after it")
            # A restore: everything is as it was before, and the version goes back.
            backup = server.do(server.back_up)
            for _ in range(5):
                node.set_endpoints(service, node.endpoint_addresses[1:])
            wait_until(lambda: len(set(who_greets(node.client, service["greet"], 3))) == 2)
            server.do(lambda: server.restore(backup))
            server.do(server.end_watches)
            took = wait_until(partial(all_meet, {node.endpoints[2].name}), CONVERGED_SECONDS)
            print(f"restored: {took:.1f} s after it")
        print(f"faults of the API server: {traffic}")
        assert traffic.failures == []
        assert node.agent.is_running


def test_traffic_runs_through_a_relist_of_ten_thousand_objects(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, node):
        service = node.serve("greet")
        many = [
            manifest_of(
                objects.endpoint_slice(
                    f"many-{number}",
                    of=f"many-{number % 1000}",
                    endpoints=[f"10.200.{number // 250}.{number % 250}"],
                )
            )
            for number in range(MANY)
        ]
        server.do(lambda: server.apply(*many))
        quiet = Traffic(node, service)
        with quiet.running():
            wait_until(lambda: len(quiet.seconds) > 300, MANY_CONNECTIONS_SECONDS)
        traffic = Traffic(node, service)
        with traffic.running():
            before = len(server.requests)
            server.do(server.expire_watches)
            wait_until(
                lambda: sum("continue" in query for _, query in server.requests[before:]) >= MANY // 500,
                CONVERGED_SECONDS,
            )
            node.set_endpoints(service, [node.endpoints[1].address])
            took = wait_until(
                lambda: set(who_greets(node.client, service["greet"], 3)) == {node.endpoints[1].name},
                CONVERGED_SECONDS,
            )
            wait_until(lambda: len(traffic.seconds) > 300, MANY_CONNECTIONS_SECONDS)
        print(f"without a relist: {quiet}")
        print(f"with a relist of {MANY}: {traffic}; the next change took {took:.2f} s")
        assert traffic.failures == []
