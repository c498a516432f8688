"""The server over HTTPS: who may ask, pages, watches, conflicts, and what is answered to nonsense."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

from tests.support.embedded_api_server import TOKEN, lines_of_a_log
from userspace_proxy.demo.api_server import ApiServer
from userspace_proxy.demo.api_server.certificates import Certificates
from userspace_proxy.demo.api_server.limits import Limits
from userspace_proxy.demo.api_server.objects import Object
from userspace_proxy.errors import StartupError

SECONDS = 30.0
CERTIFICATES = Certificates.make(["127.0.0.1"])
SERVICES = "/api/v1/namespaces/default/services"
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


class Client:
    """Asks a server that serves within `async with`; every answer is its status and its JSON."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16
        )  # so that who takes nothing is noticed
        self.url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        self._server = ApiServer(
            database=folder / "cluster.sqlite",
            sockets=[listening],
            tls=CERTIFICATES.server_context(folder),
            token=TOKEN,
            pod_logs=lines_of_a_log,
            limits=limits,
            chance=random.Random(1),
        )
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._server.start()
        self._stack.push_async_callback(self._server.close)
        self.session = await self._stack.enter_async_context(
            aiohttp.ClientSession(
                self.url,
                headers={"Authorization": f"Bearer {TOKEN}"},
                connector=aiohttp.TCPConnector(ssl=CERTIFICATES.client_context()),
                timeout=aiohttp.ClientTimeout(total=SECONDS),
            )
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """A request with a JSON body."""
        async with self.session.request(method, path, json=body, **options) as answer:
            return answer.status, json.loads(await answer.read())

    async def create(self, path: str, name: str, **fields: Any) -> Object:
        status, made = await self.ask("POST", path, {"metadata": {"name": name}, **fields})
        assert status == 201, made
        found: Object = made
        return found

    async def patch(self, path: str, patch: Any, kind: str = "merge-patch") -> tuple[int, Any]:
        headers = {"Content-Type": f"application/{kind}+json"}
        async with self.session.patch(path, data=json.dumps(patch), headers=headers) as answer:
            return answer.status, json.loads(await answer.read())

    @asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
        """A watch; each call of what is entered is its next event, None after the last."""
        async with self.session.get(path, params={"watch": "true", **query}) as answer:
            assert answer.status == 200

            async def event() -> Any:
                line = await answer.content.readline()
                return json.loads(line) if line else None

            yield event


def serving(folder: Path, test: Callable[[Client], Awaitable[None]], **limits: Any) -> None:
    """Run a test with a server of its own."""

    async def run() -> None:
        async with Client(folder, Limits(**limits)) as client:
            await test(client)

    asyncio.run(run())


def service(**spec: Any) -> Object:
    return {"spec": {"ports": [{"port": 80}], **spec}}


def deployment(replicas: int = 1) -> Object:
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]},
    }
    return {"spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}}


POD: Object = {"spec": {"containers": [{"name": "c", "image": "nginx"}]}}


def test_only_who_brings_the_token_is_answered(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        for header in ("", "Bearer", "Bearer other", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe4"):
            for path in (SERVICES, "/version", "/healthz", "/nothing"):
                status, answer = await client.ask("GET", path, headers={"Authorization": header})
                assert (status, answer["kind"], answer["reason"]) == (401, "Status", "Unauthorized")
        assert (await client.ask("GET", SERVICES))[0] == 200

    serving(tmp_path, test)


def test_its_certificate_is_of_its_authority(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await client.ask("GET", "/version", ssl=ssl.create_default_context())

    serving(tmp_path, test)


def test_a_list_is_of_one_version_over_all_its_pages(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        for name in ("a", "b", "c", "d", "e"):
            await client.create(SERVICES, name, **service())
        _, first = await client.ask("GET", SERVICES, params={"limit": "2"})
        assert [item["metadata"]["name"] for item in first["items"]] == ["a", "b"]
        assert first["metadata"]["remainingItemCount"] == 3
        await client.ask("DELETE", f"{SERVICES}/c")
        await client.create(SERVICES, "cc", **service())
        _, second = await client.ask(
            "GET", SERVICES, params={"limit": "9", "continue": first["metadata"]["continue"]}
        )
        assert [item["metadata"]["name"] for item in second["items"]] == ["c", "d", "e"]
        assert second["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}
        exact = {"resourceVersion": first["metadata"]["resourceVersion"], "resourceVersionMatch": "Exact"}
        _, then = await client.ask("GET", SERVICES, params=exact)
        _, now = await client.ask("GET", SERVICES)
        assert [len(then["items"]), len(now["items"])] == [5, 5]
        assert "cc" in {item["metadata"]["name"] for item in now["items"]}

    serving(tmp_path, test)


def test_a_page_of_a_version_that_is_forgotten_is_gone(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        for name in ("a", "b", "c"):
            await client.create(SERVICES, name, **service())
        _, first = await client.ask("GET", SERVICES, params={"limit": "1"})
        for value in range(9):
            await client.patch(f"{SERVICES}/a", {"metadata": {"labels": {"v": str(value)}}})
        status, answer = await client.ask("GET", SERVICES, params={"continue": first["metadata"]["continue"]})
        assert (status, answer["reason"]) == (410, "Expired")

    serving(tmp_path, test, history=2)


def test_selectors_choose_what_is_listed_and_watched(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.create(SERVICES, "a", **service())
        version = (await client.ask("GET", SERVICES))[1]["metadata"]["resourceVersion"]
        _, found = await client.ask("GET", "/api/v1/services", params={"fieldSelector": "metadata.name=a"})
        assert len(found["items"]) == 1
        async with client.watch(SERVICES, resourceVersion=version, labelSelector="on") as event:
            for labels in ({"on": "1"}, {"on": "2"}, {"on": None}, {"on": "3"}):
                await client.patch(f"{SERVICES}/a", {"metadata": {"labels": labels}})
            await client.ask("DELETE", f"{SERVICES}/a")
            told = [await event() for _ in range(5)]
        assert [each["type"] for each in told] == ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]
        versions = [int(each["object"]["metadata"]["resourceVersion"]) for each in told]
        assert versions == sorted(set(versions))

    serving(tmp_path, test)


def test_a_watch_without_a_version_begins_with_all(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.create(SERVICES, "a", **service())
        initial = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        async with client.watch(SERVICES, allowWatchBookmarks="true", **initial) as event:
            assert (await event())["object"]["metadata"]["name"] == "a"
            end = await event()
            assert end["type"] == "BOOKMARK"
            assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
            await client.create(SERVICES, "b", **service())
            assert (await event())["object"]["metadata"]["name"] == "b"

    serving(tmp_path, test)


def test_bookmarks_say_how_far_a_silent_watch_has_come(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.create(PODS, "p", **POD)
        version = (await client.ask("GET", PODS))[1]["metadata"]["resourceVersion"]
        async with client.watch(
            SERVICES, resourceVersion="1", allowWatchBookmarks="true", timeoutSeconds="600"
        ) as event:
            told = await event()
        assert told["type"] == "BOOKMARK"
        assert told["object"] == {
            "kind": "Service",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": version},
        }

    serving(tmp_path, test, bookmark_seconds=0.01)


def test_a_watch_ends_in_its_time_and_with_the_server(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        async with client.watch(SERVICES, resourceVersion="1", timeoutSeconds="1") as event:
            assert await event() is None
        async with client.watch(SERVICES, resourceVersion="1") as event:
            await client._server.close()
            assert await event() is None

    serving(tmp_path, test)


def test_versions_that_cannot_be_watched(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.create(SERVICES, "a", **service())
        for value in range(9):
            await client.patch(f"{SERVICES}/a", {"metadata": {"labels": {"v": str(value)}}})
        for version, code, reason in (
            ("1", 410, "Expired"),
            ("999", 504, "Timeout"),
            ("x", 400, "BadRequest"),
        ):
            query = {"watch": "true", "resourceVersion": version}
            status, answer = await client.ask("GET", SERVICES, params=query)
            assert (status, answer["reason"]) == (code, reason)
        status, answer = await client.ask("GET", SERVICES, params={"resourceVersion": "999"})
        assert (status, answer["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")

    serving(tmp_path, test, history=2)


async def write_until_forgotten(client: Client, written: int = 60) -> None:
    """Change a Service with so much text that no buffer holds it, and more often than is remembered."""
    for value in range(written):
        annotations = {"text": f"{value}{'x' * 200_000}"}
        status, answer = await client.patch(f"{SERVICES}/a", {"metadata": {"annotations": annotations}})
        assert status == 200, answer


def test_a_watcher_that_falls_behind_is_told_to_list_again(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.create(SERVICES, "a", **service())
        version = (await client.ask("GET", SERVICES))[1]["metadata"]["resourceVersion"]
        async with client.session.get(
            SERVICES, params={"watch": "true", "resourceVersion": version}, read_bufsize=2**20
        ) as answer:
            await write_until_forgotten(client)
            *_, last = [line async for line in answer.content]
        told = json.loads(last)
        assert (told["type"], told["object"]["code"], told["object"]["reason"]) == ("ERROR", 410, "Expired")

    serving(tmp_path, test, history=5)


async def is_full(client: Client) -> bool:
    """Whether there is no room for another watch."""
    query = {"watch": "true", "timeoutSeconds": "1"}
    async with client.session.get(SERVICES, params=query) as answer:
        return answer.status == 429 and answer.headers["Retry-After"] == "1"


def test_a_watcher_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.create(SERVICES, "a", **service())
        version = (await client.ask("GET", SERVICES))[1]["metadata"]["resourceVersion"]
        query = {"watch": "true", "resourceVersion": version}
        async with client.session.get(SERVICES, params=query) as answer:
            assert await is_full(client)
            await write_until_forgotten(client)
            async with asyncio.timeout(SECONDS):  # there is room for one watch, and this one takes nothing
                while await is_full(client):
                    await asyncio.sleep(0.05)
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                async for _ in answer.content.iter_any():
                    pass

    serving(tmp_path, test, write_seconds=0.2, watches=1)


def test_who_wrote_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        made = await client.create(SERVICES, "a", **service())
        path = f"{SERVICES}/a"
        status, changed = await client.patch(path, {"spec": {"sessionAffinity": "ClientIP"}})
        assert status == 200
        status, answer = await client.ask("PUT", path, made)
        assert (status, answer["reason"]) == (409, "Conflict")
        assert answer["message"] == (
            'Operation cannot be fulfilled on services "a": the object has been modified; please apply your '
            "changes to the latest version and try again"
        )
        old = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"], "labels": {"a": "b"}}}
        assert (await client.patch(path, old))[0] == 409
        assert (await client.patch(path, {"metadata": {"uid": "other"}}))[0] == 409
        assert (await client.ask("PUT", path, changed))[1] == changed
        assert (await client.ask("POST", SERVICES, {"metadata": {"name": "a"}, **service()}))[1][
            "reason"
        ] == ("AlreadyExists")

    serving(tmp_path, test)


def test_status_is_written_apart(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        made = await client.create(DEPLOYMENTS, "web", **deployment(), status={"replicas": 9})
        assert made["status"] == {}
        path = f"{DEPLOYMENTS}/web"
        _, changed = await client.patch(path, {"spec": {"replicas": 2}, "status": {"replicas": 9}})
        assert (changed["spec"]["replicas"], changed["status"]) == (2, {})
        _, changed = await client.patch(
            f"{path}/status", {"spec": {"replicas": 3}, "status": {"replicas": 9}}
        )
        assert (changed["spec"]["replicas"], changed["status"]) == (2, {"replicas": 9})
        assert changed["metadata"]["generation"] == 2
        status, answer = await client.patch(f"{path}/status", {"metadata": {"labels": {"a b": "c"}}})
        assert (status, answer["details"]["causes"][0]["field"]) == (422, "metadata.labels")
        _, changed = await client.patch(path, {"apiVersion": "v2", "kind": "Pod"})
        assert (changed["apiVersion"], changed["kind"]) == ("apps/v1", "Deployment")

    serving(tmp_path, test)


def test_scale(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.create(DEPLOYMENTS, "web", **deployment(2))
        path = f"{DEPLOYMENTS}/web/scale"
        _, scale = await client.ask("GET", path)
        assert (scale["kind"], scale["spec"]) == ("Scale", {"replicas": 2})
        assert scale["status"] == {"replicas": 0, "selector": "app=web"}
        _, written = await client.ask("PUT", path, scale | {"spec": {"replicas": 3}})
        assert written["spec"] == {"replicas": 3}
        status, answer = await client.ask("PUT", path, scale | {"spec": {"replicas": 4}})
        assert (status, answer["reason"]) == (409, "Conflict")
        assert (await client.patch(path, {"spec": {"replicas": 0}}))[1]["spec"] == {"replicas": 0}
        status, answer = await client.patch(path, {"spec": {"replicas": -1}})
        assert (status, answer["details"]["causes"][0]["field"]) == (422, "spec.replicas")
        assert (await client.patch(path, {"spec": {"replicas": "many"}}))[0] == 400
        assert (await client.ask("GET", f"{DEPLOYMENTS}/db/scale"))[0] == 404

    serving(tmp_path, test)


def test_a_pods_way_from_a_node_to_its_end(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.create(PODS, "p", **POD)
        path = f"{PODS}/p"
        status, _ = await client.ask("POST", f"{path}/binding", {"target": {"name": "node-1"}})
        assert status == 201
        status, answer = await client.ask("POST", f"{path}/binding", {"target": {"name": "node-2"}})
        assert (status, answer["reason"]) == (409, "Conflict")
        assert 'already assigned to node "node-1"' in answer["message"]
        stranger = {"metadata": {"uid": "other"}, "target": {"name": "node-1"}}
        assert (await client.ask("POST", f"{path}/binding", stranger))[0] == 409
        assert (await client.ask("POST", f"{path}/binding", {}))[0] == 400
        query = {"fieldSelector": "spec.nodeName=node-1"}
        (pod,) = (await client.ask("GET", PODS, params=query))[1]["items"]
        assert pod["status"]["conditions"][0]["type"] == "PodScheduled"
        _, marked = await client.ask("DELETE", path)
        assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
        other = {"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}}
        assert (await client.ask("DELETE", path, other))[0] == 409
        _, gone = await client.ask("DELETE", path, {"gracePeriodSeconds": 0})
        assert (gone["status"], gone["details"]["uid"]) == ("Success", pod["metadata"]["uid"])
        assert (await client.ask("DELETE", path))[0] == 404

    serving(tmp_path, test)


def test_a_namespace_that_ends_takes_nothing_new_and_waits(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.create("/api/v1/namespaces", "a")
        path = "/api/v1/namespaces/a"
        assert (await client.ask("POST", f"{path}/pods", {"metadata": {"generateName": "p-"}, **POD}))[
            0
        ] == 201
        _, marked = await client.ask("DELETE", path)
        assert marked["status"]["phase"] == "Terminating"
        status, answer = await client.ask("POST", f"{path}/pods", {"metadata": {"name": "q"}, **POD})
        assert (status, answer["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")
        _, deleted = await client.ask("DELETE", f"{path}/pods")
        assert len(deleted["items"]) == 1
        assert (await client.ask("GET", f"{path}/pods"))[1]["items"] == []
        _, still = await client.ask("GET", path)
        status, _ = await client.ask("PUT", f"{path}/finalize", still | {"spec": {"finalizers": []}})
        assert status == 200
        assert (await client.ask("GET", path))[0] == 404
        status, answer = await client.ask("POST", f"{path}/pods", {"metadata": {"name": "q"}, **POD})
        assert (status, answer["message"]) == (404, 'namespaces "a" not found')
        assert (await client.ask("DELETE", "/api/v1/namespaces"))[0] == 405

    serving(tmp_path, test)


def test_finalizers_hold_an_object_until_the_last_is_gone(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.create(DEPLOYMENTS, "web", **deployment())
        path = f"{DEPLOYMENTS}/web"
        _, marked = await client.ask("DELETE", path, params={"propagationPolicy": "Foreground"})
        assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]
        status, answer = await client.patch(path, {"metadata": {"finalizers": ["a/b"]}})
        assert (status, answer["reason"]) == (422, "Invalid")
        assert (await client.patch(path, {"metadata": {"finalizers": None}}))[0] == 200
        assert (await client.ask("GET", path))[0] == 404

    serving(tmp_path, test)


def test_events_of_both_kinds_are_one_store_and_the_oldest_go(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        old, new = "/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events"
        await client.create(old, "a", involvedObject={"kind": "Pod", "name": "p"}, message="first")
        await client.create(new, "b", regarding={"kind": "Pod", "name": "p"}, note="second", type="Normal")
        _, listed = await client.ask("GET", old, params={"fieldSelector": "involvedObject.name=p"})
        assert [item["message"] for item in listed["items"]] == ["first", "second"]
        _, listed = await client.ask("GET", new, params={"fieldSelector": "regarding.name=p"})
        assert [item["note"] for item in listed["items"]] == ["first", "second"]
        assert listed["items"][0]["apiVersion"] == "events.k8s.io/v1"
        _, patched = await client.patch(f"{new}/b", {"series": {"count": 2}})
        assert patched["series"] == {"count": 2}
        assert (await client.ask("GET", f"{old}/b"))[1]["series"] == {"count": 2}
        await client.create(old, "c", involvedObject={}, message="third")
        _, listed = await client.ask("GET", old)
        assert [item["message"] for item in listed["items"]] == ["second", "third"]
        await asyncio.gather(*(client.create(old, f"d{number}", involvedObject={}) for number in range(20)))
        assert len((await client.ask("GET", old))[1]["items"]) == 2

    serving(tmp_path, test, events=2)


def test_addresses_are_given_once_however_many_ask_at_a_time(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        made = await asyncio.gather(
            *(client.create(SERVICES, f"s{number}", **service(type="NodePort")) for number in range(40))
        )
        assert len({item["spec"]["clusterIP"] for item in made}) == 40
        assert len({item["spec"]["ports"][0]["nodePort"] for item in made}) == 40
        asked = service(
            type="NodePort", ports=[{"port": 1, "nodePort": made[0]["spec"]["ports"][0]["nodePort"]}]
        )
        status, answer = await client.ask("POST", SERVICES, {"metadata": {"name": "late"}, **asked})
        assert (status, answer["details"]["causes"][0]["field"]) == (422, "spec.ports[0].nodePort")
        await client.ask("DELETE", f"{SERVICES}/s0")
        assert (await client.ask("POST", SERVICES, {"metadata": {"name": "late"}, **asked}))[0] == 201

    serving(tmp_path, test)


def test_fields_that_there_are_not(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        body = {"metadata": {"name": "a"}, **service(foo=1)}
        status, answer = await client.ask("POST", SERVICES, body, params={"fieldValidation": "Strict"})
        assert (status, answer["message"]) == (
            400,
            'Service in version "v1" cannot be handled as a Service: strict decoding error: unknown field '
            '"spec.foo"',
        )
        async with client.session.post(SERVICES, json=body) as told:
            assert told.status == 201
            assert told.headers["Warning"] == '299 - "unknown field \\"spec.foo\\""'
            assert "foo" not in json.loads(await told.read())["spec"]
        async with client.session.put(
            f"{SERVICES}/a", json=body, params={"fieldValidation": "Ignore"}
        ) as silent:
            assert (silent.status, silent.headers.get("Warning")) == (200, None)
        headers = {"Content-Type": "application/merge-patch+json"}
        strict = {"fieldValidation": "Strict"}
        async with client.session.patch(
            f"{SERVICES}/a", data='{"spec": {"bar": 1}}', headers=headers, params=strict
        ) as refused:
            assert refused.status == 422
            said = json.loads(await refused.read())["message"]
            assert said.endswith('strict decoding error: unknown field "spec.bar"')

    serving(tmp_path, test)


def token_of_another_cluster() -> str:
    token = {"version": 10**6, "namespace": "default", "name": "a"}
    return base64.urlsafe_b64encode(json.dumps(token).encode()).decode()


REFUSALS: list[tuple[str, str, Any, int, str]] = [
    ("GET", "/api/v1/secrets", None, 404, "requested resource: this API server has no secrets, only"),
    ("GET", "/apis/batch/v1/namespaces/a/jobs/b", None, 404, "has no jobs, only deployments, endpoints, "),
    ("GET", "/apis/apps/v1/services", None, 404, "the server could not find the requested resource"),
    ("GET", "/nothing", None, 404, "the server could not find the requested resource"),
    ("GET", f"{PODS}/p", None, 404, 'pods "p" not found'),
    ("GET", f"{DEPLOYMENTS}/web", None, 404, 'deployments.apps "web" not found'),
    ("DELETE", f"{SERVICES}/a", None, 404, 'services "a" not found'),
    ("POST", f"{PODS}/p/exec", {}, 405, "userspace-proxy demo exec"),
    ("GET", f"{PODS}/p/nothing", None, 404, "could not find"),
    ("POST", f"{PODS}/p/status", {}, 405, "pods/status has no POST"),
    ("DELETE", f"{DEPLOYMENTS}/web/scale", None, 405, "has no DELETE"),
    ("PATCH", "/api/v1/namespaces/default/finalize", {}, 405, "has no PATCH"),
    ("POST", f"{SERVICES}/a", {}, 405, "does not allow POST"),
    ("PUT", SERVICES, {}, 405, "does not allow PUT"),
    ("POST", "/api/v1/services", {}, 405, "needs a namespace in its path"),
    ("POST", "/version", {}, 404, "could not find"),
    ("POST", SERVICES, [], 400, "must be an object of kind Service"),
    ("POST", SERVICES, {"kind": "Pod"}, 400, "cannot be handled as a Service: the object is a Pod"),
    ("POST", SERVICES, {"apiVersion": "v2"}, 400, "does not match the expected API version (v1)"),
    (
        "POST",
        SERVICES,
        {"metadata": {"namespace": "b"}},
        400,
        "does not match the namespace sent on the request",
    ),
    (
        "POST",
        "/api/v1/nodes",
        {"metadata": {"namespace": "b"}},
        400,
        "namespace is not allowed on this type",
    ),
    ("POST", SERVICES, {"spec": []}, 400, "json: cannot unmarshal array"),
    ("POST", f"{SERVICES}?dryRun=Some", {}, 400, "dryRun is All or nothing"),
    ("POST", f"{SERVICES}?fieldValidation=Some", {}, 400, "fieldValidation is one of"),
    ("PUT", f"{SERVICES}/a", {"metadata": {"name": "b"}}, 400, "does not match the name on the URL"),
    ("DELETE", f"{SERVICES}/a?propagationPolicy=Some", None, 400, "propagationPolicy is one of Background"),
    ("DELETE", f"{SERVICES}/a", {"gracePeriodSeconds": "x"}, 400, "is no DeleteOptions"),
    ("GET", f"{SERVICES}?limit=x", None, 400, "limit must be a number"),
    ("GET", f"{SERVICES}?continue=x", None, 400, "continue key is not valid"),
    ("GET", f"{SERVICES}?continue=e30=", None, 400, "continue key is not valid"),
    ("GET", f"{SERVICES}?continue={token_of_another_cluster()}", None, 410, "list again"),
    ("GET", f"{SERVICES}?labelSelector=a+b", None, 400, "unable to parse requirement"),
]


def test_what_cannot_be_answered_is_said_in_a_status(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        for method, path, body, code, words in REFUSALS:
            status, answer = await client.ask(method, path, body)
            said = (status, answer["kind"], answer["status"], answer["code"])
            assert said == (code, "Status", "Failure", code), (method, path, body)
            assert words in answer["message"]

    serving(tmp_path, test)


def test_bodies_of_other_forms(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        for kind, text, code in (
            ("text/plain", "x", 415),
            ("application/json", "{", 400),
            ("application/json", "[" * 3_000, 400),
            ("application/vnd.kubernetes.protobuf", "x", 400),
            ("application/json", " " * 5_000, 413),
        ):
            async with client.session.post(SERVICES, data=text, headers={"Content-Type": kind}) as answer:
                assert (answer.status, (await answer.json())["kind"]) == (code, "Status")
        for kind in ("application/apply-patch+yaml", "text/plain"):
            async with client.session.patch(
                f"{SERVICES}/a", data="", headers={"Content-Type": kind}
            ) as answer:
                assert answer.status == 415

    serving(tmp_path, test, body_bytes=4_000)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        query = {"dryRun": "All"}
        status, made = await client.ask(
            "POST", SERVICES, {"metadata": {"name": "a"}, **service()}, params=query
        )
        assert (status, made["spec"]["type"]) == (201, "ClusterIP")
        assert (await client.ask("GET", f"{SERVICES}/a"))[0] == 404
        await client.create(SERVICES, "a", **service())
        assert (await client.ask("DELETE", f"{SERVICES}/a", {"dryRun": ["All"]}))[1]["status"] == "Success"
        assert (await client.ask("GET", f"{SERVICES}/a"))[0] == 200

    serving(tmp_path, test)


def test_a_restart_brings_the_cluster_back(tmp_path: Path) -> None:
    versions: list[int] = []

    async def first(client: Client) -> None:
        made = await client.create(SERVICES, "a", **service())
        versions.append(int(made["metadata"]["resourceVersion"]))
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            assert (await client.ask("GET", f"/api/v1/namespaces/{name}"))[0] == 200

    async def second(client: Client) -> None:
        _, listed = await client.ask("GET", SERVICES)
        assert [item["metadata"]["name"] for item in listed["items"]] == ["a"]
        assert int(listed["metadata"]["resourceVersion"]) == versions[0]
        taken = service(clusterIP=listed["items"][0]["spec"]["clusterIP"])
        assert (await client.ask("POST", SERVICES, {"metadata": {"name": "b"}, **taken}))[0] == 422

    serving(tmp_path, first)
    serving(tmp_path, second)


def test_tables_have_what_is_asked_for(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.create(SERVICES, "a", **service())
        headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
        for includes, kind in (("Metadata", "PartialObjectMetadata"), ("Object", "Service"), ("None", None)):
            _, table = await client.ask("GET", SERVICES, headers=headers, params={"includeObject": includes})
            assert table["kind"] == "Table"
            assert table["rows"][0]["cells"][0] == "a"
            assert table["rows"][0].get("object", {}).get("kind") == kind
        async with client.session.get(SERVICES, params={"watch": "1"}, headers=headers) as answer:
            first = json.loads(await answer.content.readline())
            await client.create(SERVICES, "b", **service())
            second = json.loads(await answer.content.readline())
        assert [len(told["object"]["columnDefinitions"]) for told in (first, second)] == [7, 0]

    serving(tmp_path, test)


def test_two_sockets_and_a_database_that_cannot_be_used(tmp_path: Path) -> None:
    async def test() -> None:
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        server = ApiServer(
            database=tmp_path,
            sockets=listening,
            tls=CERTIFICATES.server_context(tmp_path),
            token=TOKEN,
        )
        with pytest.raises(StartupError):
            await server.start()
        assert [each.fileno() for each in listening] == [-1, -1]
        await server.close()

    asyncio.run(test())
