"""The demo's API server on loopback, in a thread with a loop of its own, and kubectl speaking to it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import pytest

from userspace_proxy.demo.api_server import ApiServer, LogRequest, PodLogs, PodLogsError
from userspace_proxy.demo.api_server.certificates import Certificates
from userspace_proxy.demo.api_server.kubeconfig import write_kubeconfig
from userspace_proxy.demo.api_server.limits import Limits

TOKEN = "token-of-the-tests"
DUAL_STACK = ("10.96.0.0/16", "fd00:10:96::/112")
LIMITS = Limits()
SECONDS = 60.0


async def lines_of_a_log(namespace: str, name: str, asked: LogRequest) -> AsyncIterator[bytes]:
    """Three lines for any container of this life; there is no earlier one."""
    if asked.previous:
        raise PodLogsError(f'previous terminated container "{asked.container}" in pod "{name}" not found')
    lines = [f"{namespace}/{name}/{asked.container} says {number}\n".encode() for number in (1, 2, 3)]
    for line in lines if asked.tail_lines is None else lines[len(lines) - asked.tail_lines :]:
        yield line


class EmbeddedApiServer:
    """Serves at `url` within a `with` block; `folder` keeps its database, certificate and kubeconfig."""

    def __init__(
        self,
        folder: Path,
        *,
        service_cidrs: Sequence[str] = DUAL_STACK,
        pod_logs: PodLogs = lines_of_a_log,
        limits: Limits = LIMITS,
    ) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self.certificates = Certificates.make(["127.0.0.1"])
        self._service_cidrs = service_cidrs
        self._pod_logs = pod_logs
        self._limits = limits
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="API server")
        self.url = ""

    def __enter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        authority = self.certificates.authority
        write_kubeconfig(self.kubeconfig, server=self.url, authority=authority, token=TOKEN)
        self._server = ApiServer(
            database=self.folder / "cluster.sqlite",
            sockets=[listening],
            tls=self.certificates.server_context(self.folder),
            token=TOKEN,
            service_cidrs=self._service_cidrs,
            pod_logs=self._pod_logs,
            limits=self._limits,
            chance=random.Random(1),
        )
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(SECONDS)
        return self

    def __exit__(self, *exception: object) -> None:
        with closing(self._loop):
            try:
                asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(SECONDS)
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join(SECONDS)

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """kubectl's argv and environment. It writes nowhere but into `folder`."""
        program = shutil.which("kubectl")
        if program is None:
            pytest.skip("kubectl is not installed")
        home = {"HOME": str(self.folder), "KUBECACHEDIR": str(self.folder / "cache")}
        return [program, *arguments], {**os.environ, **home, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *arguments: str, stdin: str = "", fails: bool = False) -> str:
        """What kubectl prints; with `fails`, what it complains of as it ends with status 1."""
        argv, environment = self.command(*arguments)
        done = subprocess.run(
            argv, env=environment, input=stdin, capture_output=True, text=True, timeout=SECONDS
        )
        assert (done.returncode == 1) is fails, f"{argv}: {done.stdout}{done.stderr}"
        return (done.stderr if fails else done.stdout).strip()

    def get(self, *what: str) -> Any:
        """An object, or a list, as `kubectl get -o json` has it."""
        return json.loads(self.kubectl("get", *what, "-o", "json"))
