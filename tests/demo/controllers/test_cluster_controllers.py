"""The controllers together, over HTTP, against the demo's API server and by kubectl."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import uvloop

from tests.demo.controllers.cluster import FakeCluster, fake_cluster, until
from tests.support.waiting import DEADLINE_SECONDS
from userspace_proxy.demo.api_client import ApiError
from userspace_proxy.demo.api_resources import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
)
from userspace_proxy.demo.controllers.node_lifecycle import NodePatience

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: main, image: one, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
"""


def run(folder: Path, scene: Callable[[FakeCluster], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with fake_cluster(folder, **options) as cluster:
            await scene(cluster)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 5 * DEADLINE_SECONDS))


def test_a_deployment_its_service_and_their_end(tmp_path: Path) -> None:
    async def scene(cluster: FakeCluster) -> None:
        client = cluster.client
        await cluster.kubectl("apply", "-f", "-", stdin=WEB)
        assert "successfully rolled out" in await cluster.kubectl(
            "rollout", "status", "deployment/web", "--timeout=50s"
        )
        pods = await cluster.running_pods()
        assert Counter(pod["spec"]["nodeName"] for pod in pods) == {"node-1": 1, "node-2": 1, "node-3": 1}

        addresses = {pod["status"]["podIP"] for pod in pods}

        async def slices_are(expected: set[str]) -> bool:
            found = await client.list(ENDPOINT_SLICES, label_selector="kubernetes.io/service-name=web")
            ready = [
                endpoint["addresses"][0]
                for slice_ in found
                for endpoint in slice_.get("endpoints") or ()
                if endpoint["conditions"]["ready"]
            ]
            return sorted(ready) == sorted(expected)

        async def endpoints_are(expected: set[str]) -> bool:
            (subset,) = (await client.get(ENDPOINTS, "default", "web"))["subsets"]
            return {address["ip"] for address in subset["addresses"]} == expected

        await until(lambda: slices_are(addresses))
        await until(lambda: endpoints_are(addresses))
        await until(lambda: cluster.announced == {"192.0.2.1": {"node-1", "node-2", "node-3"}})
        service = await client.get(SERVICES, "default", "web")
        assert service["status"]["loadBalancer"]["ingress"] == [{"ip": "192.0.2.1", "ipMode": "VIP"}]

        await cluster.kubectl("set", "image", "deployment/web", "main=two")
        await cluster.kubectl("rollout", "status", "deployment/web", "--timeout=50s")
        await until(lambda: _images(cluster, ["two"] * 3))
        described = await until(lambda: _described(cluster, "deployment/web", "Deleted pod"))
        assert "deployment.kubernetes.io/revision: 2" in described
        assert "Created pod: web-" in described

        await cluster.kubectl("scale", "deployment/web", "--replicas=1")
        await until(lambda: _images(cluster, ["two"]))
        (pod,) = await cluster.running_pods()
        await until(lambda: slices_are({pod["status"]["podIP"]}))

        await cluster.kubectl("delete", "service/web", "deployment/web", "--wait=false")
        await until(lambda: _nothing_left(cluster))
        await until(lambda: cluster.announced == {})

    run(tmp_path, scene, pools=[ip_network("192.0.2.0/28")])


async def _images(cluster: FakeCluster, expected: list[str]) -> bool:
    pods = await cluster.client.list(PODS)
    return sorted(pod["spec"]["containers"][0]["image"] for pod in pods) == expected


async def _described(cluster: FakeCluster, what: str, word: str) -> str:
    said = await cluster.kubectl("describe", what)
    return said if word in said else ""


async def _nothing_left(cluster: FakeCluster, namespace: str = "default") -> bool:
    return not [
        item
        for resource in (PODS, ENDPOINT_SLICES, ENDPOINTS, SERVICES, DEPLOYMENTS)
        for item in await cluster.client.list(resource, namespace)
    ]


def test_deleting_a_deployment_can_wait_for_its_pods_or_leave_them(tmp_path: Path) -> None:
    async def scene(cluster: FakeCluster) -> None:
        deployment = WEB.partition("---")[0]
        await cluster.kubectl("apply", "-f", "-", stdin=deployment)
        await cluster.kubectl("rollout", "status", "deployment/web", "--timeout=50s")
        await cluster.kubectl("delete", "deployment/web", "--cascade=foreground", "--timeout=50s")
        assert not await cluster.client.list(PODS)
        await cluster.kubectl("apply", "-f", "-", stdin=deployment)
        await cluster.kubectl("rollout", "status", "deployment/web", "--timeout=50s")
        await cluster.kubectl("delete", "deployment/web", "--cascade=orphan", "--timeout=50s")
        pods = await cluster.running_pods()
        assert len(pods) == 3
        assert not any("ownerReferences" in pod["metadata"] for pod in pods)

    run(tmp_path, scene)


def test_a_pod_that_no_node_can_have_says_why_and_goes_where_it_can(tmp_path: Path) -> None:
    async def scene(cluster: FakeCluster) -> None:
        pod = {
            "metadata": {"name": "picky"},
            "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "main", "image": "x"}]},
        }
        await cluster.client.create(PODS, "default", pod)
        await until(lambda: _described(cluster, "pod/picky", "FailedScheduling"))
        await cluster.kubectl("label", "node/node-2", "disk=ssd")
        (running,) = await until(lambda: cluster.running_pods())
        assert running["spec"]["nodeName"] == "node-2"
        said = await until(lambda: _described(cluster, "pod/picky", "Scheduled"))
        assert "Successfully assigned default/picky to node-2" in said

    run(tmp_path, scene)


def test_a_node_that_falls_silent_loses_its_pods_to_others(tmp_path: Path) -> None:
    async def scene(cluster: FakeCluster) -> None:
        await cluster.kubectl("apply", "-f", "-", stdin=WEB)
        await cluster.kubectl("rollout", "status", "deployment/web", "--timeout=50s")
        cluster.kubelets.silent.add("node-2")

        async def lost() -> bool:
            conditions = (await cluster.client.get(NODES, None, "node-2"))["status"]["conditions"]
            return any(each["status"] == "Unknown" for each in conditions if each["type"] == "Ready")

        async def elsewhere() -> bool:
            nodes = Counter(pod["spec"]["nodeName"] for pod in await cluster.running_pods())
            return nodes.total() == 3 and "node-2" not in nodes

        await until(lost)
        await until(elsewhere)
        # The pods there end only when their kubelet, or nobody, can say so.
        assert any(pod["spec"]["nodeName"] == "node-2" for pod in await cluster.client.list(PODS))
        await cluster.client.delete(NODES, None, "node-2")
        await until(lambda: _pods_number(cluster, 3))

    run(tmp_path, scene, patience=NodePatience(grace_seconds=4, eviction_seconds=0))


async def _pods_number(cluster: FakeCluster, number: int) -> bool:
    return len(await cluster.client.list(PODS)) == number


def test_a_namespace_goes_after_all_that_is_in_it(tmp_path: Path) -> None:
    async def scene(cluster: FakeCluster) -> None:
        await cluster.client.create(NAMESPACES, None, {"metadata": {"name": "shop"}})
        await cluster.kubectl("apply", "-n", "shop", "-f", "-", stdin=WEB)
        await cluster.kubectl("rollout", "status", "-n", "shop", "deployment/web", "--timeout=50s")
        await cluster.kubectl("delete", "namespace/shop", "--timeout=60s")
        try:
            await cluster.client.get(NAMESPACES, None, "shop")
        except ApiError as error:
            assert error.is_not_found
        assert await _nothing_left(cluster, "shop")

    run(tmp_path, scene)
