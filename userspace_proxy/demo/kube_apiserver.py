"""A real kube-apiserver with etcd, where they are installed, in the place of the demo's own API server.

They run on `control-plane`. Sockets that listen elsewhere, as that on the machine's loopback, are relayed
there. Source: https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from userspace_proxy.demo.sandbox import Sandbox
from userspace_proxy.errors import StartupError

ASSETS: Final = "KUBEBUILDER_ASSETS"
"""The variable that names a folder with both programs, as setup-envtest has it; else they are on PATH."""

_ETCD: Final = "http://127.0.0.1:2379"
_ETCD_PEERS: Final = "http://127.0.0.1:2380"
_CONNECT_SECONDS: Final = 10.0
_END_SECONDS: Final = 5.0
_CHUNK_BYTES: Final = 65536
_LOG_END_LINES: Final = 10


def find_programs() -> tuple[str, str]:
    """Where etcd and kube-apiserver are. Raises `StartupError` if one is missing."""
    found = [shutil.which(name, path=os.environ.get(ASSETS)) for name in ("etcd", "kube-apiserver")]
    etcd, kube_apiserver = found
    if etcd is None or kube_apiserver is None:
        missing = " and ".join(
            name for name, path in zip(("etcd", "kube-apiserver"), found, strict=True) if path is None
        )
        raise StartupError(
            f"--apiserver kube-apiserver: {missing} cannot be found: put them on PATH, or name their folder "
            f"by {ASSETS}. The embedded API server needs neither"
        )
    return etcd, kube_apiserver


class KubeApiServer:
    """Both programs, from `start` to `close`; `has_ended` says why it does not serve any more.

    `certificate` is a file with certificate and key, `data` etcd's folder. `sockets` listen already, and what
    comes there is relayed; they are ours from now on. The server itself writes the endpoints of its Service.
    """

    def __init__(
        self,
        machine: Sandbox,
        *,
        addresses: Sequence[str],
        port: int,
        sockets: Sequence[socket.socket],
        certificate: Path,
        token: str,
        service_cidrs: Sequence[str],
        data: Path,
        private: Path,
        logs: Path,
    ) -> None:
        self._machine = machine
        self._addresses = addresses
        self._port = port
        self._sockets = sockets
        self._certificate = certificate
        self._token = token
        self._service_cidrs = service_cidrs
        self._data = data
        self._private = private
        self._logs = logs
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._relays: list[asyncio.Server] = []
        self._relayed: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start both; they take some seconds until they answer. Raises `StartupError`."""
        etcd, kube_apiserver = find_programs()
        tokens = self._private / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f"{self._token},admin,admin,system:masters\n")
        commands = {
            "etcd": [
                etcd,
                f"--data-dir={self._data}",
                f"--listen-client-urls={_ETCD}",
                f"--advertise-client-urls={_ETCD}",
                f"--listen-peer-urls={_ETCD_PEERS}",
                f"--initial-advertise-peer-urls={_ETCD_PEERS}",
                f"--initial-cluster=default={_ETCD_PEERS}",
                "--unsafe-no-fsync",
            ],
            "kube-apiserver": [
                kube_apiserver,
                f"--etcd-servers={_ETCD}",
                f"--bind-address={'::' if len(self._addresses) > 1 else '0.0.0.0'}",
                f"--advertise-address={self._addresses[0]}",
                f"--secure-port={self._port}",
                f"--tls-cert-file={self._certificate}",
                f"--tls-private-key-file={self._certificate}",
                f"--service-account-key-file={self._certificate}",
                f"--service-account-signing-key-file={self._certificate}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-cluster-ip-range={','.join(self._service_cidrs)}",
                f"--token-auth-file={tokens}",
                "--authorization-mode=AlwaysAllow",
                "--disable-admission-plugins=ServiceAccount",
            ],
        }
        for name, command in commands.items():
            with (self._logs / f"{name}.log").open("a") as log:
                self._processes[name] = self._machine.popen(*command, stdout=log, stderr=log)
        for listening in self._sockets:
            self._relays.append(await asyncio.start_server(self._relay, sock=listening))

    def has_ended(self) -> str | None:
        """In a sentence, with the end of its log, if one of both runs no more."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                end = (self._logs / f"{name}.log").read_text(errors="replace").splitlines()[-_LOG_END_LINES:]
                return "\n".join((f"{name} has ended with {process.returncode}. Its log ends:", *end))
        return None

    async def close(self) -> None:
        """End both, kube-apiserver first. Safe to repeat."""
        for relay in self._relays:
            relay.close()
        for task in self._relayed:
            task.cancel()
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, _END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relayed.add(task)
        try:
            connection = await asyncio.to_thread(
                self._machine.connect, self._addresses[0], self._port, _CONNECT_SECONDS
            )
            there_reader, there_writer = await asyncio.open_connection(sock=connection)
            try:
                await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
            finally:
                there_writer.close()
        except OSError:
            pass  # it does not listen yet, or one side has left: who asked sees the end, and asks again
        finally:
            writer.close()
            self._relayed.discard(task)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()
