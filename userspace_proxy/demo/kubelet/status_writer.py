"""Tells the API server how a pod is, and in the end that it is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NoReturn

from userspace_proxy.core.back_off import doubled_seconds
from userspace_proxy.demo.api_client import ApiClient, ApiError
from userspace_proxy.demo.api_resources import PODS, JsonObject
from userspace_proxy.demo.kubelet.pod_life import PodLife
from userspace_proxy.demo.kubelet.pod_status import pod_status

_FIRST_RETRY_SECONDS: Final = 0.2
_LONGEST_RETRY_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class StatusWriter:
    """One pod's. It writes what differs from what it wrote last, and insists where it gets no answer.

    It writes again where the object says otherwise whether the pod is ready: others do when its node is lost.
    """

    def __init__(
        self, life: PodLife, client: ApiClient, host_addresses: Sequence[str], now: Callable[[], float]
    ) -> None:
        self._life = life
        self._client = client
        self._host_addresses = host_addresses
        self._now = now
        self._written: JsonObject | None = None
        self._may_have_changed = asyncio.Event()
        self._is_writing = asyncio.Lock()

    def may_have_changed(self) -> None:
        """Have the status looked at soon."""
        self._may_have_changed.set()

    async def run(self) -> NoReturn:
        """Write the status whenever it has changed."""
        while True:
            await self._may_have_changed.wait()
            self._may_have_changed.clear()
            await self._insist(self._write, "A status cannot be written")

    async def delete_pod(self) -> None:
        """Have the object deleted, once its last status stands there."""
        await self._insist(self._write, "A status cannot be written")
        await self._insist(self._delete, "A pod cannot be deleted")

    async def _insist(self, step: Callable[[], Awaitable[None]], failed: str) -> None:
        """Take a step until it is taken, or refused for good.

        Where another pod has the name by now (a conflict) the mirror says so soon, and that ends all of this.
        """
        failures = 0
        while True:
            try:
                return await step()
            except ApiError as error:
                if error.is_not_found:
                    return None
                if error.is_final:
                    _log.warning("%s: pod=%s why=%s", failed, self._life.pod.key, error)
                    return None
                failures += 1
                if failures == 1:
                    _log.info("%s, it is tried again: pod=%s why=%s", failed, self._life.pod.key, error)
            await asyncio.sleep(doubled_seconds(_FIRST_RETRY_SECONDS, failures, _LONGEST_RETRY_SECONDS))

    async def _write(self) -> None:
        async with self._is_writing:
            if self._life.was_final:
                return
            pod = self._life.pod
            written = self._written
            is_contradicted = written is not None and _readiness(pod.status) != _readiness(written)
            previous = pod.status if written is None or is_contradicted else written
            status = pod_status(self._life, self._host_addresses, previous, self._now())
            if status == written and not is_contradicted:
                return
            body = {"metadata": {"uid": pod.metadata.uid}, "status": status}
            await self._client.patch(
                PODS, pod.metadata.namespace, pod.metadata.name, body, subresource="status"
            )
            self._written = status

    async def _delete(self) -> None:
        metadata = self._life.pod.metadata
        await self._client.delete(PODS, metadata.namespace, metadata.name, uid=metadata.uid, grace_seconds=0)


def _readiness(status: JsonObject) -> str | None:
    """What a status says of whether the pod is ready."""
    conditions = status.get("conditions") or ()
    return next((each.get("status") for each in conditions if each.get("type") == "Ready"), None)
