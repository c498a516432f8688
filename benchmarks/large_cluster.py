"""Ours in a cluster with many Services, which it follows at an API server; and changes of endpoints."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks import cluster
from benchmarks.generators import Exchanges, MeasurementError
from benchmarks.peers import Ours
from benchmarks.processes import cpu_seconds, resident_bytes
from benchmarks.testbed import CLIENT_SOURCES, ECHO, Testbed, wait_until
from userspace_proxy.demo.namespaces import Namespace

LIVE_SERVICES: Final = 64
"""So many of the Services have endpoints that answer; the others' are not there."""

_API_PORT: Final = 8001
_CHANGED_PORT: Final = 7008
_CHANGED_LETTER: Final = b"C"
_LIVE_ENDPOINTS: Final = "10.245.0.0/16"  # all of them addresses of the endpoint pod
_START_SECONDS: Final = 60.0
_PROBE_SECONDS: Final = 1.0
_EFFECT_SECONDS: Final = 5.0


class LargeCluster:
    """`services` Services with `endpoints` endpoints each, and ours with `workers` workers to serve them.

    `cores` says where its processes may run; with `is_shared` all workers serve each Service. It ends with
    the testbed.
    """

    def __init__(
        self,
        testbed: Testbed,
        *,
        services: int,
        endpoints: int,
        workers: int,
        cores: str | None = None,
        is_shared: bool = False,
    ) -> None:
        self.testbed = testbed
        self.live = sorted({index * services // LIVE_SERVICES for index in range(LIVE_SERVICES)})
        self._endpoints = endpoints
        self._is_changed = dict.fromkeys(self.live, False)
        self._prepare_endpoints()
        self._start_api_server(services, workers if is_shared else 1)
        kubeconfig = testbed.folder / "kubeconfig"
        kubeconfig.write_text(_KUBECONFIG)
        self.ours = Ours(testbed, workers=workers)
        self.ours.run("--kubeconfig", str(kubeconfig), "--workers", str(workers), cores=cores)
        self.start_seconds = self._await_service()

    @property
    def addresses(self) -> list[str]:
        """Where the live Services are."""
        return [cluster.cluster_ip(number) for number in self.live]

    def connect(self, seconds: float, clients: int, addresses: Sequence[str] = ()) -> Exchanges:
        """A connection per message, to all live Services or to those named; the clients close first."""
        targets = ",".join(addresses or self.addresses)
        arguments = ["connections", targets, str(cluster.SERVICE_PORT), str(seconds), str(clients)]
        sources = ",".join(CLIENT_SOURCES)
        return self.testbed.exchange(str(self.testbed.load), *arguments, sources, seconds=seconds)

    def agent_bytes(self) -> int:
        """The agent's own memory."""
        return resident_bytes(self.ours.processes()[:1])

    def agent_share(self, seconds: float) -> float:
        """Which share of a core the agent takes while nothing happens."""
        agent = self.ours.processes()[:1]
        before = cpu_seconds(agent)
        time.sleep(seconds)
        return (cpu_seconds(agent) - before) / seconds

    def change(self, numbers: Sequence[int]) -> float:
        """All endpoints of these live Services change for others, or back; returns when that was written."""
        slices = []
        for number in numbers:
            self._is_changed[number] = not self._is_changed[number]
            slices.append(self._live_slice(number))
        return float(self._ask("POST", "/changes", json.dumps(slices)))

    def effect_milliseconds(self, numbers: Sequence[int]) -> float:
        """How long after a change is written new connections to all these Services reach the new endpoints.

        As a client sees it, who tries them one after the other: an upper bound, by about a millisecond.
        """
        wanted = [not self._is_changed[number] for number in numbers]
        addresses = [cluster.cluster_ip(number) for number in numbers]

        def watch() -> float:
            deadline = time.monotonic() + _EFFECT_SECONDS
            for address, is_changed in zip(addresses, wanted, strict=True):
                while _reaches_changed(address) is not is_changed:
                    if time.monotonic() > deadline:
                        raise MeasurementError(f"a change of endpoints had no effect at {address}")
            return time.monotonic()

        with ThreadPoolExecutor(1) as thread:
            watching = thread.submit(self.testbed.client.call, watch)
            time.sleep(0.01)  # the watcher is on its way
            written = self.change(numbers)
            return (watching.result() - written) * 1000

    def _live_slice(self, number: int) -> cluster.Object:
        first = self.live.index(number) * self._endpoints
        addresses = [_live_endpoint(first + index) for index in range(self._endpoints)]
        port = _CHANGED_PORT if self._is_changed[number] else ECHO.endpoint_port
        return cluster.endpoint_slice(number, addresses, port)

    def _prepare_endpoints(self) -> None:
        testbed = self.testbed
        testbed.endpoint.ip(f"route add local {_LIVE_ENDPOINTS} dev lo")
        testbed.node.ip(f"route add {_LIVE_ENDPOINTS} via {testbed.endpoint.address}")
        letter = _CHANGED_LETTER.decode()
        testbed.start_endpoint_server(str(testbed.load), "serve", str(_CHANGED_PORT), letter)

    def _start_api_server(self, services: int, workers: int) -> None:
        live = set(self.live)
        objects = {
            "/api/v1/services": [cluster.service(number, workers=workers) for number in range(services)],
            "/apis/discovery.k8s.io/v1/endpointslices": [
                self._live_slice(number)
                if number in live
                else cluster.endpoint_slice(
                    number, cluster.absent_endpoints(number, self._endpoints), ECHO.endpoint_port
                )
                for number in range(services)
            ],
            "/api/v1/nodes": [cluster.node(self.testbed.node.address)],
        }
        file = self.testbed.folder / "objects.json"
        file.write_text(json.dumps(objects))
        script = str(Path(__file__).with_name("api_server.py"))
        testbed = self.testbed
        self._api = testbed.node.popen(
            *("taskset", "-c", testbed.cores.load, sys.executable, script, str(_API_PORT), str(file))
        )
        wait_until(self._is_api_up, seconds=_START_SECONDS, what="the API server's start")

    def _is_api_up(self) -> bool:
        try:
            self._ask("GET", "/first-request")
        except OSError:
            return False
        return True

    def _await_service(self) -> float:
        """Seconds from the first list that was asked for until the last live Service answers."""
        deadline = time.monotonic() + _START_SECONDS
        addresses, testbed = self.addresses, self.testbed

        def watch() -> float:
            for address in reversed(addresses):
                while _reaches_changed(address) is not False:
                    if time.monotonic() > deadline or not self.ours.processes():
                        raise MeasurementError(f"{address} was never served: {testbed.log_end()}")
                    time.sleep(0.005)
            return time.monotonic()

        served = self.testbed.client.call(watch)
        return served - float(self._ask("GET", "/first-request"))

    def _ask(self, method: str, path: str, body: str | None = None) -> str:
        def ask() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", _API_PORT, timeout=30)
            try:
                connection.request(method, path, body)
                return connection.getresponse().read().decode()
            finally:
                connection.close()

        where: Namespace = self.testbed.node
        return where.call(ask)


def _live_endpoint(index: int) -> str:
    return f"10.245.{index // 250}.{index % 250 + 1}"


def _reaches_changed(address: str) -> bool | None:
    """Whether a new connection reaches an endpoint that a change brought; None if it reaches none."""
    try:
        with socket.create_connection((address, cluster.SERVICE_PORT), timeout=_PROBE_SECONDS) as client:
            client.sendall(b"x")
            answer = client.recv(1)
    except OSError:
        return None
    return answer == _CHANGED_LETTER if answer else None


_KUBECONFIG: Final = f"""\
apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: here, user: me}}}}]
clusters: [{{name: here, cluster: {{server: "http://127.0.0.1:{_API_PORT}"}}}}]
users: [{{name: me, user: {{}}}}]
"""
