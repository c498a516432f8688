"""A cluster without machines: the demo's API server, its controllers, and kubelets that only say so."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.embedded_api_server import TOKEN, EmbeddedApiServer
from tests.support.waiting import DEADLINE_SECONDS
from userspace_proxy.core.ip_addresses import IPNetwork
from userspace_proxy.demo.api_client import ApiClient, ApiError
from userspace_proxy.demo.api_resources import NODES, PODS, JsonObject, timestamp
from userspace_proxy.demo.controllers.cluster_controllers import run_controllers
from userspace_proxy.demo.controllers.load_balancers import Announcement
from userspace_proxy.demo.controllers.node_lifecycle import NodePatience
from userspace_proxy.demo.mirror import Mirror


def now() -> str:
    return timestamp(datetime.now(UTC))


@dataclass
class FakeKubelets:
    """Says of each pod that has a node that it runs and is ready; of one that shall end that it has."""

    client: ApiClient
    nodes: Sequence[str]
    silent: set[str] = field(default_factory=set)
    pods: Mirror[JsonObject] = field(init=False)

    def __post_init__(self) -> None:
        self.pods = Mirror(self.client, PODS)

    async def run(self) -> None:
        changed = asyncio.Event()
        self.pods.subscribe(changed.set)
        addresses = itertools.count(1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.pods.run())
            tasks.create_task(self._heartbeats())
            while True:
                changed.clear()
                for pod in list(self.pods.objects.values()):
                    node = pod["spec"].get("nodeName")
                    if node in self.nodes and node not in self.silent:
                        await self._look_after(pod, addresses)
                await changed.wait()

    async def _look_after(self, pod: JsonObject, addresses: Any) -> None:
        metadata = pod["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        try:
            if "deletionTimestamp" in metadata:
                await self.client.delete(PODS, namespace, name, grace_seconds=0)
            elif not pod["status"].get("podIP"):
                ip = f"10.244.0.{next(addresses)}"
                condition = {"type": "Ready", "status": "True", "lastTransitionTime": now()}
                status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]}
                await self.client.patch(PODS, namespace, name, {"status": status}, subresource="status")
        except ApiError as error:
            assert error.is_not_found or error.is_conflict, error

    async def _heartbeats(self) -> None:
        while True:
            for name in self.nodes:
                if name not in self.silent:
                    condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": now()}
                    status = {"status": {"conditions": [condition]}}
                    try:
                        await self.client.patch(NODES, None, name, status, subresource="status")
                    except ApiError as error:
                        assert error.is_not_found, error
            await asyncio.sleep(0.5)


@dataclass
class FakeCluster:
    server: EmbeddedApiServer
    client: ApiClient
    kubelets: FakeKubelets
    announced: Announcement = field(default_factory=dict)

    async def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return await asyncio.to_thread(self.server.kubectl, *arguments, stdin=stdin)

    async def announce(self, announcement: Announcement) -> None:
        self.announced = announcement

    async def running_pods(self, selector: str = "") -> list[JsonObject]:
        return [
            pod
            for pod in await self.client.list(PODS, label_selector=selector)
            if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]


async def until(condition: Callable[[], Any]) -> Any:
    """What `condition`, or what it awaits, is at last; it may find that something is not there yet."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            try:
                held = condition()
                if asyncio.iscoroutine(held):
                    held = await held
            except (ApiError, LookupError):
                held = None
            if held:
                return held
            await asyncio.sleep(0.02)


@asynccontextmanager
async def fake_cluster(
    folder: Path, *, nodes: int = 3, pools: Sequence[IPNetwork] = (), patience: NodePatience | None = None
) -> AsyncIterator[FakeCluster]:
    with EmbeddedApiServer(folder) as server:
        tls = server.certificates.client_context()
        async with ApiClient(server.url, token=TOKEN, tls=tls) as client:
            names = [f"node-{number}" for number in range(1, nodes + 1)]
            for name in names:
                await client.create(NODES, None, {"metadata": {"name": name}})
            cluster = FakeCluster(server, client, FakeKubelets(client, names))
            tasks = [
                asyncio.create_task(cluster.kubelets.run()),
                asyncio.create_task(
                    run_controllers(
                        client,
                        pools=pools,
                        announce=cluster.announce,
                        patience=patience or NodePatience(),
                    )
                ),
            ]
            try:
                yield cluster
            finally:
                for task in tasks:
                    assert not task.done(), task.exception()
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
