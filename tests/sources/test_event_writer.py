"""Events reach an API server that checks them as Kubernetes does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.embedded_api_server import EmbeddedApiServer
from tests.support.fake_api_server import FakeApiServer, write_kubeconfig
from tests.support.fake_events import EventError
from tests.support.recording_sink import running
from userspace_proxy.core.event_reasons import REASONS, RULES_REPAIRED, STARTING
from userspace_proxy.core.event_series import EventSeries, EventWrite, Regarding
from userspace_proxy.core.objects import Kind
from userspace_proxy.sources.api_server import ApiServerSource
from userspace_proxy.sources.contact import RequestFailedError

WEB = Regarding("v1", "Service", "shop", "web", "1234")
NODE = Regarding("v1", "Node", "", "node-1", "node-1")
WALL = 1_700_000_000.25


def event(about: Regarding = NODE, note: str = "note") -> EventWrite:
    series = EventSeries("node-1")
    series.record(RULES_REPAIRED, about, note, 0.0, WALL)
    write = series.due(0.0)
    assert write is not None
    return write


def with_server(folder: Path, scene: Callable[[FakeApiServer, ApiServerSource], Awaitable[None]]) -> None:
    async def run() -> None:
        async with FakeApiServer() as server:
            source = ApiServerSource(write_kubeconfig(folder / "kubeconfig", server.url), "node-1")
            async with running(source) as sink:
                await sink.until(lambda: bool(sink.listings(Kind.NODE)))
                await scene(server, source)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_an_event_is_created_and_its_series_brought_up_to_date(tmp_path: Path) -> None:
    async def scene(server: FakeApiServer, source: ApiServerSource) -> None:
        write = event(WEB)
        await source.write_event(write)
        [(key, created)] = server.events.present.items()
        assert key == ("shop", write.name)
        assert created == {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": "shop", "name": write.name},
            "eventTime": "2023-11-14T22:13:20.250000Z",
            "reportingController": "userspace-proxy",
            "reportingInstance": "node-1",
            "action": "SyncRules",
            "reason": "RulesRepaired",
            "type": "Warning",
            "regarding": {
                "apiVersion": "v1",
                "kind": "Service",
                "namespace": "shop",
                "name": "web",
                "uid": "1234",
            },
            "note": "note",
        }
        await source.write_event(replace(write, is_new=False, count=7, last=WALL + 60))
        series = {"count": 7, "lastObservedTime": "2023-11-14T22:14:20.250000Z"}
        assert server.events.present[key] == {**created, "series": series}

    with_server(tmp_path, scene)


def test_every_reason_is_one_that_the_api_takes(tmp_path: Path) -> None:
    async def scene(server: FakeApiServer, source: ApiServerSource) -> None:
        for reason in REASONS:
            await source.write_event(replace(event(note="x" * 5000), reason=reason, name=reason.name.lower()))
        assert len(server.events.present) == len(REASONS)
        types = {(found["reason"], found["type"]) for found in server.events.present.values()}
        assert (STARTING.name, "Normal") in types

    with_server(tmp_path, scene)


def test_one_that_happened_often_before_it_could_be_written_says_so(tmp_path: Path) -> None:
    async def scene(server: FakeApiServer, source: ApiServerSource) -> None:
        await source.write_event(replace(event(), count=3, last=WALL + 1))
        [created] = server.events.present.values()
        assert created["series"]["count"] == 3

    with_server(tmp_path, scene)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_refusal_is_told_with_its_status_and_its_words(tmp_path: Path, is_new: bool) -> None:
    async def scene(server: FakeApiServer, source: ApiServerSource) -> None:
        server.events.error = EventError(403, "Forbidden", "no events for you")
        with pytest.raises(RequestFailedError, match="no events for you") as caught:
            await source.write_event(replace(event(), is_new=is_new, count=2))
        assert caught.value.status == 403

    with_server(tmp_path, scene)


def test_what_happens_before_there_is_a_connection_is_to_be_told_later(tmp_path: Path) -> None:
    source = ApiServerSource(tmp_path / "kubeconfig", "node-1")
    with pytest.raises(RequestFailedError) as caught:
        asyncio.run(source.write_event(event()))
    assert caught.value.status is None


def test_a_token_that_has_expired_is_read_again(tmp_path: Path) -> None:
    async def scene(server: FakeApiServer, source: ApiServerSource) -> None:
        server.tokens = {"fresh"}
        write_kubeconfig(tmp_path / "kubeconfig", server.url, token="fresh")
        await source.write_event(event())
        assert len(server.events.present) == 1

    with_server(tmp_path, scene)


def test_kubectl_shows_them_where_people_look(tmp_path: Path) -> None:
    async def write(*events: EventWrite) -> None:
        source = ApiServerSource(tmp_path / "kubeconfig", "node-1")
        async with running(source) as sink:
            await sink.until(lambda: bool(sink.listings(Kind.NODE)))
            for each in events:
                await source.write_event(each)

    with EmbeddedApiServer(tmp_path) as server:
        web = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}
        spec = {"spec": {"ports": [{"port": 80}]}}
        for item in (web | spec, node):
            server.kubectl("create", "-f", "-", stdin=json.dumps(item))
        uid = server.get("service", "web")["metadata"]["uid"]
        about_web = event(Regarding("v1", "Service", "default", "web", uid), "of the Service")
        again = replace(about_web, is_new=False, count=4)
        asyncio.run(asyncio.wait_for(write(about_web, again, event(NODE, "of the node")), 60))
        for kind, name, note in (("service", "web", "of the Service"), ("node", "node-1", "of the node")):
            told = server.kubectl("describe", kind, name).partition("Events:")[2]
            assert "RulesRepaired" in told
            assert "userspace-proxy" in told
            assert note in told
        assert "(x4 over" in server.kubectl("describe", "service", "web")
        ours = ("--field-selector", "reportingComponent=userspace-proxy", "--all-namespaces")
        assert len(server.kubectl("get", "events", *ours).splitlines()) == 3
