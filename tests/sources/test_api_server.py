"""The API server as a source, over HTTP: what arrives, what is survived, what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from tests.support.api_servers import API_SERVERS, RunningApiServer, running_api_server
from tests.support.fake_api_server import EXPIRED, ApiStatusError, FakeApiServer, Object, write_kubeconfig
from tests.support.recording_sink import DEADLINE_SECONDS, RecordingSink, running
from userspace_proxy.core.objects import EndpointSlice, Kind
from userspace_proxy.errors import SourceError
from userspace_proxy.sources.api_server import ApiServerSource


def service(name: str, cluster_ip: str = "10.96.0.10", **metadata: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": {"clusterIP": cluster_ip, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    }


def endpoint_slice(name: str, endpoints: int = 1, **metadata: Any) -> Object:
    addresses = [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(endpoints)]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"},
            **metadata,
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def node(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


async def briefly(seconds: float) -> None:
    """Back-off for tests: no real waiting, but let others run."""
    await asyncio.sleep(0.01)


def run(scene: Coroutine[Any, Any, None]) -> None:
    """On the loop that the agent has. What a source leaves open is a warning, and so an error."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scene, 60))


@contextlib.asynccontextmanager
async def following(server: FakeApiServer, directory: Path, **options: Any) -> Any:
    """A sink that follows `server`, once everything was listed."""
    kubeconfig = write_kubeconfig(directory / "kubeconfig", server.url)
    async with running(ApiServerSource(kubeconfig, "node-1", sleep=briefly, **options)) as sink:
        await sink.until(lambda: all(sink.listings(kind) for kind in Kind))
        yield sink


class OneWatchIsFaulty(FakeApiServer):
    """The first watch of Services ends as `fault` does; later ones are good."""

    faults = 0

    async def watch_objects(self, kind: str, request: web.Request) -> web.StreamResponse:
        if kind != "Service" or self.faults:
            return await super().watch_objects(kind, request)
        self.faults += 1
        response = web.StreamResponse()
        await response.prepare(request)
        await self.fault(request, response)
        return response

    async def fault(self, request: web.Request, response: web.StreamResponse) -> None:
        raise NotImplementedError


# The same against the fake and, where there is one, the real API server.


@pytest.fixture(params=API_SERVERS)
def api_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningApiServer]:
    with running_api_server(request.param, tmp_path) as server:
        yield server


def test_objects_are_listed_and_followed(api_server: RunningApiServer) -> None:
    api_server.apply(service("a"), endpoint_slice("a-1"), node("node-1"), node("node-2"))

    async def scene() -> None:
        async with running(ApiServerSource(api_server.kubeconfig, "node-1")) as sink:

            def names() -> list[str]:
                """Without the Service that a real API server makes for itself."""
                return [name for name in sink.names() if name != "default/kubernetes"]

            await sink.until(lambda: names() == ["default/a"])
            await sink.until(lambda: sink.names(Kind.ENDPOINT_SLICE) == ["default/a-1"])
            await sink.until(lambda: sink.names(Kind.NODE) == ["/node-1"])

            await asyncio.to_thread(api_server.apply, service("b", "10.96.0.11"))
            await sink.until(lambda: names() == ["default/a", "default/b"])
            await asyncio.to_thread(api_server.apply, endpoint_slice("a-1", endpoints=3))
            await sink.until(lambda: endpoint_count(sink, "a-1") == 3)
            await asyncio.to_thread(api_server.delete, service("a"))
            await sink.until(lambda: names() == ["default/b"])
            assert sink.listings() == 1

    run(scene())


def test_what_another_proxy_serves_is_not_seen(api_server: RunningApiServer) -> None:
    theirs: Object = {"labels": {"service.kubernetes.io/service-proxy-name": "theirs"}}
    api_server.apply(service("a"), service("b", "10.96.0.11", **theirs))

    async def scene() -> None:
        async with running(ApiServerSource(api_server.kubeconfig, "node-1")) as sink:
            await sink.until(lambda: "default/a" in sink.names())
            assert "default/b" not in sink.names()
            await asyncio.to_thread(api_server.apply, service("a", **theirs))
            await sink.until(lambda: "default/a" not in sink.names())
            await asyncio.to_thread(api_server.apply, service("b", "10.96.0.11"))
            await sink.until(lambda: "default/b" in sink.names())

    run(scene())


def endpoint_count(sink: RecordingSink, name: str) -> int:
    item = sink.objects.get((Kind.ENDPOINT_SLICE, "default", name))
    return len(item.endpoints or ()) if isinstance(item, EndpointSlice) else 0


# Faults, by the fake server alone.


def test_a_long_list_comes_in_pages(tmp_path: Path) -> None:
    async def scene() -> None:
        async with FakeApiServer() as server:
            server.apply(*(service(f"s-{number}") for number in range(1200)))
            async with following(server, tmp_path) as sink:
                assert len(sink.names()) == 1200
                assert sink.listings() == 1
            lists = [query for path, query in server.requests if "watch" not in query and "services" in path]
            assert [query.get("continue") for query in lists] == [None, "500.1201", "1000.1201"]

    run(scene())


def test_a_list_that_expires_between_pages_begins_again(tmp_path: Path) -> None:
    class Compacting(FakeApiServer):
        pages = 0

        async def list_objects(self, kind: str, request: web.Request) -> web.StreamResponse:
            self.pages += kind == "Service"
            if self.pages == 2:
                self.delete(service("s-0"))
                self.compact()
                self.pages += 1
            return await super().list_objects(kind, request)

    async def scene() -> None:
        async with Compacting() as server:
            server.apply(*(service(f"s-{number}") for number in range(700)))
            async with following(server, tmp_path) as sink:
                assert len(sink.names()) == 699
                assert sink.listings() == 1

    run(scene())


def test_bookmarks_spare_a_new_list(tmp_path: Path) -> None:
    """The history is compacted beyond the last event, but not beyond the last bookmark."""

    class CutAfterABookmark(OneWatchIsFaulty):
        async def fault(self, request: web.Request, response: web.StreamResponse) -> None:
            self.tick()
            self.compact()
            bookmark = {"kind": "Service", "metadata": {"resourceVersion": str(self._version)}}
            event = {"type": "BOOKMARK", "object": bookmark}
            await response.write(json.dumps(event).encode() + b"\n")

    async def scene() -> None:
        async with CutAfterABookmark() as server, following(server, tmp_path) as sink:
            await wait_until(lambda: server.faults)
            server.apply(service("new"))
            await sink.until(lambda: sink.names() == ["default/new"])
            assert sink.listings() == 1

    run(scene())


def test_an_expired_version_is_listed_again(tmp_path: Path) -> None:
    class Expiring(OneWatchIsFaulty):
        async def fault(self, request: web.Request, response: web.StreamResponse) -> None:
            self.delete(service("old"))
            self.apply(service("new"))
            self.compact()
            event = {"type": "ERROR", "object": EXPIRED.status}
            await response.write(json.dumps(event).encode() + b"\n")

    async def scene() -> None:
        async with Expiring() as server:
            server.apply(service("old"))
            async with following(server, tmp_path) as sink:
                await sink.until(lambda: sink.names() == ["default/new"])
                assert sink.listings() == 2

    run(scene())


def test_a_watch_that_is_cut_in_mid_line_goes_on(tmp_path: Path) -> None:
    class Cutting(OneWatchIsFaulty):
        async def fault(self, request: web.Request, response: web.StreamResponse) -> None:
            self.apply(service("a"), service("b"))
            line = json.dumps({"type": "ADDED", "object": self._objects["Service"][a_path]}).encode()
            await response.write(line + b'\n{"type": "ADDED", "obj')
            assert request.transport is not None
            request.transport.abort()

    a_path = "/api/v1/namespaces/default/services/a"

    async def scene() -> None:
        async with Cutting() as server, following(server, tmp_path) as sink:
            await sink.until(lambda: sink.names() == ["default/a", "default/b"])
            assert sink.listings() == 1

    run(scene())


def test_a_silent_watch_is_given_up(tmp_path: Path) -> None:
    class Silent(OneWatchIsFaulty):
        async def fault(self, request: web.Request, response: web.StreamResponse) -> None:
            self.apply(service("a"))
            await asyncio.Event().wait()

    async def scene() -> None:
        async with Silent() as server, following(server, tmp_path, silence_seconds=0.3) as sink:
            await sink.until(lambda: sink.names() == ["default/a"])

    run(scene())


def test_a_server_that_forgets_under_its_watches_is_listed_again(tmp_path: Path) -> None:
    """As behind a load balancer, where nothing is cut: the watches just wait for what never comes."""

    async def scene() -> None:
        async with FakeApiServer(bookmark_seconds=0.1) as server:
            server.apply(service("a"))
            backup = server.back_up()
            server.apply(*(service(f"s-{number}") for number in range(50)))
            async with following(server, tmp_path, silence_seconds=0.5) as sink:
                assert len(sink.names()) == 51
                server.restore(backup)
                server.apply(service("b"))
                await sink.until(lambda: sink.names() == ["default/a", "default/b"])
                server.delete(service("a"))
                await sink.until(lambda: sink.names() == ["default/b"])

    run(scene())


def test_a_server_that_comes_back_from_a_backup_is_listed_again_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with FakeApiServer() as server:
            server.apply(*(service(f"s-{number}") for number in range(50)))
            kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url)
            async with running(ApiServerSource(kubeconfig, "node-1", sleep=briefly)) as sink:
                await sink.until(lambda: len(sink.names()) == 50)
                await wait_for_watches(server)
                await server.__aexit__()
                assert len(sink.names()) == 50
                async with FakeApiServer(server.port) as restored:
                    restored.apply(service("a"))
                    await sink.until(lambda: sink.names() == ["default/a"])
                    restored.apply(service("b"))
                    await sink.until(lambda: sink.names() == ["default/a", "default/b"])

    run(scene())
    [said] = [text for text in caplog.messages if "went back" in text and "kind=Service" in text]
    assert said.endswith("version=2 known=51")


def test_a_line_longer_than_a_stream_readers_limit(tmp_path: Path) -> None:
    async def scene() -> None:
        async with FakeApiServer() as server, following(server, tmp_path) as sink:
            large = endpoint_slice("large", endpoints=20_000, annotations={"note": "x" * 3_000_000})
            server.apply(large)
            await sink.until(lambda: endpoint_count(sink, "large") == 20_000)
            server.apply(service("a"))
            await sink.until(lambda: sink.names() == ["default/a"])

    run(scene())


def test_events_that_come_together_are_told_together(tmp_path: Path) -> None:
    class Bursting(OneWatchIsFaulty):
        async def fault(self, request: web.Request, response: web.StreamResponse) -> None:
            self.apply(*(service(f"s-{number}") for number in range(100)))
            events = [{"type": "ADDED", "object": item} for item in self._objects["Service"].values()]
            await response.write(b"".join(json.dumps(event).encode() + b"\n" for event in events))

    async def scene() -> None:
        async with Bursting() as server, following(server, tmp_path) as sink:
            await sink.until(lambda: len(sink.names()) == 100)
            assert len(sink.observed) < 50

    run(scene())


def test_a_server_that_is_down_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="userspace_proxy")

    async def scene() -> None:
        async with FakeApiServer() as first:
            pass
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", first.url)
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            await asyncio.sleep(0.01)

        async with running(ApiServerSource(kubeconfig, "node-1", sleep=sleep)) as sink:
            await wait_until(lambda: len(waits) >= 20)
            assert sink.observed == []
            async with FakeApiServer(first.port) as second:
                second.apply(service("a"))
                await sink.until(lambda: sink.names() == ["default/a"])
                await sink.until(lambda: sink.listings(Kind.NODE) and sink.listings(Kind.ENDPOINT_SLICE))
                await wait_for_watches(second)
            async with FakeApiServer(first.port) as third:
                # A server that forgot: the version that the watch knows is in its future.
                third.apply(*(service(f"s-{number}") for number in range(5)))
                assert "default/a" in sink.names()
                await wait_for_watches(third)
                third.delete(service("s-1"))
                await sink.until(lambda: "default/s-1" not in sink.names())

    run(scene())
    levels = [record.levelname for record in caplog.records]
    assert levels[:2] == ["WARNING", "INFO"]
    assert all(level != after for level, after in itertools.pairwise(levels)), "one of each for each loss"
    assert "Cannot connect to host 127.0.0.1" in caplog.records[0].getMessage()


def test_a_refusal_for_one_kind_leaves_the_others_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Forbidding(FakeApiServer):
        is_forbidden = True
        refusals = 0

        async def list_objects(self, kind: str, request: web.Request) -> web.StreamResponse:
            if kind == "Node" and self.is_forbidden:
                self.refusals += 1
                raise ApiStatusError(403, "Forbidden", 'nodes is forbidden: User "x"\ncannot list')
            return await super().list_objects(kind, request)

    async def scene() -> None:
        async with Forbidding() as server:
            server.apply(service("a"), node("node-1"))
            kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url)
            async with running(ApiServerSource(kubeconfig, "node-1", sleep=briefly)) as sink:
                await sink.until(lambda: sink.names() == ["default/a"])
                await sink.until(lambda: sink.listings(Kind.NODE) == 1)  # as if there was none
                await wait_until(lambda: server.refusals > 3)
                assert sink.listings(Kind.NODE) == 1
                server.is_forbidden = False
                await sink.until(lambda: sink.names(Kind.NODE) == ["/node-1"])

    run(scene())
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.endswith('403 Forbidden: nodes is forbidden: User "x" cannot list')


def test_retry_after_is_waited_for(tmp_path: Path) -> None:
    class Busy(FakeApiServer):
        async def list_objects(self, kind: str, request: web.Request) -> web.StreamResponse:
            raise ApiStatusError(429, "TooManyRequests", "busy", {"Retry-After": "11"})

    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(3600)

    async def scene() -> None:
        async with Busy() as server:
            kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url)
            async with running(ApiServerSource(kubeconfig, "node-1", sleep=sleep)):
                await wait_until(lambda: len(waits) >= 3)

    run(scene())
    assert waits == [11.0] * 3


def test_a_token_that_was_replaced_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with OneWatchEnds() as server:
            server.tokens = {"old"}
            token = tmp_path / "token"
            token.write_text("old")
            kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url, tokenFile=str(token))
            async with running(ApiServerSource(kubeconfig, "node-1", sleep=briefly)) as sink:
                await wait_for_watches(server)
                token.write_text("new")
                server.tokens = {"new"}
                server.end.set()
                await asyncio.sleep(0)
                server.apply(service("a"))
                await sink.until(lambda: sink.names() == ["default/a"])

    run(scene())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


class OneWatchEnds(OneWatchIsFaulty):
    """The first watch of Services ends, as every watch does, when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.end = asyncio.Event()

    async def fault(self, request: web.Request, response: web.StreamResponse) -> None:
        await self.end.wait()


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=api"
        f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )

    async def scene() -> None:
        async with FakeApiServer(certificate=(certificate, key)) as server:
            server.apply(service("a"))
            trusting = write_kubeconfig(
                tmp_path / "trusting", server.url, cluster={"certificate-authority": str(certificate)}
            )
            async with running(ApiServerSource(trusting, "node-1")) as sink:
                await sink.until(lambda: sink.names() == ["default/a"])
            strange = write_kubeconfig(tmp_path / "strange", server.url)
            waited = asyncio.Event()

            async def sleep(seconds: float) -> None:
                waited.set()
                await asyncio.sleep(3600)

            async with running(ApiServerSource(strange, "node-1", sleep=sleep)) as sink:
                await asyncio.wait_for(waited.wait(), 10)
                assert sink.observed == []

    run(scene())


async def wait_until(is_reached: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not is_reached():
            await asyncio.sleep(0.001)


async def wait_for_watches(server: FakeApiServer) -> None:
    """Until every kind is watched at `server`."""
    await wait_until(lambda: len({path for path, query in server.requests if "watch" in query}) == len(Kind))


def kubeconfig_with(cluster: Object | None = None, user: Object | None = None) -> Object:
    return {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        ("", "it holds no configuration"),
        ("a: [", "line 2: did not find expected node content"),
        ("just text", "it holds no configuration"),
        ({}, "Expected key current-context"),
        ({**kubeconfig_with(), "clusters": 5}, "it is malformed (TypeError: 'int' object is not iterable)"),
        ({**kubeconfig_with(), "current-context": "other"}, "Expected object with name other in"),
        (kubeconfig_with({"server": "ftp://x"}), "'ftp://x' is no http or https URL"),
        (kubeconfig_with({"server": "http://["}), "Invalid IPv6 URL"),
        (kubeconfig_with({"certificate-authority": "/nowhere"}), "File does not exists: /nowhere"),
        (kubeconfig_with({"certificate-authority": __file__}), "no certificate"),
        (kubeconfig_with(user={"tokenFile": "/nowhere"}), "No such file or directory: /nowhere"),
        (
            kubeconfig_with(user={"exec": {"command": "/nowhere", "apiVersion": "v1"}}),
            "No such file or directory",
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_an_error(tmp_path: Path, content: object, reason: str) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    if content is not None:
        kubeconfig.write_text(content if isinstance(content, str) else json.dumps(content))

    source = ApiServerSource(kubeconfig, "node-1")

    async def scene() -> None:
        await source.run(RecordingSink())

    with pytest.raises(SourceError) as raised:
        run(scene())
    text = str(raised.value)
    with pytest.raises(SourceError) as raised:
        run(source.check())
    assert str(raised.value) == text
    assert text.startswith("cannot use the ")
    assert reason in text
    assert "\n" not in text


def test_outside_a_cluster_there_is_no_in_cluster_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(
        SourceError, match=r"cannot use the in-cluster configuration .*: Service host/port is not"
    ):
        run(ApiServerSource(None, "node-1").run(RecordingSink()))


def test_a_kubeconfig_that_names_another_server_is_followed_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with FakeApiServer() as before, FakeApiServer() as after:
            before.apply(service("a"))
            after.apply(service("b"))
            kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", before.url)
            source = ApiServerSource(kubeconfig, "node-1", sleep=briefly)
            async with running(source) as sink:
                await sink.until(lambda: sink.names() == ["default/a"])
                await wait_for_watches(before)
                write_kubeconfig(kubeconfig, after.url)
                await source.renew()
                await sink.until(lambda: sink.names() == ["default/b"])

    run(scene())


def test_a_broken_kubeconfig_leaves_all_as_it_is(tmp_path: Path) -> None:
    async def scene() -> None:
        async with FakeApiServer() as server:
            kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url)
            source = ApiServerSource(kubeconfig, "node-1", sleep=briefly)
            async with running(source) as sink:
                await wait_for_watches(server)
                kubeconfig.write_text("just text")
                with pytest.raises(SourceError, match="it holds no configuration"):
                    await source.renew()
                server.apply(service("a"))
                await sink.until(lambda: sink.names() == ["default/a"])

    run(scene())


def test_a_new_token_in_the_kubeconfig_leaves_watches_alone(tmp_path: Path) -> None:
    async def scene() -> None:
        async with FakeApiServer() as server:
            server.tokens = {"old", "new"}
            kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url, token="old")
            source = ApiServerSource(kubeconfig, "node-1", sleep=briefly)
            async with running(source) as sink:
                await wait_for_watches(server)
                write_kubeconfig(kubeconfig, server.url, token="new")
                await source.renew()
                server.apply(service("a"))
                await sink.until(lambda: sink.names() == ["default/a"])
                assert sink.listings(Kind.SERVICE) == 1

    run(scene())


def test_the_server_may_be_said_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    async def scene() -> None:
        async with FakeApiServer() as server:
            server.apply(service("a"))
            elsewhere = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
            for kubeconfig in (elsewhere, None):
                source = ApiServerSource(kubeconfig, "node-1", master=server.url, sleep=briefly)
                async with running(source) as sink:
                    await sink.until(lambda: sink.names() == ["default/a"])

    run(scene())


def test_requests_are_made_at_their_rate(tmp_path: Path) -> None:
    """A list and a watch of each of three kinds are six requests, of which two may be made at once."""

    async def scene() -> None:
        async with FakeApiServer() as server:
            kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url)
            clock = asyncio.get_running_loop().time
            began = clock()
            async with running(ApiServerSource(kubeconfig, "node-1", qps=4.0, burst=2)) as sink:
                await sink.until(lambda: all(sink.listings(kind) for kind in Kind))
                await wait_for_watches(server)
                assert clock() - began >= (6 - 2) / 4.0

    run(scene())
