"""An API server with a large cluster: as much of one as lists and a watch need, and quick.

`python api_server.py PORT OBJECTS`: OBJECTS is a JSON file of lists by collection path. What is POSTed to
/changes, a JSON array of EndpointSlices, is one write of MODIFIED events to whoever watches; the answer is
when that was, in seconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


class ApiServer:
    """Lists in pages, and a watch of slices."""

    def __init__(self, objects: dict[str, list[dict[str, Any]]]) -> None:
        self._items = {path: [json.dumps(item).encode() for item in items] for path, items in objects.items()}
        self._versions = itertools.count(2)
        self._watches: set[web.StreamResponse] = set()
        self._first_request = 0.0

    async def get(self, request: web.Request) -> web.StreamResponse:
        """A page of a list, or a watch that lasts until somebody hangs up."""
        self._first_request = self._first_request or time.monotonic()
        if request.query.get("watch") == "true":
            return await self._watch(request)
        items = self._items.get(request.path, [])
        first, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or len(items))
        more = f',"continue":"{first + limit}"' if first + limit < len(items) else ""
        page = b",".join(items[first : first + limit])
        body = b'{"metadata":{"resourceVersion":"1"%s},"items":[%s]}' % (more.encode(), page)
        return web.Response(body=body, content_type="application/json")

    async def first_request(self, _request: web.Request) -> web.Response:
        """When somebody first asked for a list; 0 before."""
        return web.json_response(self._first_request)

    async def change(self, request: web.Request) -> web.Response:
        """Tell who watches slices, in one write each."""
        events = []
        for item in await request.json():
            item["metadata"]["resourceVersion"] = str(next(self._versions))
            events.append(json.dumps({"type": "MODIFIED", "object": item}).encode() + b"\n")
        written = time.monotonic()
        for watch in self._watches:
            await watch.write(b"".join(events))
        return web.json_response(written)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        if request.path == SLICES:
            self._watches.add(response)
        try:
            await asyncio.Event().wait()
        finally:
            self._watches.discard(response)
        return response


async def main(port: int, objects: dict[str, list[dict[str, Any]]]) -> None:
    """Serve until killed."""
    server = ApiServer(objects)
    application = web.Application(client_max_size=1 << 28)
    application.router.add_post("/changes", server.change)
    application.router.add_get("/first-request", server.first_request)
    application.router.add_get("/{path:.*}", server.get)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_bytes())))
