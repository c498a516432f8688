"""What the demo's API client sends, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeAlias

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from userspace_proxy.demo.api_client import ApiClient, ApiError, PatchType
from userspace_proxy.demo.api_resources import DEPLOYMENTS, NODES, PODS, Resource

Answer: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

POD = {"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7"}}


class Named(msgspec.Struct):
    """A struct that reads one field of an object."""

    metadata: dict[str, str]


class Asked(msgspec.Struct):
    method: str
    target: str
    content_type: str
    body: Any


def run(
    answer: Answer,
    scene: Callable[[ApiClient], Coroutine[Any, Any, None]],
) -> list[Asked]:
    """Play `scene` with a client of a server that answers so; returns what the server was asked."""
    asked: list[Asked] = []

    async def recorded(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked.append(
            Asked(
                request.method,
                str(request.rel_url),
                request.content_type if body else "",
                json.loads(body) if body else None,
            )
        )
        assert request.headers["Authorization"] == "Bearer secret"
        return await answer(request)

    async def main() -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", recorded)
        async with (
            TestServer(application) as server,
            ApiClient(str(server.make_url("")), token="secret") as client,
        ):
            await asyncio.wait_for(scene(client), 60)

    asyncio.run(main())
    return asked


def always(body: object, status: int = 200) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return answer


def refusing(code: int, reason: str, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        status = {"kind": "Status", "code": code, "reason": reason, "message": "because"}
        return web.json_response(status, status=code, headers=headers)

    return answer


@pytest.mark.parametrize(
    ("resource", "arguments", "path"),
    [
        (PODS, (), "/api/v1/pods"),
        (PODS, ("shop",), "/api/v1/namespaces/shop/pods"),
        (PODS, ("shop", "web", "log"), "/api/v1/namespaces/shop/pods/web/log"),
        (DEPLOYMENTS, ("shop", "web"), "/apis/apps/v1/namespaces/shop/deployments/web"),
        (NODES, (None, "n1", "status"), "/api/v1/nodes/n1/status"),
    ],
)
def test_where_objects_are(resource: Resource[Any], arguments: tuple[Any, ...], path: str) -> None:
    assert resource.path(*arguments) == path


def test_requests_are_as_the_api_wants_them() -> None:
    async def scene(client: ApiClient) -> None:
        assert await client.get(PODS, "shop", "web") == POD
        assert (await client.get(PODS.read_as(Named), "shop", "web")).metadata["name"] == "web"
        await client.create(PODS, "shop", {"a": 1})
        await client.create(PODS, "shop", {"target": {}}, name="web", subresource="binding")
        await client.replace(PODS, "shop", "web", {"a": 2})
        await client.patch(PODS, "shop", "web", {"a": 3}, subresource="status")
        await client.patch(NODES, None, "n1", {"a": 4}, type_=PatchType.STRATEGIC)
        await client.delete(PODS, "shop", "web", uid="u", grace_seconds=0)

    web_path = "/api/v1/namespaces/shop/pods/web"
    options = {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "preconditions": {"uid": "u"},
        "gracePeriodSeconds": 0,
    }
    assert run(always(POD), scene) == [
        Asked("GET", web_path, "", None),
        Asked("GET", web_path, "", None),
        Asked("POST", "/api/v1/namespaces/shop/pods", "application/json", {"a": 1}),
        Asked("POST", f"{web_path}/binding", "application/json", {"target": {}}),
        Asked("PUT", web_path, "application/json", {"a": 2}),
        Asked("PATCH", f"{web_path}/status", "application/merge-patch+json", {"a": 3}),
        Asked("PATCH", "/api/v1/nodes/n1", "application/strategic-merge-patch+json", {"a": 4}),
        Asked("DELETE", web_path, "application/json", options),
    ]


def test_lists_are_read_page_by_page() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        is_last = "continue" in request.query
        metadata = {"resourceVersion": "9"} if is_last else {"resourceVersion": "9", "continue": "more"}
        return web.json_response({"metadata": metadata, "items": [POD]})

    async def scene(client: ApiClient) -> None:
        assert await client.list(PODS, "shop", label_selector="app=web") == [POD, POD]

    asked = run(answer, scene)
    assert asked[0].target == "/api/v1/namespaces/shop/pods?labelSelector=app%3Dweb&limit=500"
    assert asked[1].target.endswith("&continue=more")


@pytest.mark.parametrize(
    ("code", "reason", "true_of_it"),
    [
        (404, "NotFound", {"is_not_found", "is_final"}),
        (409, "Conflict", {"is_conflict"}),
        (410, "Expired", {"is_gone"}),
        (422, "Invalid", {"is_final"}),
        (503, "ServiceUnavailable", set()),
    ],
)
def test_a_refusal_says_what_the_status_says(code: int, reason: str, true_of_it: set[str]) -> None:
    async def scene(client: ApiClient) -> None:
        with pytest.raises(ApiError, match="because") as caught:
            await client.get(PODS, "shop", "web")
        error = caught.value
        assert (error.code, error.reason, error.retry_after_seconds) == (code, reason, 3.0)
        predicates = {"is_not_found", "is_conflict", "is_gone", "is_final"}
        assert {name for name in predicates if getattr(error, name)} == true_of_it

    run(refusing(code, reason, **{"Retry-After": "3"}), scene)


def test_a_refusal_that_is_no_status_is_one_too() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=502, text="<html>")

    async def scene(client: ApiClient) -> None:
        with pytest.raises(ApiError, match="502 Bad Gateway"):
            await client.get(PODS, "shop", "web")

    run(answer, scene)


def test_what_cannot_be_read_is_an_error_without_a_code() -> None:
    async def scene(client: ApiClient) -> None:
        with pytest.raises(ApiError, match="cannot be read") as caught:
            await client.get(PODS, "shop", "web")
        assert caught.value.code is None

    run(always([1, 2]), scene)


def test_a_server_that_is_not_there_is_an_error_without_a_code() -> None:
    async def scene() -> None:
        async with ApiClient("http://127.0.0.1:1") as client:
            with pytest.raises(ApiError, match="cannot be reached") as caught:
                await client.get(PODS, "shop", "web")
            assert (caught.value.code, caught.value.is_final) == (None, False)

    asyncio.run(scene())


def test_a_watch_tells_what_happens_and_raises_what_ends_it() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for event in (
            {"type": "ADDED", "object": POD},
            {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}},
            {
                "type": "ERROR",
                "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "old"},
            },
        ):
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    async def scene(client: ApiClient) -> None:
        async with aclosing(client.watch(PODS, None, "7", {"fieldSelector": "a=b"}, 30)) as events:
            assert [(await anext(events)).type for _ in range(2)] == ["ADDED", "BOOKMARK"]
            with pytest.raises(ApiError, match="old") as caught:
                await anext(events)
        assert caught.value.is_gone

    (asked,) = run(answer, scene)
    assert asked.target == (
        "/api/v1/pods?fieldSelector=a%3Db&watch=true&allowWatchBookmarks=true&resourceVersion=7"
    )
