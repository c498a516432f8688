"""A mirror shows what the API server has, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import pytest
import uvloop

from tests.support.fake_api_server import FakeApiServer, Object
from tests.support.faulty_api_server import API_FAULTS, FaultyApiServer
from tests.support.waiting import DEADLINE_SECONDS
from userspace_proxy.demo.api_client import ApiClient
from userspace_proxy.demo.api_resources import LEASES, SERVICES, Resource
from userspace_proxy.demo.mirror import Mirror


def service(name: str, cluster_ip: object = "10.96.0.10", **labels: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {"clusterIP": cluster_ip},
    }


class Spec(msgspec.Struct, rename={"cluster_ip": "clusterIP"}):
    cluster_ip: str


class ServiceStruct(msgspec.Struct):
    spec: Spec


def run(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scene, 2 * DEADLINE_SECONDS))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.002)


async def briefly(seconds: float) -> None:
    await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def following(
    server: FakeApiServer, resource: Resource[Any] = SERVICES, **options: Any
) -> AsyncIterator[Mirror[Any]]:
    """A mirror that runs."""
    async with ApiClient(server.url) as client:
        mirror = Mirror(client, resource, sleep=briefly, **options)
        following = asyncio.create_task(mirror.run())
        try:
            yield mirror
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


def test_it_shows_what_is_there_and_what_changes() -> None:
    async def scene() -> None:
        async with FakeApiServer() as server:
            server.apply(service("a"))
            async with following(server) as mirror:
                assert not mirror.has_synced
                changes: list[set[str]] = []
                mirror.subscribe(lambda: changes.append({name for _, name in mirror.objects}))
                await mirror.synced()
                assert mirror.objects.keys() == {("shop", "a")}
                server.apply(service("b"))
                await until(lambda: ("shop", "b") in mirror.objects)
                server.apply(service("b", "10.96.0.11"))
                await until(lambda: mirror.objects["shop", "b"]["spec"]["clusterIP"] == "10.96.0.11")
                server.delete(service("a"))
                await until(lambda: mirror.objects.keys() == {("shop", "b")})
                assert changes == [{"a"}, {"a", "b"}, {"a", "b"}, {"b"}]

    run(scene())


def test_it_says_whether_it_shows_a_write() -> None:
    async def scene() -> None:
        async with FakeApiServer() as server, following(server) as mirror:
            await mirror.synced()
            server.apply(service("a"))
            await until(lambda: mirror.objects)
            version = mirror.objects["shop", "a"]["metadata"]["resourceVersion"]
            assert mirror.shows(version)
            assert not mirror.shows(str(int(version) + 1))

    run(scene())


@pytest.mark.parametrize("fault", API_FAULTS)
def test_it_outlives_a_fault_and_shows_what_happened_meanwhile(fault: str) -> None:
    async def scene() -> None:
        async with FaultyApiServer() as server:
            server.apply(service("a"), service("b"))
            async with following(server) as mirror:
                await mirror.synced()
                server.fault = API_FAULTS[fault]
                server.expire_watches()
                server.delete(service("a"))
                server.apply(service("c"))
                await asyncio.sleep(0.05)  # it tries, in vain
                assert ("shop", "a") in mirror.objects
                server.fault = None
                await until(lambda: {name for _, name in mirror.objects} == {"b", "c"})

    run(scene())


def test_a_server_that_went_back_to_an_earlier_state_is_believed() -> None:
    async def scene() -> None:
        async with FaultyApiServer() as server:
            server.apply(service("a"))
            backup = server.back_up()
            async with following(server) as mirror:
                await mirror.synced()
                server.apply(service("b"))
                await until(lambda: len(mirror.objects) == 2)
                server.fault = API_FAULTS["410"]
                asked = len(server.requests)
                server.end_watches()
                server.restore(backup)
                await until(lambda: len(server.requests) > asked)
                server.fault = None
                await until(lambda: {name for _, name in mirror.objects} == {"a"})

    run(scene())


def test_an_object_that_cannot_be_decoded_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with FakeApiServer() as server:
            server.apply(service("good"), service("bad", 5))
            async with following(server, SERVICES.read_as(ServiceStruct)) as mirror:
                await mirror.synced()
                assert {name for _, name in mirror.objects} == {"good"}
                server.apply(service("good", 6))
                await until(lambda: not mirror.objects)

    with caplog.at_level(logging.WARNING):
        run(scene())
    assert [record.getMessage().split(" why=")[0] for record in caplog.records] == [
        "Object left out: kind=Service object=shop/bad",
        "Object left out: kind=Service object=shop/good",
    ]


def test_a_kind_that_the_server_does_not_know_may_be_absent() -> None:
    async def scene() -> None:
        async with FakeApiServer() as server, following(server, LEASES, may_be_absent=True) as mirror:
            await mirror.synced()
            assert not mirror.objects

    run(scene())
