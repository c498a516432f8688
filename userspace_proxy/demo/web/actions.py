"""What one may do on the page. Each is a change of the API's objects, as kubectl would make it."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from userspace_proxy.demo.api_client import ApiClient
from userspace_proxy.demo.api_resources import DEPLOYMENTS, PODS, SERVICES, JsonObject
from userspace_proxy.demo.kubelet.pod_spec import BLACK_HOLE, KILL, READY
from userspace_proxy.demo.web.admission import is_object
from userspace_proxy.demo.web.load import Load, aim_at
from userspace_proxy.errors import UsageError

MOST_REPLICAS: Final = 30


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something is to be so, or not."""

    on: bool


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    replicas: int


class Sending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many requests a second to a Service, `namespace/name`."""

    service: str
    per_second: int = msgspec.field(name="perSecond")


class Actions:
    """Raises `ApiError` for what the API server refuses, `UsageError` for what is none of its business."""

    def __init__(self, client: ApiClient, load: Load) -> None:
        self._client = client
        self._load = load

    async def kill(self, namespace: str, name: str) -> None:
        """Kill a pod's processes, without a warning; its kubelet starts them again."""
        await self._annotate(namespace, name, KILL, str(time.time_ns()))

    async def make_ready(self, namespace: str, name: str, wanted: Switch) -> None:
        """Have a pod not be ready, whatever its probes say, or as they say."""
        await self._annotate(namespace, name, READY, None if wanted.on else "false")

    async def black_hole(self, namespace: str, name: str, wanted: Switch) -> None:
        """Have all be lost that is sent to a pod, or not."""
        await self._annotate(namespace, name, BLACK_HOLE, "true" if wanted.on else None)

    async def scale(self, namespace: str, name: str, wanted: Scale) -> None:
        """Have a Deployment have so many pods."""
        if not 0 <= wanted.replicas <= MOST_REPLICAS:
            raise UsageError(f"a Deployment is scaled from here to 0 to {MOST_REPLICAS} pods")
        await self._client.patch(DEPLOYMENTS, namespace, name, {"spec": {"replicas": wanted.replicas}})

    async def send(self, wanted: Sending) -> None:
        """Send so many requests a second to a Service."""
        if wanted.per_second <= 0:
            self._load.send(None, 0)
            return
        if not is_object(wanted.service):
            raise UsageError(f"{wanted.service!r} is no Service: it is to be like default/web")
        namespace, _, name = wanted.service.partition("/")
        aim = aim_at(await self._client.get(SERVICES, namespace, name))
        if aim is None:
            raise UsageError(f"{wanted.service} has no clusterIP and TCP port to send requests to")
        self._load.send(aim, wanted.per_second)

    async def _annotate(self, namespace: str, name: str, key: str, value: str | None) -> None:
        change: JsonObject = {"metadata": {"annotations": {key: value}}}
        await self._client.patch(PODS, namespace, name, change)
