"""What the tour does to objects of its cluster: as `kubectl` is told it, and as the request that it is."""

from __future__ import annotations

import asyncio
import base64
import json
import shlex
import shutil
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from userspace_proxy.demo.api_client import ApiClient, ApiError, PatchType
from userspace_proxy.demo.api_resources import DEPLOYMENTS, PODS, SERVICES, JsonObject

NAMESPACE: Final = "default"
_KUBECTL_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Action:
    """A change: the arguments of `kubectl`, and the same as a request to the API server."""

    kubectl: tuple[str, ...]
    method: str
    path: str
    body: JsonObject
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Done:
    """How an action was asked for, in the words of who did it, and what came of it."""

    command: str
    said: str


def create_deployment(name: str, replicas: int) -> Action:
    """Pods of the demo's own server, without a readiness probe."""
    labels = {"app": name}
    container = {"name": "built-in", "image": "built-in", "ports": [{"containerPort": 8080}]}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }
    arguments = f"create deployment {name} --image built-in --port 8080 --replicas {replicas}"
    return Action(tuple(arguments.split()), "POST", DEPLOYMENTS.path(NAMESPACE), body)


def expose(deployment: str, name: str, type_: str) -> Action:
    """A Service on port 80 of that type for a Deployment's pods."""
    spec = {"type": type_, "selector": {"app": deployment}, "ports": [{"port": 80, "targetPort": 8080}]}
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    arguments = f"expose deployment {deployment} --name {name} --type {type_} --port 80 --target-port 8080"
    return Action(tuple(arguments.split()), "POST", SERVICES.path(NAMESPACE), body)


def annotate(pod: str, annotations: Mapping[str, str | None]) -> Action:
    """Set annotations of a pod; None takes one away."""
    words = [f"{key}-" if value is None else f"{key}={value}" for key, value in annotations.items()]
    return _patch(
        ("annotate", "pod", pod, *words),
        PODS.path(NAMESPACE, pod),
        {"metadata": {"annotations": dict(annotations)}},
    )


def restart(deployment: str, now: str) -> Action:
    """Replace every pod of a Deployment by a new one, as a new version would; `now` marks them."""
    template = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}
    return _patch(
        ("rollout", "restart", "deployment", deployment),
        DEPLOYMENTS.path(NAMESPACE, deployment),
        {"spec": {"template": template}},
    )


def _patch(kubectl: tuple[str, ...], path: str, body: JsonObject) -> Action:
    return Action(kubectl, "PATCH", path, body, PatchType.STRATEGIC.value)


class Api:
    """The API server that a kubeconfig of the demo leads to; `kubectl` is used where it is there.

    What `kubectl` would leave in the user's home goes to `kubectl_cache`.
    """

    def __init__(self, kubeconfig: Path, *, kubectl_cache: Path) -> None:
        self._kubectl_cache = kubectl_cache
        self.kubectl = shutil.which("kubectl")
        self._kubeconfig = kubeconfig

    def perform(self, action: Action) -> Done:
        """Have it done. What the server refuses is said, not raised: the next claim is not so then."""
        if self.kubectl is None:
            return Done(f"{action.method} {action.path}", self._request(action) or "done")
        completed = subprocess.run(
            [
                self.kubectl,
                f"--kubeconfig={self._kubeconfig}",
                f"--cache-dir={self._kubectl_cache}",
                *action.kubectl,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_KUBECTL_SECONDS,
        )
        return Done(shlex.join(("kubectl", *action.kubectl)), completed.stdout + completed.stderr)

    def service(self, name: str) -> JsonObject:
        """A Service as it is; empty if it cannot be had."""

        async def get() -> JsonObject:
            async with self._client() as client:
                return await client.get(SERVICES, NAMESPACE, name)

        try:
            return asyncio.run(get())
        except ApiError:
            return {}

    def _request(self, action: Action) -> str:
        async def send() -> None:
            async with self._client() as client:
                await client.request(
                    action.method, action.path, body=action.body, content_type=action.content_type
                )

        try:
            asyncio.run(send())
        except ApiError as error:
            return str(error)
        return ""

    def _client(self) -> ApiClient:
        config: dict[str, Any] = json.loads(self._kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        return ApiClient(
            cluster["server"], token=user["token"], tls=ssl.create_default_context(cadata=authority)
        )
