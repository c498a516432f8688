"""Where the agent under test gets its objects from: a directory of manifests, or an API server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from tests.support.api_servers import RunningApiServer
from userspace_proxy.core.objects import ApiObject, Kind, kind_of
from userspace_proxy.demo.namespaces import Namespace

_API_VERSIONS = {Kind.SERVICE: "v1", Kind.NODE: "v1", Kind.ENDPOINT_SLICE: "discovery.k8s.io/v1"}


class ClusterObjects(Protocol):
    """A cluster's objects, as a test writes them. `flags` lead `userspace-proxy run` there."""

    flags: tuple[str, ...]

    def apply(self, *items: ApiObject) -> None:
        """Create or replace."""

    def delete(self, *items: ApiObject) -> None: ...


class ManifestDirectory:
    """A file an object. A write is a rename, so no reader sees half of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.flags: tuple[str, ...] = ("--manifests", str(directory))
        directory.mkdir()

    def apply(self, *items: ApiObject) -> None:
        for item in items:
            self.write(self.file_of(item).name, json.dumps(manifest_of(item), indent=2))

    def delete(self, *items: ApiObject) -> None:
        for item in items:
            self.file_of(item).unlink()

    def write(self, name: str, text: str) -> Path:
        """Write any text at all as the file `name`."""
        unfinished = self.directory / f".{name}"
        unfinished.write_text(text)
        return unfinished.rename(self.directory / name)

    def file_of(self, item: ApiObject) -> Path:
        return self.directory / f"{kind_of(item).value}-{item.metadata.name}.json"


class ApiServerObjects:
    """An API server on this process's loopback. `reachable_inside` lets the agent get there too."""

    def __init__(self, server: RunningApiServer) -> None:
        self._server = server
        self.flags: tuple[str, ...] = ("--kubeconfig", str(server.kubeconfig))

    def apply(self, *items: ApiObject) -> None:
        self._server.apply(*(manifest_of(item) for item in items))

    def delete(self, *items: ApiObject) -> None:
        for item in items:
            self._server.delete(manifest_of(item))

    @contextmanager
    def reachable_inside(self, namespace: Namespace) -> Iterator[None]:
        """Carry what is sent to the server's port on loopback inside `namespace` to the server.

        At the end its connections are cut, as if the server had died.
        """
        port = urlsplit(self._server.url).port
        assert port is not None
        ends: list[socket.socket] = []
        with ExitStack() as stack:
            listening = stack.enter_context(
                namespace.call(lambda: socket.create_server(("127.0.0.1", port), backlog=64))
            )

            def accept() -> None:
                with suppress(OSError):
                    while True:
                        client = stack.enter_context(listening.accept()[0])
                        server = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                        ends.extend((client, server))
                        for source, target in ((client, server), (server, client)):
                            start(copy, source, target)

            def start(work: Callable[..., None], *arguments: socket.socket) -> None:
                thread = threading.Thread(target=work, args=arguments)
                threads.append(thread)
                thread.start()

            threads: list[threading.Thread] = []
            start(accept)
            try:
                yield
            finally:
                listening.shutdown(socket.SHUT_RDWR)
                threads[0].join()
                for end in ends:
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                for thread in threads:
                    thread.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Everything, and then the end."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def manifest_of(item: ApiObject) -> dict[str, Any]:
    """What `kubectl get -o json` would print."""
    kind = kind_of(item)
    return {"apiVersion": _API_VERSIONS[kind], "kind": kind.value, **msgspec.to_builtins(item)}
