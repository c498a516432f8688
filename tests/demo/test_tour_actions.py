"""What the tour does to objects is the same, whether `kubectl` does it or the API is asked."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded_api_server import TOKEN, EmbeddedApiServer
from userspace_proxy.demo import tour_actions
from userspace_proxy.demo.api_client import ApiClient
from userspace_proxy.demo.api_resources import DEPLOYMENTS, PODS
from userspace_proxy.demo.tour_actions import Api

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "one"},
    "spec": {"containers": [{"name": "one", "image": "built-in"}]},
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedApiServer]:
    with EmbeddedApiServer(tmp_path) as server:
        yield server


@pytest.mark.parametrize("by_kubectl", [False, True])
def test_an_action_does_what_it_says(server: EmbeddedApiServer, tmp_path: Path, by_kubectl: bool) -> None:
    if by_kubectl and shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    client = ApiClient(server.url, token=TOKEN, tls=server.certificates.client_context())

    async def create_pod() -> None:
        async with client:
            await client.create(PODS, "default", POD)

    async def read() -> tuple[dict[str, Any], dict[str, Any]]:
        async with client:
            deployment = await client.get(DEPLOYMENTS, "default", "hello")
            return deployment, await client.get(PODS, "default", "one")

    asyncio.run(create_pod())
    api = Api(server.kubeconfig, kubectl_cache=tmp_path / "cache")
    if not by_kubectl:
        api.kubectl = None
    for action in (
        tour_actions.create_deployment("hello", 2),
        tour_actions.expose("hello", "front", "LoadBalancer"),
        tour_actions.annotate("one", {"a/b": "c", "d": "e"}),
        tour_actions.annotate("one", {"d": None}),
        tour_actions.restart("hello", "now"),
    ):
        done = api.perform(action)
        assert "rror" not in done.said, done
        assert done.command.startswith("kubectl " if by_kubectl else ("POST /api", "PATCH /api"))

    deployment, pod = asyncio.run(read())
    template = deployment["spec"]["template"]
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"] == {"app": "hello"}
    assert template["spec"]["containers"][0]["ports"][0]["containerPort"] == 8080
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]
    service = api.service("front")
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["selector"] == {"app": "hello"}
    assert (service["spec"]["ports"][0]["port"], service["spec"]["ports"][0]["targetPort"]) == (80, 8080)
    assert pod["metadata"]["annotations"] == {"a/b": "c"}


def test_what_is_refused_is_said(server: EmbeddedApiServer, tmp_path: Path) -> None:
    api = Api(server.kubeconfig, kubectl_cache=tmp_path / "cache")
    api.kubectl = None
    assert 'pods "nobody" not found' in api.perform(tour_actions.annotate("nobody", {"a": "b"})).said
    assert api.service("nobody") == {}
