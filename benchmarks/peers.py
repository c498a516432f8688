"""What is measured: proxies, each started as an operator would, and given the same traffic by iptables."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Final

from benchmarks.kube_proxy import KubeProxy
from benchmarks.peer import Peer
from benchmarks.testbed import Testbed, service_manifests
from userspace_proxy.errors import StartupError

_STREAM_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
REPOSITORY: Final = Path(__file__).parents[1]


class Ours(Peer):
    """The agent with one worker. `tree` is a copy of the repository; by default this one."""

    name = "ours"
    title = "userspace-proxy"

    def __init__(self, testbed: Testbed, *, tree: Path = REPOSITORY, workers: int = 1) -> None:
        super().__init__(testbed)
        self._tree = tree
        self._workers = workers

    def launch(self) -> None:
        manifests = self.testbed.folder / "manifests"
        manifests.mkdir()
        endpoint = self.testbed.endpoint.address
        manifest = service_manifests(endpoint, self.testbed.node.address)
        (manifests / "bench.json").write_text(manifest)
        self.run("--manifests", str(manifests), "--workers", str(self._workers))

    def run(self, *flags: str, cores: str | None = None) -> None:
        """Start the agent with these flags."""
        inside = ("env", "-C", str(self._tree), f"PYTHONPATH={self._tree}", sys.executable)
        command = ("-m", "userspace_proxy", "run", "--hostname-override", "node-1", *flags)
        self.process = self.testbed.start_proxy(*inside, *command, cores=cores)

    def workers(self) -> list[int]:
        """The processes that carry connections; the one that waits for one of them to die is the last."""
        return [pid for pid in self.processes() if b"worker_process" in _command_line(pid)]


class Nginx(Peer):
    """nginx's stream module, one worker."""

    name = "nginx"
    title = "nginx stream"
    programs: ClassVar = {"nginx": "nginx-light libnginx-mod-stream"}
    dns_options: ClassVar = "proxy_responses 1; proxy_timeout 10s;"
    """A query's session ends with its answer, as one would configure it."""

    def launch(self) -> None:
        if not (_STREAM_MODULE.exists() or "--with-stream " in self._build_options()):
            raise StartupError(
                "nginx has no stream module; install it with: apt-get install libnginx-mod-stream"
            )
        folder, endpoint = self.testbed.folder, self.testbed.endpoint.address
        lines = [
            "daemon off; user root; worker_processes 1; worker_rlimit_nofile 18000;",
            f"pid {folder}/nginx.pid; error_log {folder}/error.log crit;",
            f"load_module {_STREAM_MODULE};" if _STREAM_MODULE.exists() else "",
            "events { worker_connections 17000; }",
            "stream {",
            "  proxy_timeout 1h;",
        ]
        for port in self.ports():
            listen = f"{port.proxy_port} udp" if port.protocol == "UDP" else f"{port.proxy_port} backlog=4096"
            options = ""
            if port.protocol == "UDP":
                options = self.dns_options if port.name == "dns" else "proxy_timeout 30s;"
            lines.append(
                f"  server {{ listen {listen}; {options} proxy_pass {endpoint}:{port.endpoint_port}; }}"
            )
        (folder / "nginx.conf").write_text("\n".join([*lines, "}"]))
        self.process = self.testbed.start_proxy("nginx", "-c", f"{folder}/nginx.conf", "-p", str(folder))
        self.capture()

    @staticmethod
    def _build_options() -> str:
        return subprocess.run(["nginx", "-V"], capture_output=True, text=True, timeout=10).stderr + " "


class NginxByDefault(Nginx):
    """The same where nobody says how many answers a query has: its session, and the descriptor, stay until
    the timeout. That is 10 s here; by default it is ten minutes, and nginx would stand still after the first
    8,500 queries.
    """

    name = "nginx-default"
    title = "nginx stream by default"
    is_for_udp_alone = True
    dns_options = "proxy_timeout 10s;"


class HAProxy(Peer):
    """HAProxy in TCP mode, one thread, splicing where it thinks fit."""

    name = "haproxy"
    title = "HAProxy"
    carries_udp = False
    programs: ClassVar = {"haproxy": "haproxy"}

    def launch(self) -> None:
        limit = min(9000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 300)
        lines = [
            f"global\n  nbthread 1\n  maxconn {limit}\n  maxpipes 100",
            f"defaults\n  mode tcp\n  option splice-auto\n  maxconn {limit}",
            "  timeout connect 5s\n  timeout client 1h\n  timeout server 1h",
        ]
        for port in self.ports():
            server = f"{self.testbed.endpoint.address}:{port.endpoint_port}"
            lines.append(
                f"listen {port.name}\n  bind :{port.proxy_port} backlog 4096\n  server endpoint {server}"
            )
        configuration = self.testbed.folder / "haproxy.cfg"
        configuration.write_text("\n".join([*lines, ""]))
        self.process = self.testbed.start_proxy("haproxy", "-db", "-f", str(configuration))
        self.capture()


class Kernel(Peer):
    """No proxy at all: DNAT by the kernel, as kube-proxy's iptables mode does it. The limit."""

    name = "kernel"
    title = "kernel DNAT"

    def launch(self) -> None:
        for port in self.ports():
            endpoint = f"{self.testbed.endpoint.address}:{port.endpoint_port}"
            self.append_rule("PREROUTING", port, f"-j DNAT --to-destination {endpoint}")


class AsyncioStreams(Peer):
    """Forty lines with asyncio's streams."""

    name = "asyncio"
    title = "asyncio streams"
    carries_udp = False

    def launch(self) -> None:
        endpoint = self.testbed.endpoint.address
        arguments = [f"{port.proxy_port}={endpoint}:{port.endpoint_port}" for port in self.ports()]
        script = str(Path(__file__).with_name("asyncio_streams.py"))
        self.process = self.testbed.start_proxy(sys.executable, script, *arguments)
        self.capture()


PEERS: Final[dict[str, type[Peer]]] = {
    peer.name: peer for peer in (Ours, Kernel, KubeProxy, Nginx, NginxByDefault, HAProxy, AsyncioStreams)
}


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
