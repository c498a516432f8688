"""One proxy's own surroundings: a client pod, a node, an endpoint pod, and the servers in it.

Each peer has a testbed for itself, so all of them stand ready while one is measured, and rounds can
alternate. Proxies run on the first core that we may use, clients and endpoints on the others.
"""

from __future__ import annotations

import functools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from benchmarks.generators import Exchanges, MeasurementError, Transfer, read_exchanges, read_transfer
from userspace_proxy.demo.closing import Closing
from userspace_proxy.demo.namespaces import Namespace
from userspace_proxy.demo.node_network import POD_NETWORK, NodeNetwork
from userspace_proxy.errors import StartupError

SERVICE_ADDRESS: Final = "10.96.0.10"
CLIENT_SOURCES: Final = tuple(str(POD_NETWORK[host]) for host in range(96, 128))
"""More addresses of the client pod, so that it does not run out of ports."""

_READY_SECONDS: Final = 20.0
_NODE_SETTINGS: Final = {
    # Thousands of connections a second fill the table of connections (262,144 by default) with dead ones.
    "net.netfilter.nf_conntrack_udp_timeout": "3",
    "net.netfilter.nf_conntrack_udp_timeout_stream": "5",
    "net.netfilter.nf_conntrack_tcp_timeout_time_wait": "2",
    "net.netfilter.nf_conntrack_tcp_timeout_fin_wait": "5",
    "net.netfilter.nf_conntrack_tcp_timeout_last_ack": "5",
    # Endpoints answer by way of the node although clients are on their network; they need no other advice.
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.cni0.send_redirects": "0",
}
_CLIENT_SETTINGS: Final = {"net.ipv4.ip_local_port_range": "1024 65535", "net.ipv4.tcp_tw_reuse": "1"}


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of the Service that all works use, and where it leads."""

    name: str
    protocol: str
    port: int
    endpoint_port: int

    @property
    def proxy_port(self) -> int:
        """Where peers listen that have no agent to choose a port for them."""
        return 20000 + self.port


HTTP: Final = ServicePort("http", "TCP", 80, 8080)
BULK: Final = ServicePort("bulk", "TCP", 5201, 5201)
ECHO: Final = ServicePort("echo", "TCP", 7, 7007)
ECHO_UDP: Final = ServicePort("echo-udp", "UDP", 7, 7007)
DNS: Final = ServicePort("dns", "UDP", 53, 7007)
ECHO_BESIDE: Final = ServicePort("echo-beside", "TCP", 8, 7007)
"""For what is more than one Service port may take of a worker."""
SERVICE_PORTS: Final = (HTTP, BULK, ECHO, ECHO_BESIDE, ECHO_UDP, DNS)


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where, as taskset(1) wants to hear it."""

    proxy: str
    load: str

    @property
    def load_numbers(self) -> set[int]:
        """The same for sched_setaffinity(2)."""
        return set(map(int, self.load.split(",")))


@functools.cache  # whoever asks again may have been pinned meanwhile
def share_cores() -> Cores:
    """The first core for the proxy, the others for the rest; a machine with one has them share it."""
    cores = sorted(os.sched_getaffinity(0))
    return Cores(str(cores[0]), ",".join(map(str, cores[1:] or cores)))


class Testbed(Closing):
    """Namespaces and servers; `close` ends all of it.

    `folder` is for its files, `load` the compiled load.c.
    """

    def __init__(self, name: str, folder: Path, load: Path, cores: Cores) -> None:
        self.name = name
        self.folder = folder
        self.load = load
        self.cores = cores
        folder.mkdir(parents=True)
        self.network = NodeNetwork(prefix=f"{name}-")
        with self.closed_on_failure():
            self.client = self.network.add_pod("client")
            self.endpoint = self.network.add_pod("endpoint")
            self._settle()
            self._start_endpoint_servers()

    @property
    def node(self) -> Namespace:
        """Where the proxy runs."""
        return self.network.node

    def close(self) -> None:
        """Kill everything inside, delete namespaces and files."""
        self.network.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_proxy(
        self, *argv: str, cores: str | None = None, env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a program on the node, on the proxy's core; what it says goes to `proxy.log`."""
        with self.log_file.open("w") as log:
            pinned = ("taskset", "-c", cores or self.cores.proxy, *argv)
            return self.node.popen(*pinned, stdout=log, stderr=log, env=env)

    @property
    def log_file(self) -> Path:
        """What the proxy has said."""
        return self.folder / "proxy.log"

    def log_end(self) -> str:
        """The last that the proxy has said."""
        return self.log_file.read_text(errors="replace")[-2000:] if self.log_file.exists() else ""

    def generate(self, *argv: str, seconds: float) -> str:
        """Run a load generator in the client pod, which is to take about `seconds`, and return its output."""
        try:
            completed = self.client.run(
                "taskset", "-c", self.cores.load, *argv, timeout=seconds + 20, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"{argv[0]} did not come to an end") from error
        if completed.returncode and not completed.stdout.lstrip().startswith("{"):
            raise MeasurementError(f"{Path(argv[0]).name}: {(completed.stderr or completed.stdout).strip()}")
        return completed.stdout

    @contextmanager
    def start_client(self, *argv: str) -> Iterator[subprocess.Popen[str]]:
        """Start a program in the client pod whose input and output are ours; it ends with the block."""
        inside = ["ip", "netns", "exec", self.client.name, "taskset", "-c", self.cores.load]
        with subprocess.Popen(
            [*inside, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:
            try:
                yield client
            finally:
                client.kill()

    def exchange(self, *argv: str, seconds: float) -> Exchanges:
        """Run a generator that prints `Exchanges`."""
        exchanges = read_exchanges(self.generate(*argv, seconds=seconds))
        if not exchanges.done:
            raise MeasurementError(f"{Path(argv[0]).name}: nothing was answered")
        return exchanges

    def transfer(self, *argv: str, seconds: float) -> Transfer:
        """Run a generator that prints a `Transfer`."""
        return read_transfer(self.generate(*argv, seconds=seconds))

    def exchange_load(
        self, mode: str, port: ServicePort, seconds: float, clients: int = 1, sources: str = ""
    ) -> Exchanges:
        """Run load.c against a port of the Service."""
        arguments = [mode, SERVICE_ADDRESS, str(port.port), str(seconds), str(clients)]
        named = sources or ",".join(CLIENT_SOURCES)
        return self.exchange(str(self.load), *arguments, named, seconds=seconds + 2)

    def await_service(self, process: subprocess.Popen[str] | None) -> None:
        """Return once the Service answers the client. Raises StartupError with the end of the proxy's log."""

        def answers() -> bool:
            for port in (ECHO, HTTP):
                probe = f"exec 3<>/dev/tcp/{SERVICE_ADDRESS}/{port.port}"
                message = "printf 'GET / HTTP/1.0\\r\\n\\r\\n%50s' >&3; head -c 12 <&3"
                shown = self.client.run(
                    "timeout", "1", "bash", "-c", f"{probe}; {message}", check=False, timeout=5
                ).stdout
                if not shown:
                    return False
            return True

        deadline = time.monotonic() + _READY_SECONDS
        while not answers():
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                raise StartupError(f"{self.name} did not come to serve. It said:\n{self.log_end()}")
            time.sleep(0.05)

    def _settle(self) -> None:
        for key, value in _NODE_SETTINGS.items():
            self.node.sysctl(key, value)
        for key, value in _CLIENT_SETTINGS.items():
            self.client.sysctl(key, value)
        self.client.ip(*(f"addr add {address}/24 dev eth0" for address in CLIENT_SOURCES))
        # With DNAT answers must pass the node, which turns their source back: by routing, so that it does not
        # depend on whether this machine has bridged packets pass iptables.
        first = IPv4Address(CLIENT_SOURCES[0])
        self.endpoint.ip(
            f"route add {self.client.address}/32 via {POD_NETWORK[1]}",
            f"route add {first}/27 via {POD_NETWORK[1]}",
        )

    def _start_endpoint_servers(self) -> None:
        folder = self.folder / "endpoint"
        folder.mkdir()
        (folder / "nginx.conf").write_text(_ENDPOINT_NGINX.format(folder=folder, port=HTTP.endpoint_port))
        self.start_endpoint_server("nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder))
        self.start_endpoint_server("iperf3", "-s", "-p", str(BULK.endpoint_port))
        echo = self.start_endpoint_server(str(self.load), "serve", str(ECHO.endpoint_port), is_heard=True)
        assert echo.stdout is not None
        readable, _, _ = select.select([echo.stdout], [], [], _READY_SECONDS)
        if not readable or echo.stdout.readline() != "ready\n":
            raise StartupError("the echo server did not start")

    def start_endpoint_server(self, *argv: str, is_heard: bool = False) -> subprocess.Popen[str]:
        """Start a program in the endpoint pod; with `is_heard` its output can be read."""
        return self.endpoint.popen(
            *("taskset", "-c", self.cores.load, *argv),
            stdout=subprocess.PIPE if is_heard else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


_ENDPOINT_NGINX: Final = """\
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 18000;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 17000; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen {port} backlog=4096; location / {{ return 200 "a page of the endpoint\\n"; }} }}
}}
"""


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Ask again and again until `condition()` holds. Raises MeasurementError when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise MeasurementError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


def service_manifests(endpoint: str, node_address: str) -> str:
    """The Service, its slice and the node, as a directory of manifests has them."""
    items: list[dict[str, object]] = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
         "status": {"addresses": [{"type": "InternalIP", "address": node_address}]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bench", "namespace": "default"},
         "spec": {"clusterIP": SERVICE_ADDRESS, "ports": [
             {"name": port.name, "port": port.port, "protocol": port.protocol} for port in SERVICE_PORTS]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
         "metadata": {"name": "bench-1", "namespace": "default",
                      "labels": {"kubernetes.io/service-name": "bench"}},
         "ports": [{"name": port.name, "port": port.endpoint_port, "protocol": port.protocol}
                   for port in SERVICE_PORTS],
         "endpoints": [{"addresses": [endpoint]}]},
    ]  # fmt: skip
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=1)
