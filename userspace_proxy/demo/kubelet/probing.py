"""Asks a container whether it is well, once, from the node, as a kubelet does. Source: "Container probes"."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from userspace_proxy.demo.isolation import set_network_namespace
from userspace_proxy.demo.kubelet.pod_http import PROBE_AGENT
from userspace_proxy.demo.kubelet.pod_network import PodSandbox
from userspace_proxy.demo.kubelet.pod_spec import Container, HttpGet, Probe
from userspace_proxy.demo.kubelet.processes import Execute, Processes

_MOST_STATUS_LINE_BYTES: Final = 4096
_SHOWN_OUTPUT_CHARACTERS: Final = 512


class Prober:
    """Probes from the network namespace of `namespace_path`; `close` it in the end.

    Sockets are made by a thread that lives there and are then used here: a socket stays where it was made.
    """

    def __init__(self, namespace_path: Path, processes: Processes) -> None:
        self._processes = processes
        self._inside = ThreadPoolExecutor(
            1, "node-sockets", initializer=set_network_namespace, initargs=(namespace_path,)
        )

    def close(self) -> None:
        self._inside.shutdown(wait=False, cancel_futures=True)

    async def probe(
        self,
        probe: Probe,
        container: Container,
        address: str,
        sandbox: PodSandbox,
        env: Mapping[str, str],
    ) -> str | None:
        """None if it is well, else why not. `address` is the pod's."""
        try:
            async with asyncio.timeout(probe.timeout_seconds):
                if probe.exec is not None:
                    return await self._execute(probe, sandbox, env)
                if probe.http_get is not None:
                    return await self._http_get(probe.http_get, container, address)
                if probe.tcp_socket is not None:
                    host = probe.tcp_socket.host or address
                    async with self._connected(container, host, probe.tcp_socket.port):
                        return None
                return None  # what it asks for is not supported, and an event says so
        except TimeoutError:
            return f"no answer within {probe.timeout_seconds} s"
        except OSError as error:
            return os.strerror(error.errno).lower() if error.errno else str(error)

    async def _execute(self, probe: Probe, sandbox: PodSandbox, env: Mapping[str, str]) -> str | None:
        assert probe.exec is not None
        command = Execute(sandbox.entering(probe.exec.command), env)
        status, said = await self._processes.run(command, probe.timeout_seconds)
        if status == 0:
            return None
        return said.strip()[:_SHOWN_OUTPUT_CHARACTERS] or f"the command ended with status {status}"

    async def _http_get(self, asked: HttpGet, container: Container, address: str) -> str | None:
        host = asked.host or address
        loop = asyncio.get_running_loop()
        async with self._connected(container, host, asked.port) as stream:
            named = [header for header in asked.http_headers if header.name.lower() != "host"]
            own_host = [header.value for header in asked.http_headers if header.name.lower() == "host"]
            spelled = f"[{host}]" if ":" in host else host
            lines = [
                f"GET /{asked.path.lstrip('/')} HTTP/1.1",
                f"Host: {own_host[0] if own_host else spelled}",
                f"User-Agent: {PROBE_AGENT}userspace-proxy",
                "Accept: */*",
                "Connection: close",
                *(f"{header.name}: {header.value}" for header in named),
            ]
            await loop.sock_sendall(stream, ("\r\n".join(lines) + "\r\n\r\n").encode())
            answer = b""
            while b"\r\n" not in answer and len(answer) < _MOST_STATUS_LINE_BYTES:
                data = await loop.sock_recv(stream, _MOST_STATUS_LINE_BYTES)
                if not data:
                    break
                answer += data
        words = answer.split(b"\r\n")[0].decode("latin-1").split(" ")
        if not words[0].startswith("HTTP/") or len(words) < 2 or not words[1].isdecimal():
            return "the answer is not HTTP"
        return None if 200 <= int(words[1]) < 400 else f"HTTP probe failed with statuscode: {words[1]}"

    @asynccontextmanager
    async def _connected(
        self, container: Container, host: str, port: int | str
    ) -> AsyncIterator[socket.socket]:
        number = container.port_number(port)
        if number is None:
            raise OSError(f"container {container.name} has no port named {port!r}")
        try:
            is_v6 = ip_address(host).version == 6
        except ValueError as error:
            raise OSError(f"host {host!r} is no IP address") from error
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if is_v6 else socket.AF_INET
        stream = await loop.run_in_executor(self._inside, socket.socket, family, socket.SOCK_STREAM)
        with stream:
            stream.setblocking(False)
            await loop.sock_connect(stream, (host, number))
            yield stream
