"""The page's server: files, events, a Service's details, and actions, below a path that is secret."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import yaml
from aiohttp import web

from userspace_proxy.demo.api_client import ApiClient, ApiError
from userspace_proxy.demo.api_resources import SERVICES
from userspace_proxy.demo.cluster_network import ClusterNetwork
from userspace_proxy.demo.web.actions import Actions, Scale, Sending, Switch
from userspace_proxy.demo.web.admission import HEADERS, NAME, is_secret, refusal
from userspace_proxy.demo.web.agent_answers import AgentAnswers
from userspace_proxy.demo.web.audience import Viewer
from userspace_proxy.demo.web.live import Live
from userspace_proxy.demo.web.load import CLIENT, Load
from userspace_proxy.errors import UsageError

_STATIC: Final = Path(__file__).with_name("static")
_MEDIA_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_BODY_BYTES: Final = 4096
_WRITE_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 1.0

_Wanted = TypeVar("_Wanted")


class Site:
    """Serves on `listening`, a socket of the machine's loopback, which it owns from now on."""

    def __init__(self, listening: socket.socket, network: ClusterNetwork) -> None:
        self._listening = listening
        self._network = network
        self._port = listening.getsockname()[1]
        self._secret = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """Where the page is. Who knows it may do all that the page can."""
        return f"http://127.0.0.1:{self._port}/{self._secret}/"

    async def run(self, client: ApiClient) -> None:
        """Serve until cancelled."""
        load = Load(lambda: self._network.places().get(CLIENT))
        answers = AgentAnswers({node.name: node.sandbox.path for node in self._network.nodes.values()})
        self._client, self._answers = client, answers
        self._live = Live(client, answers, load)
        runner = web.AppRunner(
            self._application(Actions(client, load)),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_CLOSE_SECONDS,
        )
        await runner.setup()
        try:
            await web.SockSite(runner, self._listening).start()
            await self._live.run()
        finally:
            await runner.cleanup()

    def _application(self, actions: Actions) -> web.Application:
        app = web.Application(client_max_size=_BODY_BYTES, middlewares=[self._admit])
        named = f"{{namespace:{NAME}}}/{{name:{NAME}}}"
        pod, deployment = f"/{{secret}}/pods/{named}", f"/{{secret}}/deployments/{named}"
        app.add_routes(
            [
                web.get("/{secret}/events", self._events),
                web.get(f"/{{secret}}/services/{named}", self._service),
                web.post(f"{pod}/kill", _acting(actions.kill)),
                web.post(f"{pod}/ready", _acting(actions.make_ready, Switch)),
                web.post(f"{pod}/black-hole", _acting(actions.black_hole, Switch)),
                web.post(f"{deployment}/scale", _acting(actions.scale, Scale)),
                web.post("/{secret}/load", _acting(actions.send, Sending)),
                web.get("/{secret}/{file:[a-z.]*}", self._file),
            ]
        )
        return app

    @web.middleware
    async def _admit(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response: web.StreamResponse
        if (why := refusal(request.method, request.headers, self._port)) is not None:
            response = _said(403, why)
        elif not is_secret(request.path.lstrip("/").partition("/")[0], self._secret):
            response = _said(
                404, "the page's address has a part here that `userspace-proxy demo status` tells"
            )
        else:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = _said(error.status, error.reason)
            except ApiError as error:
                response = _said(error.code or 503, error.message)
            except (UsageError, msgspec.DecodeError) as error:
                response = _said(400, str(error))
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = _STATIC / (request.match_info["file"] or "index.html")
        if path.suffix not in _MEDIA_TYPES or not path.is_file():
            return _said(404, "there is no such file")
        return web.Response(
            body=await asyncio.to_thread(path.read_bytes),
            content_type=_MEDIA_TYPES[path.suffix],
            charset="utf-8",
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._live.audience.is_full:
            return _said(503, "too many look already")
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        viewer = Viewer(transport.abort)
        self._live.welcome(viewer)
        try:
            while True:
                message = await viewer.next()
                async with asyncio.timeout(_WRITE_SECONDS):
                    await response.write(message)
        except (ConnectionError, TimeoutError):
            transport.abort()
        finally:
            self._live.audience.leave(viewer)
        return response

    async def _service(self, request: web.Request) -> web.StreamResponse:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        service = await self._client.get(SERVICES, namespace, name)
        ports, rules = await asyncio.gather(
            self._answers.service_ports(f"{namespace}/{name}"), self._answers.rules(f"{namespace}/{name}")
        )
        service["metadata"].pop("managedFields", None)
        body = {
            "yaml": yaml.safe_dump(service, sort_keys=False, allow_unicode=True),
            "nodes": {
                node: {"servicePorts": ports.get(node, []), "rules": rules.get(node, [])}
                for node in sorted({*ports, *rules})
            },
        }
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _acting(
    act: Callable[..., Awaitable[None]], wanted: type[_Wanted] | None = None
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler that does it, with what the path names and the body says."""

    async def answer(request: web.Request) -> web.StreamResponse:
        named = {key: value for key, value in request.match_info.items() if key != "secret"}
        body = await request.read()
        act_on = partial(act, **named)
        await (act_on() if wanted is None else act_on(wanted=msgspec.json.decode(body, type=wanted)))
        return web.Response(status=204)

    return answer


def _said(status: int, why: str) -> web.Response:
    return web.json_response({"message": why}, status=status)
