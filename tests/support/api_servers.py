"""The API servers that tests run against: the fake one, the demo's, and a real one where there is one.

`KUBEBUILDER_ASSETS` names a folder with `kube-apiserver` and `etcd`, as setup-envtest lays it out. All
are written to over HTTP, so a test says the same to each.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.embedded_api_server import TOKEN, EmbeddedApiServer
from tests.support.fake_api_server import (
    FakeApiServer,
    Object,
    object_path,
    running_in_a_thread,
    write_kubeconfig,
)
from userspace_proxy.demo.api_server.limits import Limits

START_SECONDS = 60

_assets = Path(os.environ.get("KUBEBUILDER_ASSETS", "/nonexistent"))
_has_assets = all((_assets / program).exists() for program in ("kube-apiserver", "etcd"))

API_SERVERS = [
    pytest.param("fake", id="fake"),
    pytest.param("demo", id="demo"),
    pytest.param(
        "kube-apiserver",
        id="kube-apiserver",
        marks=pytest.mark.skipif(
            not _has_assets, reason="KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd"
        ),
    ),
]


@dataclass(frozen=True)
class RunningApiServer:
    """Where a server is, and how to write to it."""

    url: str
    kubeconfig: Path

    def apply(self, *items: Object) -> None:
        """Create or change objects (server-side apply)."""
        for item in items:
            self._send("PATCH", f"{object_path(item)}?fieldManager=tests&force=true", item)

    def delete(self, item: Object) -> None:
        self._send("DELETE", object_path(item))

    def _send(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        content_type: str = "application/apply-patch+yaml",
    ) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": content_type}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as response:
                response.read()
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error


class DemoApiServer(RunningApiServer):
    """The demo's own, which does no server-side apply: what is there is replaced."""

    def apply(self, *items: Object) -> None:
        for item in items:
            path = object_path(item)
            try:
                self._send("PUT", path, item, content_type="application/json")
            except AssertionError:
                self._send("POST", path.rpartition("/")[0], item, content_type="application/json")


@contextlib.contextmanager
def running_api_server(which: str, directory: Path) -> Iterator[RunningApiServer]:
    """One of `API_SERVERS`, empty; `directory` is for its files."""
    kubeconfig = directory / "kubeconfig"
    if which == "fake":
        with running_in_a_thread(FakeApiServer(bookmark_seconds=0.2)) as fake:
            fake.tokens = {TOKEN}
            yield RunningApiServer(fake.url, write_kubeconfig(kubeconfig, fake.url, token=TOKEN))
        return
    if which == "demo":
        with EmbeddedApiServer(directory, limits=Limits(bookmark_seconds=0.2)) as demo:
            yield DemoApiServer(demo.url, demo.kubeconfig)
        return
    with contextlib.ExitStack() as stack:
        etcd = f"http://127.0.0.1:{_free_port()}"
        stack.enter_context(_running(directory / "etcd.log", *_etcd_command(etcd, directory)))
        port = _free_port()
        command = _kube_apiserver_command(etcd, port, directory)
        stack.enter_context(_running(directory / "kube-apiserver.log", *command))
        url = f"https://127.0.0.1:{port}"
        write_kubeconfig(kubeconfig, url, cluster={"insecure-skip-tls-verify": True}, token=TOKEN)
        server = RunningApiServer(url, kubeconfig)
        _wait_until_ready(server, directory / "kube-apiserver.log")
        yield server


def _etcd_command(url: str, directory: Path) -> list[str]:
    peer = f"http://127.0.0.1:{_free_port()}"
    return [
        str(_assets / "etcd"),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]


def _kube_apiserver_command(etcd: str, port: int, directory: Path) -> list[str]:
    key = directory / "service-account.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    tokens = directory / "tokens.csv"
    tokens.write_text(f"{TOKEN},tests,tests,system:masters\n")
    return [
        str(_assets / "kube-apiserver"),
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={port}",
        f"--cert-dir={directory / 'certificates'}",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--token-auth-file={tokens}",
        "--authorization-mode=AlwaysAllow",
        "--disable-admission-plugins=ServiceAccount",
    ]


@contextlib.contextmanager
def _running(log: Path, *command: str) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(server: RunningApiServer, log: Path) -> None:
    """Ready for objects: the namespace that they go to is there."""
    deadline = time.monotonic() + START_SECONDS
    request = urllib.request.Request(
        f"{server.url}/api/v1/namespaces/default", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5, context=ssl._create_unverified_context()):
                return
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if time.monotonic() > deadline:
                raise AssertionError(f"kube-apiserver did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
