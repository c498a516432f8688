"""An API server that misbehaves when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.api_servers import RunningApiServer
from tests.support.cluster_objects import ApiServerObjects
from tests.support.fake_api_server import (
    EXPIRED,
    ApiStatusError,
    FakeApiServer,
    running_in_a_thread,
    write_kubeconfig,
)


class FaultyApiServer(FakeApiServer):
    """Answers as `fault` says while there is one; told from any thread."""

    fault: Callable[[], web.Response] | None = None

    async def list_objects(self, kind: str, request: web.Request) -> web.StreamResponse:
        return self.fault() if self.fault else await super().list_objects(kind, request)

    async def watch_objects(self, kind: str, request: web.Request) -> web.StreamResponse:
        return self.fault() if self.fault else await super().watch_objects(kind, request)

    def expire_watches(self) -> None:
        """End all watches, whose versions are then too old to go on from."""
        self.tick()
        self.compact()
        self.end_watches()

    def do(self, work: Callable[[], Any]) -> Any:
        """Call something in the server's own thread."""

        async def call() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(30)

    async def __aenter__(self) -> FaultyApiServer:
        self.loop = asyncio.get_running_loop()
        await super().__aenter__()
        return self


def _refusal(code: int, headers: dict[str, str] | None = None) -> Callable[[], web.Response]:
    def answer() -> web.Response:
        raise ApiStatusError(code, "Fault", "not now", headers)

    return answer


def _expired() -> web.Response:
    raise EXPIRED


API_FAULTS: dict[str, Callable[[], web.Response]] = {
    "429": _refusal(429, {"Retry-After": "1"}),
    "410": _expired,
    "truncated": lambda: web.Response(text='{"metadata": {"resourceVersion": "9"}, "items": [{"metad'),
}
"""Of each sort one; `tests/sources` has them all."""


@contextmanager
def running_faulty_api_server(folder: Path) -> Iterator[tuple[FaultyApiServer, ApiServerObjects]]:
    """One in a thread, and what writes to it; `folder` is for its kubeconfig."""
    with running_in_a_thread(FaultyApiServer(bookmark_seconds=0.5)) as server:
        assert isinstance(server, FaultyApiServer)
        running = RunningApiServer(server.url, write_kubeconfig(folder / "kubeconfig", server.url))
        yield server, ApiServerObjects(running)
