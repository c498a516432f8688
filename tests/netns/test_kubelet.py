"""A node's pods from end to end: the demo's API server, its network, and the kubelet between them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support.waiting import DEADLINE_SECONDS
from userspace_proxy.demo.api_client import ApiClient, ApiError
from userspace_proxy.demo.api_resources import EVENTS, LEASES, NODES, PODS, JsonObject
from userspace_proxy.demo.api_server import ApiServer
from userspace_proxy.demo.api_server.certificates import Certificates
from userspace_proxy.demo.cluster_network import ClusterNetwork
from userspace_proxy.demo.cluster_node import Node
from userspace_proxy.demo.kubelet.container_logs import LogOptions
from userspace_proxy.demo.kubelet.kubelet import Kubelet, LogUnavailableError
from userspace_proxy.demo.kubelet.node_object import NodeDescription
from userspace_proxy.demo.kubelet.pod_spec import BLACK_HOLE, READY, REFUSE
from userspace_proxy.demo.kubelet.processes import Processes

TOKEN = "token-of-the-tests"
FAST = {"periodSeconds": 1, "timeoutSeconds": 5}


class Cluster:
    """One node with a kubelet, and an API server that can be taken down and brought back."""

    def __init__(self, folder: Path, node: Node) -> None:
        self.node = node
        self._folder = folder
        self._certificates = Certificates.make(["127.0.0.1"])
        self._port = 0
        self._server: ApiServer | None = None
        self.client: ApiClient
        self.kubelet: Kubelet

    async def start_server(self) -> None:
        listening = socket.create_server(("127.0.0.1", self._port))
        self._port = listening.getsockname()[1]
        self._server = ApiServer(
            database=self._folder / "cluster.sqlite",
            sockets=[listening],
            tls=self._certificates.server_context(self._folder),
            token=TOKEN,
        )
        await self._server.start()

    async def stop_server(self) -> None:
        assert self._server is not None
        await self._server.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.start_server()
        description = NodeDescription("node-1", self.node.own.addresses, self.node.own.pod_cidrs)
        url = f"https://127.0.0.1:{self._port}"
        tls = self._certificates.client_context()
        async with ApiClient(url, token=TOKEN, tls=tls) as self.client, Processes() as processes:
            self.kubelet = Kubelet(description, self.client, self.node, processes, self._folder / "logs")
            runs = asyncio.create_task(self.kubelet.run())
            try:
                yield
            finally:
                runs.cancel()
                with suppress(asyncio.CancelledError):
                    await runs
                await self.stop_server()

    async def create(self, name: str, *, container: JsonObject | None = None, **spec: Any) -> None:
        """A pod on the node, of one container."""
        metadata = {"name": name, "namespace": "default"}
        containers = [{"name": "web", "image": "nginx:1.27", **(container or {})}]
        body = {"metadata": metadata, "spec": {"containers": containers, "nodeName": "node-1", **spec}}
        await self.client.create(PODS, "default", {"apiVersion": "v1", "kind": "Pod", **body})

    async def get(self, name: str) -> JsonObject | None:
        try:
            return await self.client.get(PODS, "default", name)
        except ApiError as error:
            if error.is_not_found:
                return None
            raise

    async def until(self, name: str, condition: Callable[[JsonObject], object]) -> JsonObject:
        """Wait until the pod is as `condition` says."""
        pod: JsonObject | None = None
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (pod := await self.get(name)) is None or not condition(pod):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"it stays {pod}")
        return pod

    async def node_once(self, condition: Callable[[JsonObject], object]) -> JsonObject:
        """Wait until the Node is as `condition` says."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                with suppress(ApiError):
                    node = await self.client.get(NODES, None, "node-1")
                    if condition(node):
                        return node
                await asyncio.sleep(0.02)

    async def until_gone(self, name: str) -> None:
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            while await self.get(name) is not None:
                await asyncio.sleep(0.02)

    async def events(self, name: str) -> dict[str, str]:
        """Reasons by messages."""
        found = await self.client.list(EVENTS, "default", field_selector=f"involvedObject.name={name}")
        return {event["message"]: event["reason"] for event in found}

    async def until_event(self, name: str, message: str) -> None:
        """Wait until an event says `message`."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while message not in await self.events(name):
                await asyncio.sleep(0.02)

    async def ask(self, pod: JsonObject, path: str = "/", index: int = 0, seconds: int = 20) -> str:
        """What curl on the node says within `seconds`, or why it failed."""
        address = pod["status"]["podIPs"][index]["ip"]
        host = f"[{address}]" if ":" in address else address
        argv = ("curl", "-sS", "--max-time", str(seconds), f"http://{host}:8080{path}")
        done = await asyncio.to_thread(self.node.sandbox.run, *argv, check=False)
        return done.stdout or done.stderr

    async def annotate(self, name: str, key: str, value: str | None) -> None:
        await self.client.patch(PODS, "default", name, {"metadata": {"annotations": {key: value}}})

    async def log(self, name: str, **options: Any) -> str:
        pieces = self.kubelet.log_of("default", name, "", LogOptions(**options))
        return b"".join([piece async for piece in pieces]).decode()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module")
def cluster(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ClusterNetwork(["node-1"], ipv6=True, resolv_conf=lambda _: "") as network:
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), network.nodes["node-1"])
        running = cluster.running()
        runner.run(running.__aenter__())
        yield cluster
        runner.run(running.__aexit__(None, None, None))


def run(runner: asyncio.Runner, scene: Coroutine[Any, Any, None]) -> None:
    runner.run(asyncio.wait_for(scene, 4 * DEADLINE_SECONDS))


def conditions(pod: JsonObject) -> dict[str, str]:
    return {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions", ())}


def is_ready(pod: JsonObject) -> bool:
    return conditions(pod).get("Ready") == "True"


def container(pod: JsonObject) -> JsonObject:
    statuses: list[JsonObject] = pod["status"].get("containerStatuses") or [{}]
    return statuses[0]


def pids(cluster: Cluster, name: str) -> list[int]:
    return cluster.node.pods[f"default/{name}"].pids()


def test_node_is_there_and_ready(runner: asyncio.Runner, cluster: Cluster) -> None:
    async def scene() -> None:
        node = await cluster.node_once(lambda node: conditions(node).get("Ready") == "True")
        assert node["spec"]["podCIDRs"] == ["10.244.1.0/24", "fd00:10:244:1::/64"]
        assert node["status"]["addresses"][0] == {"type": "InternalIP", "address": "192.0.2.11"}
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await cluster.client.list(LEASES, "kube-node-lease"):
                await asyncio.sleep(0.02)

    run(runner, scene())


def test_pod_that_is_bound_later_is_run(runner: asyncio.Runner, cluster: Cluster) -> None:
    async def scene() -> None:
        await cluster.create("bound", nodeName="")
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": "bound"},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "node-1"},
        }
        await cluster.client.create(PODS, "default", binding, name="bound", subresource="binding")
        await cluster.until("bound", is_ready)
        await cluster.client.delete(PODS, "default", "bound", grace_seconds=0)
        await cluster.until_gone("bound")

    run(runner, scene())


def test_pod_serves_says_who_it_is_and_ends_when_deleted(runner: asyncio.Runner, cluster: Cluster) -> None:
    async def scene() -> None:
        await cluster.create("plain")
        pod = await cluster.until("plain", is_ready)
        assert pod["status"]["phase"] == "Running"
        assert pod["status"]["hostIP"] == "192.0.2.11"
        for index in (0, 1):
            said = await cluster.ask(pod, "/hello", index)
            assert said.startswith("plain here, in default on node-1, image nginx:1.27. You are ")
        assert "GET /hello 200" in await cluster.log("plain")
        await cluster.client.delete(PODS, "default", "plain")
        await cluster.until_gone("plain")
        assert "default/plain" not in cluster.node.pods
        assert {"Started", "Killing"} <= set((await cluster.events("plain")).values())
        with pytest.raises(LogUnavailableError, match="does not run on this node"):
            await cluster.log("plain")

    run(runner, scene())


def test_command_has_its_environment_and_leaves_a_status_and_a_log(
    runner: asyncio.Runner, cluster: Cluster
) -> None:
    script = 'echo "$NAME at $IP runs in $PWD on $(hostname)"; echo bye >&2; exit 3'
    field = {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    address = {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    command = {"command": ["sh", "-c"], "args": [script], "env": [field, address], "workingDir": "/usr"}

    async def scene() -> None:
        await cluster.create("job", container=command, restartPolicy="Never")
        pod = await cluster.until("job", lambda pod: pod["status"]["phase"] == "Failed")
        ended = container(pod)["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (3, "Error")
        ip = pod["status"]["podIP"]
        assert await cluster.log("job") == f"job at {ip} runs in /usr on job\nbye\n"
        assert await cluster.log("job", tail_lines=1) == "bye\n"
        await cluster.client.delete(PODS, "default", "job")
        await cluster.until_gone("job")

    run(runner, scene())


def test_killed_pod_is_restarted_and_then_waits_longer(runner: asyncio.Runner, cluster: Cluster) -> None:
    async def scene() -> None:
        await cluster.create("killed")
        await cluster.until("killed", is_ready)
        (pid,) = await asyncio.to_thread(pids, cluster, "killed")
        os.kill(pid, signal.SIGKILL)
        pod = await cluster.until("killed", lambda pod: container(pod)["restartCount"] == 1 and is_ready(pod))
        assert container(pod)["lastState"]["terminated"]["exitCode"] == 137
        assert "killed serves" in await cluster.log("killed", previous=True)
        assert cluster.kubelet.kill("default", "killed")
        await cluster.until("killed", lambda pod: not is_ready(pod))
        pod = await cluster.until(
            "killed",
            lambda pod: container(pod)["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff",
        )
        assert "Couldn't connect" in await cluster.ask(pod), "its address is there, and refuses"
        await cluster.until_event("killed", "Back-off restarting failed container web")
        await cluster.client.delete(PODS, "default", "killed", grace_seconds=0)
        await cluster.until_gone("killed")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while "default/killed" in cluster.node.pods:
                await asyncio.sleep(0.02)

    run(runner, scene())


def test_program_that_does_not_exist_is_named(runner: asyncio.Runner, cluster: Cluster) -> None:
    async def scene() -> None:
        await cluster.create(
            "typo", container={"command": ["ngimx"]}, volumes=[{"name": "data", "emptyDir": {}}]
        )
        await cluster.until("typo", lambda pod: container(pod).get("restartCount", 0) > 0)
        await cluster.until_event("typo", 'Error: exec: "ngimx": no such program on this machine')
        await cluster.until_event("typo", "This cluster goes on without: spec.volumes[0] (data)")
        await cluster.client.delete(PODS, "default", "typo")
        await cluster.until_gone("typo")

    run(runner, scene())


def test_probes_and_levers_decide_about_ready(runner: asyncio.Runner, cluster: Cluster) -> None:
    probe = {"httpGet": {"path": "/", "port": 8080}, **FAST, "timeoutSeconds": 1, "failureThreshold": 1}

    async def scene() -> None:
        await cluster.create("probed", container={"readinessProbe": probe})
        pod = await cluster.until("probed", is_ready)
        await cluster.annotate("probed", READY, "false")
        pod = await cluster.until("probed", lambda pod: not is_ready(pod))
        assert not container(pod)["ready"]
        await cluster.annotate("probed", READY, None)
        await cluster.until("probed", is_ready)
        await cluster.annotate("probed", BLACK_HOLE, "true")
        pod = await cluster.until("probed", lambda pod: not is_ready(pod))
        assert "timed out" in await cluster.ask(pod, seconds=1)
        await cluster.until_event("probed", "Readiness probe failed: no answer within 1 s")
        await cluster.annotate("probed", REFUSE, "true")
        await cluster.annotate("probed", BLACK_HOLE, None)
        await cluster.until_event("probed", "Readiness probe failed: connection refused")
        assert "Couldn't connect" in await cluster.ask(pod)
        await cluster.annotate("probed", REFUSE, None)
        await cluster.until("probed", is_ready)
        assert "probed here" in await cluster.ask(pod)
        await cluster.client.delete(PODS, "default", "probed", grace_seconds=0)
        await cluster.until_gone("probed")

    run(runner, scene())


def test_init_container_and_hook_run_in_the_pod(
    runner: asyncio.Runner, cluster: Cluster, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    init = {"name": "init", "image": "x", "command": ["sh", "-c", f"echo init $(hostname) >> {said}"]}
    hook = {"preStop": {"exec": {"command": ["sh", "-c", f"echo hook $(hostname) >> {said}"]}}}
    sleep = {"command": ["sleep", "600"], "lifecycle": hook}

    async def scene() -> None:
        await cluster.create("hooked", container=sleep, initContainers=[init])
        pod = await cluster.until("hooked", is_ready)
        assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"
        await cluster.client.delete(PODS, "default", "hooked")
        await cluster.until_gone("hooked")

    run(runner, scene())
    assert said.read_text() == "init hooked\nhook hooked\n"


def test_pods_survive_a_restart_of_the_api_server(runner: asyncio.Runner, cluster: Cluster) -> None:
    async def scene() -> None:
        await cluster.create("stays")
        pod = await cluster.until("stays", is_ready)
        await cluster.create("goes")
        await cluster.until("goes", is_ready)
        before = await asyncio.to_thread(pids, cluster, "stays")
        await cluster.stop_server()
        assert "stays here" in await cluster.ask(pod)
        os.kill((await asyncio.to_thread(pids, cluster, "goes"))[0], signal.SIGKILL)
        await cluster.start_server()
        await cluster.until("goes", lambda pod: container(pod)["restartCount"] == 1)
        await cluster.client.delete(PODS, "default", "goes", grace_seconds=0)
        await cluster.until_gone("goes")
        assert await asyncio.to_thread(pids, cluster, "stays") == before
        await cluster.client.delete(PODS, "default", "stays", grace_seconds=0)
        await cluster.until_gone("stays")

    run(runner, scene())


def test_pod_of_the_same_name_waits_for_the_one_before(runner: asyncio.Runner, cluster: Cluster) -> None:
    async def scene() -> None:
        await cluster.create("twice")
        first = await cluster.until("twice", is_ready)
        await cluster.client.delete(PODS, "default", "twice", grace_seconds=0)
        await cluster.create("twice")
        second = await cluster.until("twice", is_ready)
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        assert second["status"]["podIP"] != first["status"]["podIP"]
        assert "twice here" in await cluster.ask(second)
        await cluster.client.delete(PODS, "default", "twice", grace_seconds=0)
        await cluster.until_gone("twice")

    run(runner, scene())
